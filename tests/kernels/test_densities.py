"""Densities in Triton under its interpreter: values and gradients against float64, for odd sizes."""

PROGRAM = """
import warnings
import torch
from ops.test_densities_native import DIFFERENTIABLE, NAMES, SHAPES, call, problem, run
from lsp_fast import backends
from lsp_fast.backends import fallback, triton_densities
from lsp_fast.kernels import densities as kernels
from lsp_fast.ops import densities

poison = torch.empty
torch.empty = lambda *shape, **options: poison(*shape, **options).fill_(torch.nan)


def refuses(text, function):
    try:
        function()
    except RuntimeError as error:
        assert text in str(error), error
    else:
        raise AssertionError(text)


def check(name, tensors):
    exact = run(densities, name, tensors, torch.float64)
    for got, want in zip(run(triton_densities, name, tensors), exact, strict=True):
        error = (got.double() - want).abs() / want.abs().clamp(min=1.0)
        assert error.max() < 2e-6, (name, [tuple(x.shape) for x in tensors], error.max())


for shape in [*SHAPES[:4], (33, 78), (3, 200)]:
    for name, tensors in problem(shape).items():
        check(name, [x.float().double() for x in tensors])
backend = backends.get("triton")
for name in NAMES:
    assert getattr(backend, name) is getattr(triton_densities, name)
    # Halves of one output, a batch that is not laid out first, and the gradient of a mean, which is one number.
    tensors = [x.float() for x in problem((6, 4, 5))[name]]
    half = [torch.cat([x, x + 1], -1)[..., : x.shape[-1]].transpose(0, 1).requires_grad_() for x in tensors]
    half[-1] = half[-1].detach() if name != "kl_divergence" else half[-1]
    wanted = half[: DIFFERENTIABLE[name]]
    got = torch.autograd.grad(call(triton_densities, name, half).mean(), wanted)
    want = torch.autograd.grad(call(densities, name, half).mean(), wanted)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)
    # What is not finite stays in its row, as PyTorch's.
    for which in range(len(tensors)):
        bad = [x[:, 0].clone() for x in tensors]
        bad[which][2, 4], bad[which][0, 3] = float("nan"), float("inf")
        got, want = run(triton_densities, name, bad), run(densities, name, bad)
        assert torch.equal(got[0].isfinite(), want[0].isfinite()), (name, which)
        assert got[0][2].isnan() and got[0][[1, 3, 4, 5]].isfinite().all()
    # What it does not know is the reference's, which is said once for a reason.
    fallback.say_once.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        doubles = problem((5, 3))[name]
        for _ in range(2):
            assert torch.equal(call(triton_densities, name, doubles), call(densities, name, doubles))
        with torch.autocast("cpu"):
            call(triton_densities, name, tensors)
    assert [str(w.message).split(";")[0] for w in told] == [
        f"{name}: the reference computes in torch.float64 on cpu", f"{name}: the reference computes under autocast"
    ], [str(w.message) for w in told]
    assert call(triton_densities, name, [x[:0] for x in tensors]).shape == (0, 4)
    leaves = [x.requires_grad_(i < DIFFERENTIABLE[name]) for i, x in enumerate(tensors)]
    y = call(triton_densities, name, leaves).sum()
    refuses(f"{name}: the gradient of its gradient", lambda: torch.autograd.grad(y, leaves[0], create_graph=True))
    with torch.no_grad():
        assert not call(triton_densities, name, leaves).requires_grad
    if name == "kl_divergence":
        y = call(triton_densities, name, [leaves[0].detach(), *leaves[1:]]).sum()
        assert len(torch.autograd.grad(y, leaves[1:])) == 3
    else:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            last = leaves[-1].detach().requires_grad_()
            given = [*(x.detach() for x in leaves[:-1]), last]
            assert torch.autograd.grad(call(triton_densities, name, given).sum(), last)[0].abs().sum() > 0
        assert len(told) == 1
# A deviation whose square float32 does not hold.
tiny = torch.tensor([[1e-24, 1e-15, 1e-3, 1.0, 0.99999994, 1e9]])
given = 0 * tiny, tiny, 0 * tiny, torch.ones_like(tiny)
want = call(densities, "kl_divergence", [x.double() for x in given])
torch.testing.assert_close(call(triton_densities, "kl_divergence", given).double(), want, rtol=1e-6, atol=1e-6)
print("equal")
"""


def test_triton_has_the_values_and_gradients_of_float64(interpreted):
    interpreted(PROGRAM)
