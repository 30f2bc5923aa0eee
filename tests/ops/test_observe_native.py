"""Filtering in C++ against the reference in float64: outputs and every gradient, whatever shares the work."""

import functools

import pytest
import torch
from ops.test_observe import SHAPES, assert_equal, problem, run, weights

from lsp_fast import ops
from lsp_fast.backends import cpp, cpp_learning

ISAS = cpp.instruction_sets()
MORE = [(3, 17, 30, 48, 40, 6), (2, 40, 5, 16, 16, 3), (24, 32, 30, 128, 128, 6), (5, 1, 33, 20, 50, 17)]


def both(args):
    """The native run in float32, and the reference's in float64."""
    rssm, *rest = args
    native = run(cpp_learning.observe, rssm, *rest)
    wide = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in rest]
    return native, run(ops.observe, rssm.double(), *wide)


@pytest.mark.parametrize("resets", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [*SHAPES, *MORE])
def test_outputs_and_gradients_are_those_of_float64(shape, resets):
    native, wide = both(problem(*shape, torch.float32, resets))
    assert_equal(native, wide, 1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa):
    rssm, *rest = problem(*MORE[0], torch.float32)
    native = run(functools.partial(cpp_learning.observe, isa=isa), rssm, *rest)
    wide = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in rest]
    assert_equal(native, run(ops.observe, rssm.double(), *wide), 1e-5)


@pytest.mark.parametrize("only", ["states.stoch", "states.deter", "posterior.std", "prior.mean"])
def test_each_output_alone_has_its_gradient(only):
    args = problem(*MORE[0], torch.float32)
    weigh = lambda name: float(name == only)  # noqa: E731
    assert_equal(run(cpp_learning.observe, *args, weigh), run(ops.observe, *args, weigh), 1e-4)


def test_the_number_of_threads_changes_no_bit():
    args, before, found = problem(9, 50, 30, 48, 40, 6, torch.float32), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(run(cpp_learning.observe, *args))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x[k], y[k]) for x, y in zip(other, found[0], strict=True) for k in y)


def test_a_second_gradient_of_one_graph_is_the_same():
    rssm, *rest = problem(*MORE[0], torch.float32)
    leaves = [rest[0], *rssm.parameters()]
    found = cpp_learning.observe(*rest, rssm.prior_weights(), rssm.posterior_weights())
    total = (found.states.stoch.square() + found.posterior.std * found.prior.mean).sum()
    first = torch.autograd.grad(total, leaves, retain_graph=True, materialize_grads=True)
    run(cpp_learning.observe, rssm, *rest)  # of the same sizes, while the first is still wanted
    second = torch.autograd.grad(total, leaves, materialize_grads=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_frozen_weights_and_no_gradient_at_all():
    rssm, embeddings, *rest = problem(*MORE[1], torch.float32)
    want = run(cpp_learning.observe, rssm, embeddings, *rest)[1]["embeddings"]
    rssm.requires_grad_(False)
    found = cpp_learning.observe(embeddings, *rest, *weights(rssm))
    generator = torch.Generator().manual_seed(1)
    outputs = [y for part in found for y in part]
    total = sum((y * torch.randn(y.shape, generator=generator)).sum() for y in outputs)
    assert torch.equal(torch.autograd.grad(total, embeddings)[0], want)
    with torch.no_grad():
        assert not cpp_learning.observe(embeddings, *rest, *weights(rssm)).states.stoch.requires_grad


def test_nan_lies_where_it_lies_in_pytorchs():
    rssm, embeddings, *rest = problem(6, 20, 4, 9, 8, 2, torch.float32, 0.0)
    with torch.no_grad():
        embeddings[2, 1, 0] = torch.nan
    found, want = (
        f(embeddings, *rest, rssm.prior_weights(), rssm.posterior_weights())
        for f in (cpp_learning.observe, ops.observe)
    )
    for got, expected in zip(found, want, strict=True):
        assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(got, expected, strict=True))


def test_a_gradients_gradient_is_refused_by_name():
    rssm, embeddings, *rest = problem(*SHAPES[0], torch.float32)
    found = cpp_learning.observe(embeddings, *rest, rssm.prior_weights(), rssm.posterior_weights())
    with pytest.raises(RuntimeError, match="observe: the gradient of its gradient"):
        torch.autograd.grad(found.states.stoch.sum(), embeddings, create_graph=True)


def test_what_it_does_not_know_is_the_references():
    args = problem(*SHAPES[0], torch.float64)
    assert_equal(run(cpp_learning.observe, *args), run(ops.observe, *args), 0.0)
    rssm, embeddings, *rest = problem(*SHAPES[0], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, want = (
            f(embeddings, *rest, rssm.prior_weights(), rssm.posterior_weights())
            for f in (cpp_learning.observe, ops.observe)
        )
    assert torch.equal(found.states.stoch, want.states.stoch)


def test_shapes_that_do_not_fit_are_named():
    rssm, embeddings, actions, is_first, noise = problem(*SHAPES[0], torch.float32)
    with pytest.raises(ValueError, match="is_first"):
        cpp_learning.observe(embeddings, actions, is_first[1:], noise, rssm.prior_weights(), rssm.posterior_weights())
