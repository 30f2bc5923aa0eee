"""Filtering in Triton under Triton's interpreter, against float64: outputs and every gradient."""

import sys
from pathlib import Path

import pytest
import torch
from ops.test_observe import problem, weights

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
START = """
import copy
import torch
from ops.test_observe import assert_equal, problem, run, weights
from programs import together
from lsp_fast import ops
from lsp_fast.backends import triton_observe
from lsp_fast.kernels import observe as kernels

torch.set_num_threads(1)


def poisoned(make):
    def made(*arguments, **options):
        x = make(*arguments, **options)
        return x.fill_(torch.nan) if x.is_floating_point() else x
    return made


torch.empty, torch.empty_like = poisoned(torch.empty), poisoned(torch.empty_like)
torch.Tensor.new_empty = poisoned(torch.Tensor.new_empty)
observe = triton_observe.observe


def wide(rssm, *rest):
    rest = (x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in rest)
    return copy.deepcopy(rssm).double(), *rest


def every_place(length):
    # Of 2^length rows, each with resets at other steps.
    return torch.arange(2**length)[None] >> torch.arange(length)[:, None] & 1 == 1


def both(args, tolerance=5e-6, function=observe, **options):
    got = run(function, *args, **options)
    assert_equal(got, run(ops.observe, *wide(*args), **options), tolerance)
    return got

"""

EQUAL = """
for shape in {shapes}:
    for resets in (0.0, 0.3):
        both(problem(*shape, torch.float32, resets))
if {resets}:
    rssm, *rest = problem({resets}, 2**{resets}, 3, 5, 4, 2, torch.float32)
    rest[2] = every_place({resets})
    both((rssm, *rest))
print("equal")
"""
TINY = [(3, 2, 3, 5, 4, 2), (1, 2, 3, 5, 4, 2), (2, 1, 1, 1, 1, 1), (2, 17, 17, 18, 33, 3)]
MORE = [(7, 5, 30, 17, 13, 6), (3, 33, 30, 48, 40, 17), (2, 40, 33, 16, 16, 20), (3, 3, 30, 200, 200, 12)]


def test_outputs_and_gradients_are_those_of_float64(interpreted):
    interpreted(START + EQUAL.replace("{shapes}", repr(TINY)).replace("{resets}", "3"))


@pytest.mark.slow
def test_outputs_and_gradients_of_more_shapes(interpreted):
    interpreted(START + EQUAL.replace("{shapes}", repr(MORE)).replace("{resets}", "5"))


TEAMS = """
for programs in {programs}:
    kernels.grid = lambda *_: programs
    for last_first in (False, True):
        with together(last_first):
            both(problem(2, {rows}, 3, 17, 33, 2, torch.float32))
print("equal")
"""


@pytest.mark.parametrize(
    ("rows", "programs"),
    [(2, [(3, 1)]), pytest.param(40, [(3, 1), (2, 2), (5, 3), (1, 2)], marks=pytest.mark.slow)],
    ids=["a team", "teams"],
)
def test_programs_wait_for_each_other(interpreted, rows, programs):
    """Programs that share a layer, fewer than there are tiles or more; teams that take several rows' turns."""
    interpreted(START + TEAMS.replace("{programs}", repr(programs)).replace("{rows}", str(rows)))


