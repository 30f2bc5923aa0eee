"""Choosing and refitting elites against the oracle, and its tie and NaN rules (SPEC sections 4 and 6)."""

import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.ops import select_elites

NAN, INF = math.nan, math.inf
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def population(n, g, p, z, seed=0):
    """values [N, G], plans [N, G, P, Z], mean and std [N, P, Z], float64 arrays."""
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=(n, p, z)), rng.uniform(0.1, 2.0, size=(n, p, z))
    plans = mean[:, None] + std[:, None] * rng.normal(size=(n, g, p, z))
    return rng.normal(size=(n, g)), plans, mean, std


def run(values, plans, num_elites, mean, std, dtype=torch.float64, **kwargs):
    values, plans, mean, std = (torch.tensor(np.asarray(x), dtype=dtype) for x in (values, plans, mean, std))
    return select_elites(values, plans, num_elites, mean, std, **kwargs)


def check(values, plans, num_elites, mean, std, dtype=torch.float64, **kwargs):
    got = run(values, plans, num_elites, mean, std, dtype, **kwargs)
    want = oracle.select_elites(values, plans, num_elites, mean, std, **kwargs)
    assert [x.dtype for x in got] == [dtype, dtype, torch.int64]
    np.testing.assert_array_equal(got[2], want[2])
    np.testing.assert_allclose(got[0], want[0], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(got[1], want[1], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("n", "g", "p", "z", "m"),
    [
        (2500, 16, 1, 3, 4),
        (1, 1, 1, 1, 1),
        (3, 5, 1, 1, 5),
        (7, 16, 4, 3, 1),
        (2, 1000, 12, 6, 100),
        (5, 33, 2, 7, 13),
        (0, 16, 1, 3, 4),
        (1, 2, 1, 3, 1),
    ],
)
def test_equals_the_oracle(n, g, p, z, m, dtype):
    values, plans, mean, std = population(n, g, p, z)
    # Both sides see the same, rounded, values, so that the order is the same.
    values = values.astype(np.float32).astype(np.float64)
    check(values, plans, m, mean, std, dtype)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_equals_the_oracle_with_ties_nan_and_infinities(data):
    n, g, p, z = (data.draw(st.integers(1, k)) for k in (4, 12, 3, 4))
    m = data.draw(st.integers(1, g))
    value = st.sampled_from([-INF, -1.0, -0.0, 0.0, 1.0, 2.0, INF, NAN, NAN])
    values = np.array(data.draw(st.lists(st.lists(value, min_size=g, max_size=g), min_size=n, max_size=n)))
    _, plans, mean, std = population(n, g, p, z, data.draw(st.integers(0, 1000)))
    check(values, plans, m, mean, std, data.draw(st.sampled_from([torch.float64, torch.float32])))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1, 3, 2, 0], [1, 2]),
        ([1, 1, 1, 1], [0, 1]),
        ([0, 2, 1, 2], [1, 3]),
        ([2, 1, 2, 2], [0, 2]),
        ([NAN, 2, NAN, 3], [3, 1]),
        ([-NAN, 2, NAN, 3], [3, 1]),
        ([NAN, NAN, 1, NAN], [2, -1]),
        ([NAN, NAN, NAN, NAN], [-1, -1]),
        ([INF, 5, INF, NAN], [0, 2]),
        ([-INF, NAN, -INF, NAN], [0, 2]),
        ([NAN, -INF, NAN, NAN], [1, -1]),
        ([NAN, NAN, -INF, -5], [3, 2]),
        ([-INF, NAN, 1, -INF], [2, 0]),
        ([0.0, -0.0, -1, -1], [0, 1]),
        ([-0.0, 0.0, -1, -1], [0, 1]),
        ([-1, -0.0, 0.0, NAN], [1, 2]),
    ],
)
def test_ties_infinities_and_nan(values, want, dtype):
    plans = np.array([1.0, 3.0, 7.0, 10.0]).reshape(1, 4, 1, 1)
    mean, std, indices = run([values], plans, 2, [[[5.5]]], [[[0.25]]], dtype, floor=0.0)
    assert indices[0].tolist() == want
    chosen = [plans[0, g, 0, 0] for g in want if g >= 0]
    assert mean.item() == (np.mean(chosen) if chosen else 5.5)
    assert std.item() == (np.std(chosen) if chosen else 0.25)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_infinities_are_beyond_every_finite_value(dtype):
    largest = torch.finfo(dtype).max
    _, plans, mean, std = population(1, 6, 1, 1)
    values = [-INF, -largest, largest, INF, NAN, 0.0]
    assert run([values], plans, 6, mean, std, dtype)[2].tolist() == [[3, 2, 5, 1, 0, -1]]


def test_many_equal_values_keep_their_order():
    # Long enough for a sort that is stable on short rows only.
    for g in (17, 64, 1000, 5000):
        _, plans, mean, std = population(2, g, 1, 1)
        _, _, indices = run(np.zeros((2, g)), plans, g, mean, std)
        assert indices.tolist() == [list(range(g))] * 2


