"""Imagination in C++ against the reference in float64: outputs and the actor's gradient, whatever shares the work."""

import pytest
import torch
from ops.test_imagine import Case

from lsp_fast import ops
from lsp_fast.backends import cpp, cpp_learning
from lsp_fast.ops.types import ActorWeights, Dense, ImagineNoise, MLPWeights, State

NAMES = ["stoch", "deter", "actions", "mean", "std"]
CASES = {
    "small": {},
    "one row, one step": {"n": 1, "h": 1, "k": 1},
    "17 rows": {"n": 17, "h": 7, "k": 3, "s": 30, "d": 48, "hidden": 33, "a": 6, "units": (40, 24)},
    "blocks": {"n": 50, "h": 11, "k": 10, "s": 30, "d": 64, "hidden": 64, "a": 21, "units": (64, 64, 64)},
    "no skills": {"n": 20, "z": 0},
    "no noise": {"n": 19, "sample": False},
    "wide": {"n": 3, "s": 17, "d": 19, "hidden": 50, "a": 17, "z": 18, "units": (5,)},
}


def with_actor_leaves(arguments):
    start, prior, actor, *rest = arguments
    leaves = []

    def leaf(layer):
        made = Dense(*(x.clone().requires_grad_() for x in layer))
        leaves.extend(made)
        return made

    mlp = MLPWeights(tuple(map(leaf, actor.mlp.hidden)), leaf(actor.mlp.out))
    return leaves, (start, prior, ActorWeights(mlp, *actor[1:]), *rest)


def loss_of(rollout, only=None):
    outputs = dict(
        zip(
            ["stoch", "deter", "actions", "mean", "std"],
            (*rollout.states, rollout.actions, *rollout.policy),
            strict=True,
        )
    )
    generator = torch.Generator().manual_seed(3)
    weights = {k: torch.randn(y.shape, generator=generator).to(y.dtype) for k, y in outputs.items()}
    return outputs, sum((y * weights[k]).sum() for k, y in outputs.items() if only is None or k == only)


def run(function, arguments, only=None, **options):
    leaves, arguments = with_actor_leaves(arguments)
    outputs, loss = loss_of(function(*arguments, **options), only)
    return [*(y.detach() for y in outputs.values()), *torch.autograd.grad(loss, leaves, materialize_grads=True)]


def assert_close(got, want, tolerance=3e-6):
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        scale = max(b.abs().max().item(), 1e-3)
        error = (a.double() - b.double()).abs().max().item()
        assert error <= tolerance * scale, f"number {i}: off by {error} of {scale}"


@pytest.mark.parametrize("isa", cpp.instruction_sets())
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_float64(case, isa):
    case = Case(**CASES[case])
    native = run(cpp_learning.imagine, case.arguments(torch.float32), isa=isa)
    assert_close(native, run(ops.imagine, case.arguments(torch.float64)))


def test_a_louder_skill_has_the_references_gradients():
    def louder(dtype):
        start, prior, actor, *rest = Case(**CASES["17 rows"]).arguments(dtype)
        return start, prior, actor._replace(skill_scale=3.0), *rest

    assert_close(run(cpp_learning.imagine, louder(torch.float32)), run(ops.imagine, louder(torch.float64)))


@pytest.mark.parametrize("only", ["stoch", "deter", "actions", "mean", "std"])
def test_each_output_alone_has_its_gradient(only):
    case = Case(**CASES["17 rows"])
    native = run(cpp_learning.imagine, case.arguments(torch.float32), only)
    assert_close(native, run(ops.imagine, case.arguments(torch.float64), only))


def test_the_number_of_threads_changes_no_bit():
    arguments, before, found = Case(**CASES["blocks"]).arguments(torch.float32), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(run(cpp_learning.imagine, arguments))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


def test_a_second_gradient_of_one_graph_is_the_same():
    arguments = Case(**CASES["17 rows"]).arguments(torch.float32)
    leaves, given = with_actor_leaves(arguments)
    _, loss = loss_of(cpp_learning.imagine(*given))
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    run(cpp_learning.imagine, arguments)  # of the same sizes, while the first is still wanted
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, leaves), strict=True))


def test_nan_lies_where_it_lies_in_pytorchs():
    start, prior, actor, skills, k, noise = Case(**CASES["17 rows"]).arguments(torch.float32)
    noise.stoch[2, 4, 1] = torch.nan
    found, want = (f(start, prior, actor, skills, k, noise) for f in (cpp_learning.imagine, ops.imagine))
    for got, expected in zip((*found.states, found.actions), (*want.states, want.actions), strict=True):
        assert torch.equal(got.isnan(), expected.isnan())


def test_what_it_does_not_know_is_the_references():
    case = Case()
    assert_close(run(cpp_learning.imagine, case.arguments()), run(ops.imagine, case.arguments()), 0.0)
    start, *rest = case.arguments(torch.float32)
    stoch = start.stoch.clone().requires_grad_()
    found = cpp_learning.imagine(State(stoch, start.deter), *rest)
    assert torch.autograd.grad(found.states.stoch.sum(), stoch)[0].abs().max() > 0
    with torch.no_grad():
        assert not cpp_learning.imagine(State(stoch, start.deter), *rest).actions.requires_grad


def test_a_gradients_gradient_is_refused_by_name():
    leaves, arguments = with_actor_leaves(Case().arguments(torch.float32))
    with pytest.raises(RuntimeError, match="imagine: the gradient of its gradient"):
        torch.autograd.grad(cpp_learning.imagine(*arguments).actions.sum(), leaves, create_graph=True)


def test_shapes_that_do_not_fit_are_named():
    start, prior, actor, skills, k, noise = Case().arguments(torch.float32)
    with pytest.raises(ValueError, match="skill_length 0"):
        cpp_learning.imagine(start, prior, actor, skills, 0, noise)
    with pytest.raises(ValueError, match=r"noise\.stoch"):
        cpp_learning.imagine(start, prior, actor, skills, k, ImagineNoise(noise.stoch[:, 1:], noise.action))


@pytest.mark.parametrize("isa", cpp.instruction_sets())
@pytest.mark.parametrize("scale", [5.0, 1e5, 1e8])
def test_a_wide_bound_of_the_policys_mean_costs_no_digits(scale, isa):
    # scale tanh(x / scale) asks for tanh near 0 to all digits.
    start, prior, actor, *rest = Case(n=17, h=2).arguments(torch.float64)
    exact = ops.imagine(start, prior, actor._replace(mean_scale=scale), *rest)
    start, prior, actor, *rest = Case(n=17, h=2).arguments(torch.float32)
    got = cpp_learning.imagine(start, prior, actor._replace(mean_scale=scale), *rest, isa=isa)
    torch.testing.assert_close(got.policy.mean.double(), exact.policy.mean, rtol=2e-5, atol=2e-6)
