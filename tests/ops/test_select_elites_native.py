"""The C++ select_elites against a NumPy loop written here from the contract."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from lsp_fast.backends import cpp
from lsp_fast.errors import BackendUnavailable

TOLERANCE = {np.float32: 1e-6, np.float64: 1e-13}


@pytest.fixture(scope="module", autouse=True)
def extension():
    return cpp.load()


def loop(values, plans, num_elites, mean, std, floor=1e-6):
    """The contract, one state and one elite at a time, in float64."""
    new_mean, new_std = mean.astype(np.float64), std.astype(np.float64)
    indices = np.full((len(values), num_elites), -1, np.int64)
    for n, row in enumerate(values):
        ranked = sorted((-value, g) for g, value in enumerate(row.tolist()) if not math.isnan(value))
        elites = [g for _, g in ranked][:num_elites]
        indices[n, : len(elites)] = elites
        if elites:
            chosen = plans[n, elites].astype(np.float64)
            new_mean[n] = chosen.sum(0) / len(elites)
            new_std[n] = np.sqrt(((chosen - new_mean[n]) ** 2).sum(0) / len(elites) + floor)
    return new_mean, new_std, indices


def problem(shape, dtype, seed=0):
    """Values with ties, plans and a distribution for N, G, P, Z = shape."""
    rng = np.random.default_rng(seed)
    n, g, p, z = shape
    values = rng.integers(-3, 4, (n, g)).astype(dtype)  # few distinct values: many ties
    return values, *(rng.normal(size=s).astype(dtype) for s in ((n, g, p, z), (n, p, z), (n, p, z)))


def check(values, plans, num_elites, mean, std, **kwargs):
    wanted = loop(values, plans, num_elites, mean, std, **kwargs)
    got = cpp.select_elites(
        *map(torch.from_numpy, (values, plans)), num_elites, *map(torch.from_numpy, (mean, std)), **kwargs
    )
    tolerance = TOLERANCE[values.dtype.type]
    np.testing.assert_array_equal(got[2].numpy(), wanted[2])
    assert got[2].dtype == torch.int64
    for result, reference in zip(got[:2], wanted[:2], strict=True):
        assert result.numpy().dtype == values.dtype
        np.testing.assert_allclose(result.numpy(), reference, rtol=tolerance, atol=tolerance)
    return got


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "num_elites"),
    [
        ((1, 1, 1, 1), 1),
        ((7, 16, 1, 3), 4),
        ((5, 13, 3, 5), 11),
        ((3, 9, 4, 2), 9),  # M = G: the sample mean
        ((2, 1000, 12, 6), 100),
        ((0, 16, 1, 3), 4),  # no states
        ((4, 16, 0, 3), 4),  # no skills
    ],
)
def test_equals_the_loop(shape, num_elites, dtype):
    check(*problem(shape, dtype)[:2], num_elites, *problem(shape, dtype)[2:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nans_infinities_and_ties(dtype):
    values, plans, mean, std = problem((6, 8, 2, 3), dtype)
    nan, inf = np.nan, np.inf
    values[0] = [nan, 1, nan, 1, 1, nan, 0, 1]
    values[1] = [inf, -inf, nan, inf, 0, -inf, inf, nan]
    values[2] = nan
    values[3] = [nan, nan, -inf, nan, nan, inf, nan, nan]  # fewer than M are left
    values[4] = -inf
    values[5] = [0.0, -0.0, 0.0, -0.0, -1, -1, -1, -1]  # both zeros are equal
    new_mean, new_std, indices = check(values, plans, 4, mean, std)
    assert indices.tolist() == [[1, 3, 4, 7], [0, 3, 6, 4], [-1] * 4, [5, 2, -1, -1], [0, 1, 2, 3], [0, 1, 2, 3]]
    # A row without elites keeps its distribution to the bit.
    assert np.array_equal(new_mean[2].numpy(), mean[2]) and np.array_equal(new_std[2].numpy(), std[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("candidates", [15, 16, 17, 63, 64, 65, 130])  # of at most 64 every pair is compared
def test_ties_and_nans_whichever_way_they_are_chosen(candidates, dtype):
    values, plans, mean, std = problem((40, candidates, 1, 2), dtype)
    rng = np.random.default_rng(candidates)
    values[:] = rng.choice([np.nan, -np.inf, np.inf, 0.0, -0.0, 1.0, 2.0], values.shape)
    values[:5] = rng.normal(size=(5, candidates))
    for num_elites in (1, candidates // 2, candidates):
        check(values, plans, num_elites, mean, std)


def test_plans_of_candidates_that_lose_do_not_matter():
    values, plans, mean, std = problem((1, 4, 1, 2), np.float32)
    values[0] = [3, np.nan, 2, 1]
    plans[0, 1] = np.nan
    plans[0, 3] = np.inf
    new_mean, new_std, _ = check(values, plans, 2, mean, std)
    assert new_mean.isfinite().all() and new_std.isfinite().all()


@pytest.mark.parametrize("floor", [0.0, 1e-6, 0.5])
def test_floor(floor):
    values, plans, mean, std = problem((3, 5, 2, 2), np.float64)
    plans[:] = 1.5
    _, new_std, _ = check(values, plans, 3, mean, std, floor=floor)
    assert np.allclose(new_std.numpy(), math.sqrt(floor), rtol=1e-15)


def test_variance_survives_a_large_mean():
    # One pass, E[x^2] - E[x]^2, would lose everything here.
    values, plans, mean, std = problem((2, 16, 1, 3), np.float64)
    check(values, plans + 1e6, 4, mean, std)
    values, plans, mean, std = (a.astype(np.float32) for a in (values, plans + 4096, mean, std))
    check(values, plans, 4, mean, std)


def test_strided_tensors_are_taken_and_gradients_refused():
    values, plans, mean, std = map(torch.from_numpy, problem((3, 8, 2, 4), np.float64))
    wanted = cpp.select_elites(values, plans, 3, mean, std)
    strided = plans.transpose(0, 3).contiguous().transpose(0, 3)
    assert not strided.is_contiguous()
    got = cpp.select_elites(values, strided, 3, mean, std)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    strided.requires_grad_()
    with pytest.raises(ValueError, match="plans requires a gradient"):
        cpp.select_elites(values, strided, 3, mean, std)
    with torch.no_grad():
        assert torch.equal(cpp.select_elites(values, strided, 3, mean, std)[0], wanted[0])
    # The extension itself copies strides away, too.
    arrays = [t.detach().numpy() for t in (values, strided, mean, std)]
    raw = cpp.load().select_elites(*arrays[:2], 3, *arrays[2:])
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(raw, wanted, strict=True))


def test_inputs_are_not_written():
    arrays = problem((3, 8, 2, 4), np.float32)
    copies = [a.copy() for a in arrays]
    new_mean, new_std, _ = cpp.select_elites(*map(torch.from_numpy, arrays[:2]), 3, *map(torch.from_numpy, arrays[2:]))
    new_mean.zero_(), new_std.zero_()
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


GOOD = {"values": (3, 8), "plans": (3, 8, 2, 4), "num_elites": 3, "mean": (3, 2, 4), "std": (3, 2, 4)}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("values", (3, 8, 1)),
        ("values", (24,)),
        ("values", (3, 0)),
        ("plans", (3, 8, 8)),
        ("plans", (3, 7, 2, 4)),
        ("plans", (2, 8, 2, 4)),
        ("mean", (3, 4, 2)),
        ("mean", (1, 2, 4)),
        ("std", (3, 8)),
        ("std", (3, 2, 5)),
        ("num_elites", 0),
        ("num_elites", -1),
        ("num_elites", 9),
    ],
)
def test_what_does_not_fit_is_a_value_error(name, bad):
    arguments = {key: np.zeros(v, np.float32) if isinstance(v, tuple) else v for key, v in (GOOD | {name: bad}).items()}
    # An empty row of values is first seen in the plans that no longer fit it.
    named = "plans" if (name, bad) == ("values", (3, 0)) else name
    shape = arguments[named].shape if named != "num_elites" else bad
    with pytest.raises(ValueError, match=named) as error:
        cpp.load().select_elites(**arguments)
    assert str(shape) in str(error.value)


def test_dtypes():
    def arguments(**dtypes):
        return {k: np.zeros(v, dtypes.get(k, np.float32)) if isinstance(v, tuple) else v for k, v in GOOD.items()}

    for name in ("plans", "mean", "std"):
        with pytest.raises(ValueError, match=rf"{name} \(float64"):
            cpp.load().select_elites(**arguments(**{name: np.float64}))
    with pytest.raises(ValueError, match=r"values \(int64"):
        cpp.load().select_elites(**arguments(values=np.int64))
    with pytest.raises(ValueError, match=r"^values"):
        cpp.load().select_elites(**(arguments() | {"values": object()}))
    tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arguments().items()}
    with pytest.raises(ValueError, match=r"plans \(torch.bfloat16"):
        cpp.select_elites(**(tensors | {"plans": tensors["plans"].bfloat16()}))
    with pytest.raises(ValueError, match="values"):
        cpp.select_elites(**(tensors | {"values": tensors["values"].to("meta")}))


def test_a_missing_extension_says_why(tmp_path, monkeypatch):
    log = tmp_path / "_native_build.log"
    log.write_text("first line\n" + "filler\n" * 50 + "the compiler's last word\n")
    monkeypatch.setattr(cpp, "BUILD_LOG", log)
    monkeypatch.setitem(sys.modules, "lsp_fast._native", None)  # the import system then raises ImportError
    cpp.load.cache_clear()
    try:
        with pytest.raises(BackendUnavailable, match="the compiler's last word") as error:
            cpp.load()
        assert isinstance(error.value.__cause__, ImportError)
        assert "_native" in str(error.value) and "first line" not in str(error.value)
        log.unlink()
        with pytest.raises(BackendUnavailable, match="No build log"):
            cpp.load()
    finally:
        cpp.load.cache_clear()


def test_importing_the_wrapper_does_not_load_the_extension():
    code = "import sys, lsp_fast.backends.cpp; sys.exit('lsp_fast._native' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
