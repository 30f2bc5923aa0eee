"""Philox and its normal numbers: known answers, and the same bits from PyTorch, NumPy and C++."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.backends import cpp
from lsp_fast.errors import BackendUnavailable
from lsp_fast.ops import philox
from lsp_fast.ops.types import PlanKey

try:
    ISAS = cpp.instruction_sets()
except BackendUnavailable:
    ISAS = ()

KEY = torch.tensor([0xA4093822, 0x299F31D0])

# Random123's kat_vectors for philox4x32-10: counter, key, result.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def numpy_philox(counter, key):
    """The same in unsigned 64-bit numbers."""
    c, k = [np.asarray(x, np.uint64) for x in counter], [int(x) for x in key]
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> high) ^ c[1] ^ np.uint64(k[0]), b & low, (a >> high) ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def numpy_box_muller(a, b):
    """The polynomials in float32, as in lsp_fast.ops.philox."""
    f = np.float32
    m, e = np.frexp(((a >> np.uint64(8)) + np.uint64(1)).astype(f))
    large = m > f(0.70710678)
    m, e = np.where(large, m, m * f(2)), np.where(large, e, e - 1)
    e, x = (e - 24).astype(f), m - f(1)
    z, p = x * x, np.full_like(x, 7.0376836292e-2)
    for c in (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1):
        p = p * x + f(c)
    p = (p * x + f(-2.4999993993e-1)) * x + f(3.3333331174e-1)
    p = (p * x * z + e * f(-2.12194440e-4)) - z * f(0.5)
    radius = np.sqrt((e * f(0.693359375) + (x + p)) * f(-2))
    word = (b >> np.uint64(8)).astype(np.int64)
    quarter = (word + 0x200000) >> 22
    angle = (word - (quarter << 22)).astype(f) * f(2**-22) * f(1.57079632679)
    w = angle * angle
    s = ((w * f(-1.9515295891e-4) + f(8.3321608736e-3)) * w - f(1.6666654611e-1)) * w * angle + angle
    c = (w * f(2.443315711809948e-5) - f(1.388731625493765e-3)) * w + f(4.166664568298827e-2)
    c = c * w * w - w * f(0.5) + f(1)
    turned = quarter % 2 == 1
    cosine, sine = np.where(turned, s, c), np.where(turned, c, s)
    cosine = np.where((quarter + 1) & 2 == 2, -cosine, cosine)
    return radius * cosine, radius * np.where(quarter & 2 == 2, -sine, sine)


def numpy_normals(key, stream, first_step, steps, rows, columns):
    blocks = -(-columns // 4)
    t, r, c = np.meshgrid(np.arange(first_step, first_step + steps), np.arange(rows), np.arange(blocks), indexing="ij")
    words = numpy_philox((c, r, t, np.full_like(c, stream)), key)
    numbers = np.stack([*numpy_box_muller(*words[:2]), *numpy_box_muller(*words[2:])], -1)
    return numbers.reshape(steps, rows, 4 * blocks)[..., :columns]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter, key, result):
    words = philox.philox(tuple(torch.tensor([c]) for c in counter), torch.tensor(key))
    assert [w.item() for w in words] == result
    assert [int(w) for w in numpy_philox(counter, key)] == result


def test_normal_numbers_are_box_and_mullers():
    a, b = (torch.randint(2**32, (20000,), generator=torch.Generator().manual_seed(i)) for i in range(2))
    a[:3], b[:6] = torch.tensor([0, 2**32 - 1, 2**31]), torch.arange(6) * 2**29
    got = torch.stack(philox.box_muller(a, b))
    u, t = ((a >> 8) + 1).double() / 2**24, (b >> 8).double() / 2**24
    exact = (-2 * u.log()).sqrt() * torch.stack([(2 * torch.pi * t).cos(), (2 * torch.pi * t).sin()])
    assert (got - exact).abs().max() < 1e-6
    assert got[:, 1].abs().max() == 0  # u = 1


def test_they_are_standard_normal_and_differ_between_streams_steps_and_rows():
    x = philox.normals(KEY, philox.STOCH, 0, 20, 500, 30).double()
    assert x.mean().abs() < 0.01 and abs(x.std() - 1) < 0.01
    assert (x**3).mean().abs() < 0.02 and abs((x**4).mean() - 3) < 0.05
    others = [
        philox.normals(KEY, philox.ACTION, 0, 20, 500, 30),
        philox.normals(KEY.flip(0), philox.STOCH, 0, 20, 500, 30),
        x.roll(1, 0),
        x.roll(1, 1),
        x.roll(1, 2),
    ]
    assert all((x * other).mean().abs() < 0.01 for other in others)


def test_a_number_depends_on_its_counter_alone():
    whole = philox.normals(KEY, 1, 0, 6, 20, 10)
    assert torch.equal(philox.normals(KEY, 1, 2, 3, 7, 5), whole[2:5, :7, :5])


@settings(deadline=None, max_examples=60)
@given(
    key=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2),
    stream=st.integers(0, 2**32 - 1),
    first_step=st.integers(0, 2**32 - 5),
    steps=st.integers(0, 4),
    rows=st.sampled_from([0, 1, 15, 16, 17, 40]),
    columns=st.sampled_from([0, 1, 3, 4, 5, 33, 70]),
)
def test_the_same_bits_everywhere(key, stream, first_step, steps, rows, columns):
    arguments = torch.tensor(key), stream, first_step, steps, rows, columns
    expected = philox.normals(*arguments)
    assert expected.shape == (steps, rows, columns) and expected.dtype == torch.float32
    np.testing.assert_array_equal(expected, numpy_normals(key, *arguments[1:]))
    for isa in ISAS:
        assert torch.equal(cpp.normals(*arguments, isa=isa), expected), isa


def test_a_plans_noise_has_the_contracts_shapes():
    noise = philox.plan_noise(PlanKey(KEY, 2, 5, 4, True, False), 3, 6, 2, 1, 3)
    assert noise.candidates.shape == (2, 3, 5, 1, 3)
    assert noise.stoch.shape == (2, 4, 15, 6) and noise.action.shape == (2, 4, 15, 2)
    shared = philox.plan_noise(PlanKey(KEY, 2, 5, 4, False, True), 3, 6, 2, 1, 3)
    assert shared.stoch.shape == (2, 4, 3, 6) and shared.action is None
    assert torch.equal(shared.candidates, noise.candidates)
    assert torch.equal(shared.stoch, noise.stoch[:, :, :3])
    means = philox.plan_noise(PlanKey(KEY, 2, 5, 4, True, False, True), 3, 6, 2, 1, 3)
    assert means.stoch.shape == (2, 4, 3, 6) and not means.stoch.any() and means.action is None
    assert torch.equal(means.candidates, noise.candidates)


@pytest.mark.skipif(not ISAS, reason="the extension is not there")
@pytest.mark.parametrize(
    ("change", "named"),
    [({0: torch.tensor([1])}, "two words"), ({0: torch.tensor([1, -1])}, "words must"), ({3: -1}, "2\\*\\*32")],
)
def test_what_does_not_fit_is_named(change, named):
    arguments = [KEY, 0, 0, 1, 2, 3]
    for at, value in change.items():
        arguments[at] = value
    with pytest.raises(ValueError, match=named):
        cpp.normals(*arguments)
