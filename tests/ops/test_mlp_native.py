"""Layers in C++: outputs and gradients against PyTorch in float64, for every instruction set and odd sizes."""

import numpy as np
import oracle
import pytest
import torch

from lsp_fast import ops
from lsp_fast.backends import cpp, cpp_learning, fallback
from lsp_fast.ops.types import Dense, MLPWeights

SIZES = [(1, 5, (7,), 3), (17, 158, (128, 128), 1), (13, 17, (33, 48, 5), 40), (100, 300, (130,), None), (3, 1, (), 2)]


def problem(rows, width, hidden, out, seed=0):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(rows, width)))
    weights = oracle.random_mlp(rng, width, hidden, out)

    def layer(pair):
        return Dense(*(torch.tensor(p) for p in pair))

    hidden_layers = tuple(layer(p) for p in weights[0])
    return x, MLPWeights(hidden_layers, None if weights[1] is None else layer(weights[1]))


def leaves(x, weights, dtype=torch.float32):
    layers = [*weights.hidden, *([] if weights.out is None else [weights.out])]
    x, *flat = (t.to(dtype).clone().requires_grad_() for t in (x, *(t for layer in layers for t in layer)))
    made = [Dense(*flat[i : i + 2]) for i in range(0, len(flat), 2)]
    last = None if weights.out is None else made.pop()
    return [x, *flat], MLPWeights(tuple(made), last)


def run(function, x, weights, dtype=torch.float32, **options):
    tensors, made = leaves(x, weights, dtype)
    y = function(tensors[0], made, **options)
    weigh = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(dtype)
    return [y.detach(), *torch.autograd.grad((y * weigh).sum(), tensors)]


def assert_close(got, want):
    for a, b in zip(got, want, strict=True):
        scale = b.abs().max().item() + 1e-12
        assert (a.double() - b.double()).abs().max().item() <= 3e-6 * scale


@pytest.mark.parametrize("isa", cpp.instruction_sets())
@pytest.mark.parametrize("sizes", SIZES)
def test_outputs_and_gradients_are_those_of_float64(sizes, isa):
    x, weights = problem(*sizes)
    assert_close(run(cpp_learning.mlp, x, weights, isa=isa), run(ops.mlp, x, weights, torch.float64))


def test_outputs_are_the_oracles():
    x, weights = problem(17, 158, (128, 128), 6)
    want = oracle.mlp(oracle.arrays(weights), x.numpy())
    got = cpp_learning.mlp(*(leaves(x, weights)[0][0], leaves(x, weights)[1]))
    np.testing.assert_allclose(got.detach(), want, rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_changes_no_bit():
    x, weights = problem(301, 158, (128, 128), 30)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(run(cpp_learning.mlp, x, weights))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


def test_a_row_does_not_depend_on_the_others():
    x, weights = problem(50, 30, (40,), 4)
    tensors, made = leaves(x, weights)
    whole = cpp_learning.mlp(tensors[0], made)
    alone = torch.cat([cpp_learning.mlp(row[None], made) for row in tensors[0]])
    assert torch.equal(whole, alone)


def test_only_what_is_asked_for_gets_a_gradient():
    x, weights = problem(5, 8, (6,), 2)
    tensors, made = leaves(x, weights)
    fixed = MLPWeights(tuple(Dense(*(t.detach() for t in layer)) for layer in made.hidden), made.out)
    y = cpp_learning.mlp(tensors[0].detach(), fixed)
    (gradient,) = torch.autograd.grad(y.sum(), [made.out.bias])
    torch.testing.assert_close(gradient, torch.full((2,), 5.0))
    assert not cpp_learning.mlp(tensors[0].detach(), MLPWeights(fixed.hidden, None)).requires_grad
    with torch.no_grad():
        assert not cpp_learning.mlp(tensors[0], made).requires_grad


def test_a_second_gradient_of_one_graph_is_the_same():
    x, weights = problem(20, 8, (6, 9), 2)
    tensors, made = leaves(x, weights)
    loss = cpp_learning.mlp(tensors[0], made).square().sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    cpp_learning.mlp(tensors[0] + 1, made)  # of the same sizes, while the first is still wanted
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, tensors), strict=True))


