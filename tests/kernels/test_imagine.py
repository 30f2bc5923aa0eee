"""Imagination in Triton under its interpreter: outputs and the actor's gradients against float64, for odd sizes."""

import pytest

PROGRAM = """
import warnings
import torch
from ops.test_imagine import Case
from ops.test_imagine_native import loss_of, run, with_actor_leaves
from lsp_fast import backends, ops
from lsp_fast.backends import fallback
from lsp_fast.kernels import imagine as kernels
from lsp_fast.ops.types import State

imagine = backends.get("triton").imagine
poison, like = torch.empty, torch.empty_like
torch.empty = lambda *shape, **options: poison(*shape, **options).fill_(torch.nan)
torch.empty_like = lambda x, **options: like(x, **options).fill_(torch.nan)


def assert_close(got, exact, near, what):
    for i, (a, b, c) in enumerate(zip(got, exact, near, strict=True)):
        error, theirs = ((x.double() - b).abs().max() for x in (a, c))
        assert error <= max(1e-6 * b.abs().max(), 4 * theirs, 1e-7), (what, i, error, theirs)


def check(case, only=None):
    exact, near = (run(ops.imagine, case.arguments(dtype), only) for dtype in (torch.float64, torch.float32))
    assert_close(run(imagine, case.arguments(torch.float32), only), exact, near, only or vars(case))


"""

ODD = """
for sizes in (
    {"n": 1, "h": 1, "k": 1, "s": 1, "d": 1, "hidden": 1, "a": 1, "z": 1, "units": (1,)},
    {"n": 17, "h": 3, "k": 2, "s": 33, "d": 20, "hidden": 34, "a": 6, "units": (40, 24)},
    {"n": 3, "h": 4, "k": 10, "s": 3, "d": 19, "hidden": 9, "a": 17, "z": 18, "units": (5, 6, 7)},
    {"n": 2, "z": 0, "h": 2},
    {"n": 2, "sample": False, "h": 2, "k": 1},
):
    check(Case(**sizes))
for only in ("stoch", "deter", "actions", "mean", "std"):
    check(Case(h=2), only)


class Louder(Case):
    def arguments(self, dtype):
        start, prior, actor, *rest = super().arguments(dtype)
        return start, prior, actor._replace(skill_scale=3.0, mean_scale=1e5, init_std=0.5), *rest


check(Louder(n=2, h=2))

# Gradients that lie apart, as those of features do, and a second one of the same graph.
leaves, given = with_actor_leaves(Case(h=2).arguments(torch.float32))
rollout = imagine(*given)
loss = (torch.cat(rollout.states, -1) ** 2).sum()
first = torch.autograd.grad(loss, leaves, retain_graph=True)
imagine(*given)
assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, leaves), strict=True))
want = torch.autograd.grad((torch.cat(ops.imagine(*given).states, -1) ** 2).sum(), leaves)
for a, b in zip(first, want, strict=True):
    torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)

# NaN stays in its own rollout, and in what follows it.
start, prior, actor, skills, k, noise = Case().arguments(torch.float32)
noise.stoch[2, 1, 1] = torch.nan
found, want = (f(start, prior, actor, skills, k, noise) for f in (imagine, ops.imagine))
for got, expected in zip((*found.states, found.actions), (*want.states, want.actions), strict=True):
    assert torch.equal(got.isnan(), expected.isnan())

start, *rest = Case(h=1).arguments(torch.float32)
assert not imagine(start, *rest).actions.requires_grad
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    fallback.say_once.cache_clear()
    doubles = Case(h=1).arguments()
    for _ in range(2):
        assert torch.equal(imagine(*doubles).actions, ops.imagine(*doubles).actions)
    stoch = start.stoch.clone().requires_grad_()
    found = imagine(State(stoch, start.deter), *rest)
    assert torch.autograd.grad(found.states.stoch.sum(), stoch)[0].abs().max() > 0
assert [str(w.message).split(";")[0] for w in told] == [
    "imagine: the reference computes in torch.float64 on cpu",
    "imagine: the reference computes where a gradient to more than the actor is wanted",
]
assert imagine(*Case(n=0).arguments(torch.float32)).actions.shape == (5, 0, 2)
leaves, given = with_actor_leaves((start, *rest))
twice = lambda: torch.autograd.grad(imagine(*given).actions.sum(), leaves, create_graph=True)
for error, text, call in (
    (RuntimeError, "imagine: the gradient of its gradient", twice),
    (ValueError, "skill_length 0", lambda: imagine(*given[:4], 0, given[5])),
):
    try:
        call()
    except error as caught:
        assert text in str(caught), caught
    else:
        raise AssertionError(text)
print("equal")
"""