def test_distribution_stays_to_the_bit_without_candidates():
    values, plans, mean, std = population(3, 6, 2, 3)
    values[1] = NAN
    new_mean, new_std, indices = run(values, plans, 4, mean, std)
    assert torch.equal(new_mean[1], torch.tensor(mean[1]))
    assert torch.equal(new_std[1], torch.tensor(std[1]))
    assert indices.tolist()[1] == [-1] * 4
    assert not torch.equal(new_mean[0], torch.tensor(mean[0]))


def test_plans_of_the_rejected_do_not_matter():
    values, plans, mean, std = population(3, 8, 2, 3)
    values[0, :6] = NAN
    want = run(values, plans, 3, mean, std)
    poisoned = plans.copy()
    for n in range(3):
        for g in set(range(8)) - set(want[2][n].tolist()):
            poisoned[n, g] = [[NAN, INF, -INF]] * 2
    got = run(values, poisoned, 3, mean, std)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@settings(deadline=None, max_examples=50)
@given(
    values=st.lists(st.integers(-20, 20), min_size=9, max_size=9),
    m=st.integers(1, 9),
    name=st.sampled_from(["affine", "cube", "exp", "tanh"]),
)
def test_strictly_increasing_transforms_change_nothing(values, m, name):
    transform = {
        "affine": lambda v: 3.0 * v - 7.0,
        "cube": lambda v: v**3,
        "exp": np.exp,
        "tanh": lambda v: np.tanh(v / 20.0),
    }[name]
    _, plans, mean, std = population(1, 9, 2, 3)
    values = np.array([values], dtype=np.float64)
    want, got = (run(v, plans, m, mean, std) for v in (values, transform(values)))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@settings(deadline=None, max_examples=50)
@given(permutation=st.permutations(range(9)), m=st.integers(1, 9))
def test_order_of_candidates_does_not_matter(permutation, m):
    permutation = list(permutation)
    values, plans, mean, std = population(2, 9, 2, 3)
    want_mean, want_std, want = run(values, plans, m, mean, std)
    got_mean, got_std, got = run(values[:, permutation], plans[:, permutation], m, mean, std)
    assert torch.equal(torch.tensor(permutation)[got], want)
    np.testing.assert_allclose(got_mean, want_mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got_std, want_std, rtol=1e-12)


def test_all_candidates_elite_is_the_sample_mean_and_population_variance():
    values, plans, mean, std = population(4, 7, 2, 3)
    new_mean, new_std, _ = run(values, plans, 7, mean, std)
    np.testing.assert_allclose(new_mean, plans.mean(1), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(new_std, np.sqrt(plans.var(1) + 1e-6), rtol=1e-12)


def test_states_do_not_mix():
    args = population(6, 8, 2, 3)
    want = run(*args[:2], 3, *args[2:])
    for n in range(6):
        values, plans, mean, std = (x[n : n + 1] for x in args)
        mean, std, indices = run(values, plans, 3, mean, std)
        assert torch.equal(indices, want[2][n : n + 1])
        np.testing.assert_allclose(mean, want[0][n : n + 1], rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(std, want[1][n : n + 1], rtol=1e-13)


def test_floor():
    values, plans, mean, std = population(2, 5, 1, 3)
    assert torch.all(run(values, plans, 1, mean, std, floor=0.0)[1] == 0)
    np.testing.assert_allclose(run(values, plans, 1, mean, std)[1], 1e-3, rtol=1e-12)


def test_variance_survives_a_large_mean_in_float32():
    # E[x²] - E[x]² would lose everything here.
    values, _, mean, std = population(2, 16, 1, 3)
    plans = (4096.0 + np.arange(16.0) / 8).reshape(1, 16, 1, 1) * np.ones((2, 16, 1, 3))
    values = values.astype(np.float32)
    got = run(values, plans, 4, mean, std, torch.float32)
    want = oracle.select_elites(values, plans, 4, mean, std)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-3)


def test_strides_do_not_matter_and_inputs_stay():
    args = [torch.tensor(x) for x in population(3, 6, 2, 3)]
    before = [x.clone() for x in args]
    values, plans, mean, std = (x.transpose(0, -1).contiguous().transpose(0, -1) for x in args)
    got, want = select_elites(values, plans, 2, mean, std), select_elites(*args[:2], 2, *args[2:])
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(args, before, strict=True))


@pytest.mark.parametrize(
    ("shapes", "m"),
    [
        (((2, 5), (2, 4, 1, 3), (2, 1, 3), (2, 1, 3)), 2),
        (((2, 5), (2, 5, 3), (2, 1, 3), (2, 1, 3)), 2),
        (((5,), (5, 1, 3), (1, 3), (1, 3)), 2),
        (((2, 5), (2, 5, 1, 3), (2, 3), (2, 1, 3)), 2),
        (((2, 5), (2, 5, 1, 3), (2, 1, 3), (1, 1, 3)), 2),
        (((2, 5), (2, 5, 1, 3), (2, 1, 3), (2, 1, 3)), 0),
        (((2, 5), (2, 5, 1, 3), (2, 1, 3), (2, 1, 3)), 6),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(shapes, m):
    values, plans, mean, std = (torch.zeros(s) for s in shapes)
    with pytest.raises(ValueError, match="elites"):
        select_elites(values, plans, m, mean, std)