def test_nan_lies_where_it_lies_in_pytorchs():
    x, weights = problem(9, 20, (33,), 3)
    x[4, 7] = float("nan")
    got, want = run(cpp_learning.mlp, x, weights), run(ops.mlp, x, weights)
    assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(got, want, strict=True))
    assert got[0][4].isnan().all() and got[0][[0, 3, 5, 8]].isfinite().all()


def test_what_it_does_not_know_is_the_references():
    x, weights = problem(4, 3, (5,), 2)
    fallback.say_once.cache_clear()
    with pytest.warns(UserWarning, match=r"mlp: the reference computes in torch\.float64 on cpu") as told:
        assert torch.equal(cpp_learning.mlp(x, weights), ops.mlp(x, weights))
        cpp_learning.mlp(x, weights)
    assert [w.filename for w in told] == [__file__]
    tensors, made = leaves(x, weights)
    assert cpp_learning.mlp(tensors[0][:0], made).shape == (0, 2)


def test_a_gradients_gradient_is_refused_by_name():
    x, weights = problem(4, 3, (5,), 2)
    tensors, made = leaves(x, weights)
    with pytest.raises(RuntimeError, match="mlp: the gradient of its gradient"):
        torch.autograd.grad(cpp_learning.mlp(tensors[0], made).sum(), tensors[0], create_graph=True)


def test_shapes_that_do_not_fit_are_named():
    x, weights = problem(4, 3, (5,), 2)
    tensors, made = leaves(x, weights)
    with pytest.raises(ValueError, match="mlp"):
        cpp_learning.mlp(tensors[0][:, :2], made)


def test_a_gradient_is_the_one_at_what_forward_saw():
    x, weights = problem(20, 8, (6, 9), 2)
    tensors, made = leaves(x, weights)
    want = run(cpp_learning.mlp, x, weights)[1:]
    y = cpp_learning.mlp(tensors[0], made)
    weigh = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).float()
    with torch.no_grad():
        for tensor in tensors:
            tensor.add_(1)
    found = torch.autograd.grad((y * weigh).sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


@pytest.mark.parametrize("isa", cpp.instruction_sets())
def test_elu_near_zero_is_as_near_as_anywhere(isa):
    x, weights = problem(17, 30, (40,), None)
    x, weights = 1e-6 * x, MLPWeights((weights.hidden[0]._replace(bias=torch.zeros(40, dtype=torch.float64)),), None)
    got = cpp_learning.mlp(x.float(), MLPWeights((Dense(*(t.float() for t in weights.hidden[0])),), None), isa=isa)
    want = ops.mlp(x, weights)
    # Each number, not the largest: the products' own rounding is what is left.
    assert ((got.double() - want).abs() <= 1e-6 * want.abs() + 1e-12).all()


needs_bf16 = pytest.mark.skipif("avx512bf16" not in cpp.instruction_sets(), reason="no instruction multiplies bf16")


@needs_bf16
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 2), (17, 33, 40), (97, 300, 150), (200, 16, 530)])
def test_bf16_products_are_those_of_rounded_numbers(sizes):
    rows, inputs, outputs = sizes
    generator = torch.Generator().manual_seed(rows)
    x, weight, dy = (torch.randn(*s, generator=generator) for s in ((rows, inputs), (outputs, inputs), (rows, outputs)))
    bias = torch.randn(outputs, generator=generator)
    given = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    y = cpp_learning.mlp(x, MLPWeights((), Dense(weight, bias)), isa="bf16")
    dx, d_weight, d_bias = torch.autograd.grad(y, given, dy)
    rounded = [t.detach().bfloat16().double() for t in (x, weight, dy)]
    want = {"y": (y, rounded[0] @ rounded[1].T + bias.double()), "dx": (dx, rounded[2] @ rounded[1])}
    want |= {"d_weight": (d_weight, rounded[2].T @ rounded[0]), "d_bias": (d_bias, dy.double().sum(0))}
    for name, (got, exact) in want.items():
        assert (got - exact).abs().max() <= 2e-6 * exact.abs().max().clamp(min=1) * max(rows, inputs) ** 0.5, name


@needs_bf16
def test_bf16_keeps_nan_where_it_is():
    x = torch.randn(5, 40)
    x[3, 7] = torch.nan
    y = cpp_learning.mlp(x, MLPWeights((), Dense(torch.randn(20, 40), torch.zeros(20))), isa="bf16")
    assert y[3].isnan().all() and y[[0, 1, 2, 4]].isfinite().all()
