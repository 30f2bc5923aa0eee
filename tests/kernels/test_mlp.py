"""Layers in Triton under its interpreter: outputs and gradients against float64, for odd sizes."""

PROGRAM = """
import warnings
import torch
from ops.test_mlp_native import SIZES, leaves, problem, run
from lsp_fast import backends, ops
from lsp_fast.backends import fallback
from lsp_fast.ops.types import Dense, MLPWeights

mlp = backends.get("triton").mlp
poison, like = torch.empty, torch.empty_like
torch.empty = lambda *shape, **options: poison(*shape, **options).fill_(torch.nan)
torch.empty_like = lambda x, **options: like(x, **options).fill_(torch.nan)


def assert_close(got, exact, near):
    for a, b, c in zip(got, exact, near, strict=True):
        # Where a sum nearly vanishes PyTorch has no more digits either.
        error, theirs = ((x.double() - b).abs().max() for x in (a, c))
        assert error <= max(3e-6 * b.abs().max(), 4 * theirs, 1e-6), (error, theirs)


for sizes in [*SIZES, (129, 9, (5, 130, 5), 2), (1, 1, (1,), None), (257, 4, (131,), 1)]:
    x, weights = problem(*sizes)
    assert_close(run(mlp, x, weights), run(ops.mlp, x, weights, torch.float64), run(ops.mlp, x, weights))

# Only what is asked for gets a gradient, in any combination, and leaves the gradient given as it is.
x, weights = problem(13, 8, (6, 5), 2)
tensors, made = leaves(x, weights)
exact, near = (run(ops.mlp, x, weights, dtype)[1:] for dtype in (torch.float64, torch.float32))
weigh = torch.linspace(-1, 1, 26, dtype=torch.float64).view(13, 2).float()
for fixed in ({0}, {1, 2, 3, 4, 5, 6}, {1, 4}):
    given = [t.detach() if i in fixed else t for i, t in enumerate(tensors)]
    layers = [Dense(*given[i : i + 2]) for i in (1, 3, 5)]
    kept = weigh.clone()
    y = mlp(given[0], MLPWeights(tuple(layers[:2]), layers[2]))
    wanted = [i for i in range(7) if i not in fixed]
    got = torch.autograd.grad(y, [given[i] for i in wanted], kept)
    assert_close(got, *([found[i] for i in wanted] for found in (exact, near)))
    assert torch.equal(kept, weigh)
fixed = tuple(Dense(*(t.detach() for t in layer)) for layer in made.hidden)
assert not mlp(tensors[0].detach(), MLPWeights(fixed, None)).requires_grad
# Also where the last layer has an ELU the gradient given stays as it is.
kept = torch.ones(13, 5)
torch.autograd.grad(mlp(tensors[0], MLPWeights(made.hidden, None)), tensors[0], kept)
assert torch.equal(kept, torch.ones(13, 5))
loss = mlp(tensors[0], made).square().sum()
first = torch.autograd.grad(loss, tensors, retain_graph=True)
assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, tensors), strict=True))
# A head's gradient that is one number for all rows, and rows in two dimensions that do not follow one another.
square = x[:12].float().view(3, 4, 8).transpose(0, 1)
got, want = (torch.autograd.grad(f(square, made).mean(), tensors[1:]) for f in (mlp, ops.mlp))
for a, b in zip(got, want, strict=True):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
# Biases in steps of their own: every other number of a wider tensor, and one number for all units.
apart = torch.stack([made.hidden[0].bias.detach(), torch.full((6,), torch.nan)], 1)[:, 0], torch.ones(()).expand(5)
stepped = MLPWeights(tuple(Dense(w, b) for (w, _), b in zip(made.hidden, apart, strict=True)), made.out)
torch.testing.assert_close(mlp(x.float(), stepped), ops.mlp(x.float(), stepped), rtol=1e-5, atol=1e-6)
# NaN lies where it lies in PyTorch's.
bad = x.clone()
bad[4, 7] = torch.nan
got, want = run(mlp, bad, weights), run(ops.mlp, bad, weights)
assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(got, want, strict=True))
# ELU near 0 is as near as anywhere.
near = -torch.logspace(-7, 0, 40)[:, None]
one = MLPWeights((Dense(torch.ones(1, 1), torch.zeros(1)),), None)
assert ((mlp(near, one).double() / torch.expm1(near.double()) - 1).abs() < 2e-6).all()

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    fallback.say_once.cache_clear()
    for _ in range(2):
        assert torch.equal(mlp(x, weights), ops.mlp(x, weights))
assert [str(w.message).split(";")[0] for w in told] == ["mlp: the reference computes in torch.float64 on cpu"]
assert mlp(tensors[0][:0], made).shape == (0, 2)
try:
    torch.autograd.grad(mlp(tensors[0], made).sum(), tensors[0], create_graph=True)
except RuntimeError as error:
    assert "mlp: the gradient of its gradient" in str(error)
else:
    raise AssertionError
print("equal")
"""


def test_triton_has_the_outputs_and_gradients_of_float64(interpreted):
    interpreted(PROGRAM)
