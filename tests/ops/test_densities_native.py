"""Densities in C++: values and gradients against float64 and the oracle, for every instruction set and odd sizes."""

import numpy as np
import oracle
import pytest
import torch

from lsp_fast.backends import cpp, cpp_densities
from lsp_fast.ops import densities
from lsp_fast.ops.types import Normal

LOW, HIGH = 0.1, 1.5
SHAPES = [(1, 1), (17, 3), (5, 4, 16), (2, 3, 30), (700, 78)]


def problem(shape, seed=0):
    """The arguments of all three, float64: what they take is standard normal, deviations are positive."""
    rng = np.random.default_rng(seed)

    def normal(*size):
        return torch.tensor(rng.normal(size=size))

    def std():
        return torch.tensor(np.exp(rng.normal(size=shape)))

    raw = 2 * normal(*shape[:-1], 2 * shape[-1])
    return {
        "log_prob": (raw, normal(*shape)),
        "kl_divergence": (normal(*shape), std(), normal(*shape), std()),
        "entropy": (2 * normal(*shape), std(), normal(*shape)),
    }


def call(module, name, tensors, **options):
    if name == "log_prob":
        return module.log_prob(*tensors, LOW, HIGH, **options)
    if name == "kl_divergence":
        return module.kl_divergence(Normal(*tensors[:2]), Normal(*tensors[2:]), **options)
    return module.entropy(Normal(*tensors[:2]), tensors[2], **options)


DIFFERENTIABLE = {"log_prob": 1, "kl_divergence": 4, "entropy": 2}
NAMES = list(DIFFERENTIABLE)


def run(module, name, tensors, dtype=torch.float32, **options):
    """The value and the gradients of a sum weighed row by row."""
    tensors = [x.to(dtype).clone() for x in tensors]
    wanted = [x.requires_grad_() for x in tensors[: DIFFERENTIABLE[name]]]
    y = call(module, name, tensors, **options)
    weigh = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(dtype)
    return [y.detach(), *torch.autograd.grad((y * weigh).sum(), wanted)]


@pytest.mark.parametrize("isa", cpp.instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_float64(name, shape, isa):
    tensors = problem(shape)[name]
    # One rounding each: what float32 inputs cannot tell is not asked for.
    tensors = [x.float().double() for x in tensors]
    for got, want in zip(
        run(cpp_densities, name, tensors, isa=isa), run(densities, name, tensors, torch.float64), strict=True
    ):
        scale = want.abs().clamp(min=1.0)
        assert ((got.double() - want).abs() / scale).max() < 2e-6


def test_the_reference_is_the_oracles():
    given = problem((17, 3))
    raw, x = (t.numpy() for t in given["log_prob"])
    std = np.exp(0.5 * oracle.soft_clamp_logvar(raw[:, 3:]))
    want = oracle.normal_log_prob(x, raw[:, :3], std).sum(-1)
    np.testing.assert_allclose(call(densities, "log_prob", given["log_prob"]), want, rtol=1e-10)
    want = oracle.diag_normal_kl(*(t.numpy() for t in given["kl_divergence"]))
    np.testing.assert_allclose(call(densities, "kl_divergence", given["kl_divergence"]), want, rtol=1e-10)
    mean, std, noise = (0.5 * t.numpy() for t in given["entropy"])
    want = -oracle.tanh_normal_log_prob(np.tanh(mean + std * noise), mean, std)
    np.testing.assert_allclose(call(densities, "entropy", [0.5 * t for t in given["entropy"]]), want, rtol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_changes_no_bit(name):
    tensors, before, found = problem((2001, 30))[name], torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(run(cpp_densities, name, tensors))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("isa", cpp.instruction_sets())
@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity_lie_where_they_lie_in_pytorchs(name, isa):
    for which in range(len(problem((4, 19))[name])):
        tensors = [x.clone() for x in problem((4, 19))[name]]
        tensors[which][2, 18], tensors[which][0, 3] = float("nan"), float("inf")
        got, want = run(cpp_densities, name, tensors, isa=isa), run(densities, name, tensors)
        # What is infinite in one may be beyond float32 in the other.
        assert torch.equal(got[0].isfinite(), want[0].isfinite()), which
        assert got[0][2].isnan() and got[0][[1, 3]].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_what_it_does_not_know_is_the_references(name):
    tensors = problem((5, 3))[name]
    assert torch.equal(call(cpp_densities, name, tensors), call(densities, name, tensors))  # float64
    empty = [x[:0].float() for x in tensors]
    assert call(cpp_densities, name, empty).shape == (0,)
    if name != "kl_divergence":
        last = tensors[-1].float().requires_grad_()
        (gradient,) = torch.autograd.grad(
            call(cpp_densities, name, [*(x.float() for x in tensors[:-1]), last]).sum(), last
        )
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_gradients_gradient_is_refused_by_name(name):
    tensors = [x.float().requires_grad_(i < DIFFERENTIABLE[name]) for i, x in enumerate(problem((5, 3))[name])]
    with pytest.raises(RuntimeError, match=f"{name}: the gradient of its gradient"):
        torch.autograd.grad(call(cpp_densities, name, tensors).sum(), tensors[0], create_graph=True)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_kept_where_no_gradient_is_wanted(name):
    tensors = [x.float() for x in problem((5, 3))[name]]
    assert not call(cpp_densities, name, tensors).requires_grad
    tensors[0].requires_grad_()
    with torch.no_grad():
        assert not call(cpp_densities, name, tensors).requires_grad


def test_extremes_of_the_logarithm():
    tiny = torch.tensor([[1e-40, 1e-30, 1e-3, 1.0, 0.99999994, 1e18]])
    one = torch.ones_like(tiny)
    got = cpp_densities.kl_divergence(Normal(0 * one, tiny.sqrt()), Normal(0 * one, one))
    want = densities.kl_divergence(
        Normal(0 * one.double(), tiny.sqrt().double()), Normal(0 * one.double(), one.double())
    )
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
