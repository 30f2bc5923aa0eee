"""`lambda_return` in C++ equals its reference to the bit, gradients included."""

import oracle
import pytest
import torch

from lsp_fast import backends, ops
from lsp_fast.backends import cpp

SHAPES = [(1,), (1, 1), (2, 5), (9, 513), (10, 1024), (3, 1500), (4, 3, 7), (3, 0), (5, 2, 0)]


def draw(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]
    return [*inputs, torch.randn(shape[1:], generator=generator, dtype=dtype)]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """What a kernel leaves out stays NaN."""
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda x: empty_like(x).fill_(torch.nan))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_returns_are_the_references_to_the_bit(shape, dtype, lam):
    inputs = draw(shape, dtype)
    assert torch.equal(cpp.lambda_return(*inputs, lam), ops.lambda_return(*inputs, lam))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_gradients_are_the_references_to_the_bit(shape, lam):
    for dtype in (torch.float64, torch.float32):
        inputs = [x.requires_grad_() for x in draw(shape, dtype)]
        grad = torch.randn(shape, dtype=dtype)
        wanted = torch.autograd.grad(ops.lambda_return(*inputs, lam), inputs, grad, materialize_grads=True)
        actual = torch.autograd.grad(cpp.lambda_return(*inputs, lam), inputs, grad)
        assert all(torch.equal(a, b) for a, b in zip(actual, wanted, strict=True))


def test_gradients_against_finite_differences():
    inputs = [x.requires_grad_() for x in draw((4, 3), torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: cpp.lambda_return(*x, 0.9), inputs)


def test_float32_is_as_near_to_the_oracle_as_the_reference():
    inputs = draw((15, 200))
    exact = torch.from_numpy(oracle.lambda_return(*(x.double().numpy() for x in inputs), 0.95))
    ours, theirs = ((f(*inputs, 0.95).double() - exact).abs().max() for f in (cpp.lambda_return, ops.lambda_return))
    assert ours <= theirs


def test_only_what_is_asked_for_is_differentiated():
    for asked in range(4):
        inputs = draw((3, 5))
        inputs[asked].requires_grad_()
        (grad,) = torch.autograd.grad(cpp.lambda_return(*inputs, 0.9).sum(), inputs[asked])
        (wanted,) = torch.autograd.grad(ops.lambda_return(*inputs, 0.9).sum(), inputs[asked], materialize_grads=True)
        torch.testing.assert_close(grad, wanted)
    with torch.no_grad():
        assert not cpp.lambda_return(*inputs, 0.9).requires_grad


def test_strided_and_expanded_inputs():
    rewards, values, _, bootstrap = draw((6, 4, 2))
    discounts = torch.tensor(0.99).expand(6, 4)
    inputs = [rewards[..., 0], values[..., 1], discounts, bootstrap[..., 0]]
    for x in (inputs[0], inputs[1], inputs[3]):
        x.requires_grad_()
    expected, actual = ops.lambda_return(*inputs, 0.95), cpp.lambda_return(*inputs, 0.95)
    assert torch.equal(actual, expected)
    tracked = [inputs[0], inputs[1], inputs[3]]
    grads = (torch.autograd.grad(x.sum(), tracked, materialize_grads=True) for x in (actual, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", range(4))
def test_what_is_not_finite_spreads_as_in_the_reference(bad, where):
    inputs = draw((5, 3))
    inputs[where][..., 1] = bad
    actual, expected = cpp.lambda_return(*inputs, 0.95), ops.lambda_return(*inputs, 0.95)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    assert actual[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda x: [*x[:3], x[3][:-1]], "bootstrap"),
        (lambda x: [x[0], x[1][:-1], *x[2:]], "one shape"),
        (lambda x: [x[0].to("meta"), *x[1:]], "rewards"),
        (lambda x: [y[:0] for y in x[:3]] + x[3:], "at least one step"),
    ],
)
def test_what_does_not_fit_is_named(spoil, named):
    with pytest.raises(ValueError, match=named):
        cpp.lambda_return(*spoil(draw((4, 3))), 0.95)


def test_the_extension_itself_checks_what_it_reads_and_writes():
    rewards, values, discounts, bootstrap = (x.numpy() for x in draw((4, 3)))
    module = cpp.load()
    fixed = rewards.copy()
    fixed.setflags(write=False)
    for returns in (rewards[:3].copy(), rewards.T.copy().T, rewards.astype("f8"), fixed, rewards.tolist()):
        with pytest.raises(ValueError, match="returns"):
            module.lambda_return(rewards, values, discounts, bootstrap, 0.9, returns)
    with pytest.raises(ValueError, match="values must be an array"):
        module.lambda_return(rewards, values.tolist(), discounts, bootstrap, 0.9, rewards.copy())
    none = rewards[:0]
    with pytest.raises(ValueError, match="at least one step"):
        module.lambda_return_backward(none, none, none, bootstrap, none, 0.9, none, none, none, bootstrap.copy())


def test_columns_do_not_mix():
    inputs = draw((6, 1000))
    whole = cpp.lambda_return(*inputs, 0.95)
    for column in (0, 511, 512, 999):
        assert torch.equal(cpp.lambda_return(*(x[..., column] for x in inputs), 0.95), whole[:, column])


def test_the_backend_uses_it():
    assert backends.get("cpp").lambda_return is cpp.lambda_return


def test_mixed_types_are_computed_in_the_widest_and_at_least_in_fp32():
    inputs = [torch.rand(4, 3).to(dtype).requires_grad_() for dtype in (torch.float32, torch.bfloat16, torch.float32)]
    inputs.append(torch.rand(3).bfloat16().requires_grad_())
    actual, expected = cpp.lambda_return(*inputs, 0.9), ops.lambda_return(*(x.float() for x in inputs), 0.9)
    assert actual.dtype == torch.float32 and torch.equal(actual, expected)
    for x, gradient in zip(inputs, torch.autograd.grad(actual.sum(), inputs), strict=True):
        assert gradient.dtype == x.dtype
