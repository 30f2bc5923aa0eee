"""The λ-return against the oracle, closed forms and finite differences (SPEC sections 3 and 6)."""

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.ops import lambda_return

SHAPES = [(1,), (2,), (15,), (1, 1), (2, 3), (15, 2500), (33, 7), (9, 2, 3), (3, 0), (4, 1, 5, 2)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def inputs(shape, seed=0):
    """rewards, values, discounts [T, ...] and bootstrap [...], float64 arrays."""
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, *shape))
    return rewards, values, rng.uniform(0.0, 1.0, size=shape), rng.normal(size=shape[1:])


def tensors(arrays, dtype=torch.float64):
    return [torch.tensor(x, dtype=dtype) for x in arrays]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_oracle(shape, lam, dtype):
    args = inputs(shape)
    got = lambda_return(*tensors(args, dtype), lam)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, oracle.lambda_return(*args, lam), rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    lam=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_equals_the_oracle_whatever_the_shape(shape, lam, seed):
    args = inputs(shape, seed)
    got = lambda_return(*tensors(args), lam)
    np.testing.assert_allclose(got, oracle.lambda_return(*args, lam), rtol=1e-11, atol=1e-12)


def test_by_hand():
    rewards, values, discounts = tensors(([1, 2, 3], [100, 4, 6], [0.5, 1, 0.5]))
    # R2 = 3 + 8/2 = 7; R1 = 2 + (6/2 + 7/2) = 8.5; R0 = 1 + (4/2 + 8.5/2) / 2 = 4.125.
    got = lambda_return(rewards, values, discounts, torch.tensor(8.0, dtype=torch.float64), 0.5)
    assert got.tolist() == [4.125, 8.5, 7.0]


def test_lambda_one_is_the_discounted_sum_plus_bootstrap():
    rewards, values, _, bootstrap = inputs((12, 4))
    gamma = 0.97
    got = lambda_return(*tensors((rewards, values, np.full((12, 4), gamma), bootstrap)), 1.0)
    for t in range(12):
        want = sum(gamma ** (k - t) * rewards[k] for k in range(t, 12)) + gamma ** (12 - t) * bootstrap
        np.testing.assert_allclose(got[t], want, rtol=1e-12, atol=1e-12)


def test_lambda_zero_is_the_one_step_target():
    rewards, values, discounts, bootstrap = inputs((12, 4))
    got = lambda_return(*tensors((rewards, values, discounts, bootstrap)), 0.0)
    np.testing.assert_allclose(got, rewards + discounts * np.concatenate([values[1:], bootstrap[None]]), rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.4, 0.95, 1.0])
def test_constant_reward_and_its_value_is_a_fixed_point(lam):
    gamma, reward = 0.99, 1.7
    full = lambda x, *shape: torch.full(shape, x, dtype=torch.float64)  # noqa: E731
    value = reward / (1 - gamma)
    got = lambda_return(full(reward, 15, 3), full(value, 15, 3), full(gamma, 15, 3), full(value, 3), lam)
    np.testing.assert_allclose(got, value, rtol=1e-12)


def test_zero_discount_cuts_the_future():
    rewards, values, discounts, bootstrap = inputs((6, 2))
    discounts[3] = 0.0
    got = lambda_return(*tensors((rewards, values, discounts, bootstrap)), 0.95)
    changed = [x.copy() for x in (rewards, values, discounts, bootstrap)]
    for x in changed[:3]:
        x[4:] += 1.0
    again = lambda_return(*tensors(changed), 0.95)
    assert torch.equal(got[:4], again[:4])
    np.testing.assert_array_equal(got[3], rewards[3])


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(1,), (1, 2), (5, 3), (4, 2, 2)], ids=str)
def test_gradients_against_finite_differences(shape, lam):
    args = [x.requires_grad_() for x in tensors(inputs(shape))]
    assert torch.autograd.gradcheck(lambda *a: lambda_return(*a, lam), args)
    assert torch.autograd.gradgradcheck(lambda *a: lambda_return(*a, lam), args)


def test_first_value_gets_no_gradient():
    args = [x.requires_grad_() for x in tensors(inputs((5, 3)))]
    lambda_return(*args, 0.95).sum().backward()
    assert torch.all(args[1].grad[0] == 0)
    assert torch.all(args[1].grad[1:] != 0)


def test_columns_do_not_mix():
    rewards, values, discounts, bootstrap = inputs((6, 5))
    rewards[4, 2] = np.nan
    got = lambda_return(*tensors((rewards, values, discounts, bootstrap)), 0.95).numpy()
    want = np.zeros((6, 5), dtype=bool)
    want[:5, 2] = True
    np.testing.assert_array_equal(np.isnan(got), want)


def test_strides_do_not_matter_and_inputs_stay():
    args = tensors(inputs((6, 5)))
    before = [x.clone() for x in args]
    transposed = [x.T.contiguous().T for x in args[:3]]
    broadcast = args[2][:1, :1].expand(6, 5)
    assert torch.equal(lambda_return(*args, 0.9), lambda_return(*transposed, args[3], 0.9))
    assert torch.equal(
        lambda_return(args[0], args[1], broadcast, args[3], 0.9),
        lambda_return(args[0], args[1], broadcast.contiguous(), args[3], 0.9),
    )
    assert all(torch.equal(a, b) for a, b in zip(args, before, strict=True))


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 2), (2, 2), (3, 2), (2,)),
        ((3, 2), (3, 2), (3, 1), (2,)),
        ((3, 2), (3, 2), (3, 2), (3,)),
        ((3, 2), (3, 2), (3, 2), ()),
        ((0, 2), (0, 2), (0, 2), (2,)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match="lambda_return"):
        lambda_return(*(torch.zeros(s) for s in shapes), 0.95)