WIDE = """
kernels.EXACT = kernels.MANY["large"][0]
check(Case(n=70, h=2, k=10, s=30, d=70, hidden=66, a=21, units=(65, 130)))
kernels.EXACT = kernels.MANY["small"][0]._replace(rows=16, columns=16, gates=32, sampled=32)
check(Case(n=50, h=3, k=2, s=30, d=48, hidden=33, a=6, units=(40, 24, 64)))
print("equal")
"""

ROUNDED = """
from unittest import mock
from programs import together

# Products of tf32 err as much as their factors' rounding: the interpreter multiplies all of what a card would cut off.
torch.set_float32_matmul_precision("high")
case = Case(n=17, h=2, s=17, d=40, hidden=33, units=(40, 24))
exact = run(ops.imagine, case.arguments(torch.float64))
for a, b in zip(run(imagine, case.arguments(torch.float32)), exact, strict=True):
    assert 2e-5 < (a.double() - b).norm() / b.norm() < 2e-3
# Nobody multiplies before all have rounded: programs that share the work find the same bits.
alone = run(imagine, case.arguments(torch.float32))
for last_first in (False, True):
    with together(last_first), mock.patch.object(kernels, "programs", lambda device: 5):
        both = run(imagine, case.arguments(torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(both, alone, strict=True))
# Weights that tf32 has stay as they are; halfway between two of them it goes to the even one; a NaN stays one.
start, prior, actor, *rest = case.arguments(torch.float32)
numbers = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-23, -1 - 2**-11, torch.nan])
want = torch.tensor([1.0, 1 + 2**-10, 1.0, 1 + 2**-9, 1 + 2**-10, -1.0, torch.nan])
actor.mlp.hidden[0].weight.view(-1)[:7] = numbers
prior.out.bias[:7] = numbers
networks = kernels.Networks(prior, actor)
kept = kernels.forward(networks, *start, rest[0], rest[1], *rest[2])
assert torch.equal(kept.flat[:7].nan_to_num(9.0), want.nan_to_num(9.0))
at = networks.biases["B_OUT"]
assert torch.equal(kept.flat[at : at + 7].nan_to_num(9.0), numbers.nan_to_num(9.0))
assert torch.equal(networks.flat()[:7].nan_to_num(9.0), numbers.nan_to_num(9.0))
print("equal")
"""


TOGETHER = """
from programs import together

# Several programs share out each layer, whoever comes first: more of them than some layers have tiles.
kernels.programs = lambda device: 5
kernels.EXACT = kernels.EXACT._replace(rows=16, columns=16)
for last_first in (False, True):
    with together(last_first):
        check(Case(n=18, h=2, s=3, d=17, hidden=20, a=2, units=(18, 33)))
print("equal")
"""


def test_triton_has_the_outputs_and_gradients_of_float64(interpreted):
    interpreted(PROGRAM + ODD)


@pytest.mark.slow
def test_programs_wait_for_each_other(interpreted):
    interpreted(PROGRAM + TOGETHER)


def test_products_of_tf32_are_of_rounded_factors(interpreted):
    interpreted(PROGRAM + ROUNDED)


@pytest.mark.slow
def test_other_tiles_give_the_same(interpreted):
    interpreted(PROGRAM + WIDE)