RULES = """
import warnings

shape = 2, 2, 3, 5, 4, 2
for only in ("states.stoch", "states.deter", "posterior.mean", "posterior.std", "prior.mean", "prior.std"):
    both(problem(*shape, torch.float32), weigh=lambda name: float(name == only))

# An output that nobody looks at gives no gradient, which is not one of zeros.
rssm, embeddings, *rest = problem(*shape, torch.float32)
leaves = [embeddings, *rssm.parameters()]
for pick in (lambda o: o.states.deter, lambda o: o.prior.std, lambda o: o.posterior.mean, lambda o: o.states.stoch):
    found = [
        torch.autograd.grad(pick(f(embeddings, *rest, *weights(rssm))).square().sum(), leaves, allow_unused=True)
        for f in (observe, ops.observe)
    ]
    for got, want in zip(*found, strict=True):
        want = torch.zeros_like(got) if want is None and got is not None else want
        assert (got is None) == (want is None) and (got is None or torch.allclose(got, want, rtol=1e-4, atol=1e-5))

# A graph followed twice gives the same; its gradient is not there.
found = observe(embeddings, *rest, *weights(rssm))
total = (found.states.stoch.square() + found.posterior.std * found.prior.mean).sum()
first, second = (torch.autograd.grad(total, leaves, retain_graph=True) for _ in range(2))
assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
try:
    torch.autograd.grad(found.states.stoch.sum(), embeddings, create_graph=True)
    raise AssertionError("differentiated twice")
except RuntimeError as error:
    assert "observe: the gradient of its gradient" in str(error)

# Arguments as replay and losses hand them: [B, L, ...] transposed, gradients cut out of wider ones.
rssm, embeddings, actions, is_first, noise = problem(*shape, torch.float32)
turned = [x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in (embeddings, actions, is_first, noise)]
before = [x.clone() for x in turned]


def loss(function, *arguments):
    found = function(*arguments, *weights(rssm))
    feature = torch.cat([*found.states, *found.posterior, *found.prior], -1).square()
    return torch.autograd.grad(feature.sum() + found.prior.std[0, 0, 0], list(rssm.parameters()))


for got, want in zip(loss(observe, *turned), loss(ops.observe, embeddings, actions, is_first, noise), strict=True):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
assert all(torch.equal(a, b) for a, b in zip(turned, before, strict=True))

# The same numbers in steps of their own: every other action of a wider tensor, gradients that are one number.
wider = torch.stack([actions.detach(), torch.full_like(actions, torch.nan)], -1).flatten(-2)[..., ::2]
found, want = (f(embeddings, wider, is_first, noise, *weights(rssm)) for f in (observe, ops.observe))
sums = (sum(y.sum() for part in o for y in part) for o in (found, want))
for got, want in zip(*(torch.autograd.grad(total, list(rssm.parameters())) for total in sums), strict=True):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)

# Frozen weights; no gradient at all.
args = problem(*shape, torch.float32)
want = run(observe, *args)[1]["embeddings"]
args[0].requires_grad_(False)
found = observe(*args[1:], *weights(args[0]))
generator = torch.Generator().manual_seed(1)
total = sum((y * torch.randn(y.shape, generator=generator)).sum() for part in found for y in part)
assert torch.equal(torch.autograd.grad(total, args[1])[0], want)
with torch.no_grad():
    assert not observe(*args[1:], *weights(args[0])).states.stoch.requires_grad

# NaN lies where it lies in PyTorch's.
rssm, embeddings, *rest = problem(4, 3, 3, 5, 4, 2, torch.float32, 0.0)
with torch.no_grad():
    embeddings[1, 1, 0] = torch.nan
for part, other in zip(*(f(embeddings, *rest, *weights(rssm)) for f in (observe, ops.observe)), strict=True):
    assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(part, other, strict=True))

# Products of tf32 err as much as their factors' rounding.
torch.set_float32_matmul_precision("high")
args = problem(2, 17, 17, 18, 33, 3, torch.float32)
got = both(args, 2e-3)
torch.set_float32_matmul_precision("highest")
exact = run(observe, *args)
assert (got[0]["states.deter"] - exact[0]["states.deter"]).abs().max() > 1e-5

# What it does not know is the reference's, and it says so; shapes that do not fit are named.
for name, args, context in (
    ("float64", problem(*shape, torch.float64), torch.no_grad()),
    ("autocast", problem(*shape, torch.float32), torch.autocast("cpu", torch.bfloat16)),
    ("more than 128", problem(2, 2, 129, 5, 4, 2, torch.float32), torch.no_grad()),
):
    with context, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found, again, want = (f(*args[1:], *weights(args[0])) for f in (observe, observe, ops.observe))
    assert torch.equal(found.states.stoch, want.states.stoch) and torch.equal(found.prior.std, want.prior.std)
    assert len(said) == 1 and name in str(said[0].message), said
rssm, embeddings, actions, is_first, noise = problem(*shape, torch.float32)
for name, wrong in {
    "embeddings": (embeddings[..., 1:], actions, is_first, noise),
    "actions": (embeddings, actions[:1], is_first, noise),
    "is_first": (embeddings, actions, is_first[1:], noise),
    "noise": (embeddings, actions, is_first, noise[..., 1:]),
}.items():
    try:
        observe(*wrong, *weights(rssm))
        raise AssertionError(name)
    except ValueError as error:
        assert name in str(error), error
print("equal")
"""


@pytest.mark.slow
def test_the_rules_of_the_contract(interpreted):
    interpreted(START + RULES)


@pytest.mark.parametrize("length", [5, 50])
def test_launches_do_not_grow_with_the_sequence(length, monkeypatch):
    """Recorded instead of run, on tensors without numbers: a recurrence each way, and products of all steps."""
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in [name for name in sys.modules if name.split(".")[0] == "gpu"]:
        monkeypatch.delitem(sys.modules, name)
    from gpu.kernels import KernelCounter
    from gpu.launches import recorded

    from lsp_fast.backends import triton_observe

    rssm, embeddings, _, *rest = (x.to("meta") for x in problem(length, 50, 30, 200, 200, 12, torch.float32))
    embeddings, actions = embeddings.detach().requires_grad_(), torch.empty(length, 50, 12, device="meta")
    with KernelCounter() as counter, recorded() as launches:
        found = triton_observe.observe(embeddings, actions, *rest, *weights(rssm))
        forward = counter.total, [launch.kernel for launch in launches]
        outputs = [y for part in found for y in part]
        leaves = [embeddings, *rssm.parameters()]
        torch.autograd.grad(outputs, leaves, [torch.empty_like(y) for y in outputs])
    assert forward == (5, ["forward", "forward"])
    kernels = [launch.kernel for launch in launches][2:]
    assert (counter.total - forward[0], kernels) == (14, ["backward", "backward"])
    for launch in launches:
        if "counter" in launch.arguments:
            assert launch.grid == (13, 4) and launch.options["launch_cooperative_grid"]
            assert launch.arguments["PRECISION"] == "ieee" and len(launch.arguments["counter"]) == 4
