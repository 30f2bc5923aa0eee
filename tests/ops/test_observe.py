"""Filtering with the gradient by hand equals the reference, outputs and every gradient."""

import pytest
import torch

from lsp_fast import ops
from lsp_fast.config import ModelConfig
from lsp_fast.models.rssm import RSSM

EMBEDDING = 7


def problem(length, batch, stoch, deter, hidden, action, dtype, resets=0.3):
    generator = torch.Generator().manual_seed(length * 100 + batch)
    rssm = RSSM(action, EMBEDDING, ModelConfig(stoch=stoch, deter=deter, hidden=hidden), generator)
    for name, p in rssm.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(p, std=0.3, generator=generator)
    draw = lambda *shape: torch.randn(length, batch, *shape, generator=generator).to(dtype)  # noqa: E731
    is_first = torch.rand(length, batch, generator=generator) < resets
    return rssm.to(dtype), draw(EMBEDDING).requires_grad_(), draw(action).requires_grad_(), is_first, draw(stoch)


def weights(rssm):
    """Prior and posterior with bounds of their own, so that none is taken for the other."""
    return rssm.prior_weights()._replace(min_std=0.3), rssm.posterior_weights()._replace(min_std=0.05)


def run(function, rssm, embeddings, actions, is_first, noise, weigh=lambda name: 1.0):
    """Outputs by name, and the gradients of a sum in which each output weighs its own random numbers."""
    found = function(embeddings, actions, is_first, noise, *weights(rssm))
    outputs = {
        f"{part}.{field}": getattr(getattr(found, part), field)
        for part in found._fields
        for field in getattr(found, part)._fields
    }
    generator = torch.Generator().manual_seed(1)
    total = sum(
        weigh(name) * (y * torch.randn(y.shape, generator=generator).to(y.dtype)).sum() for name, y in outputs.items()
    )
    leaves = {"embeddings": embeddings, "actions": actions, **dict(rssm.named_parameters())}
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return outputs, dict(zip(leaves, gradients, strict=True))


def assert_equal(got, want, tolerance):
    for g, w in zip(got, want, strict=True):
        assert g.keys() == w.keys()
        for name in w:
            scale = max(w[name].abs().max().item(), 1e-3)
            error = (g[name] - w[name]).abs().max().item()
            assert error <= tolerance * scale, f"{name}: off by {error} of {scale}"


SHAPES = [(6, 3, 3, 5, 4, 2), (1, 2, 3, 5, 4, 2), (4, 1, 1, 1, 1, 1), (7, 5, 30, 17, 13, 6)]


@pytest.mark.parametrize("resets", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_scan_equals_the_reference_in_float64(shape, resets):
    args = problem(*shape, torch.float64, resets)
    assert_equal(run(ops.observe_scan, *args), run(ops.observe, *args), 1e-10)


@pytest.mark.parametrize("length", [8, 50])
def test_scan_equals_the_reference_in_float32(length):
    args = problem(length, 6, 30, 40, 32, 4, torch.float32, 0.05)
    assert_equal(run(ops.observe_scan, *args), run(ops.observe, *args), 1e-5)


@pytest.mark.parametrize("only", ["states.stoch", "states.deter", "posterior.std", "prior.mean"])
def test_each_output_alone_has_its_gradient(only):
    args = problem(*SHAPES[0], torch.float64)
    weigh = lambda name: float(name == only)  # noqa: E731
    assert_equal(run(ops.observe_scan, *args, weigh), run(ops.observe, *args, weigh), 1e-10)


def test_scan_leaves_its_arguments_as_they_are():
    args = problem(*SHAPES[0], torch.float64)
    before = [x.detach().clone() for x in (*args[1:], *args[0].parameters())]
    run(ops.observe_scan, *args)
    assert all(torch.equal(a, b) for a, b in zip(before, (*args[1:], *args[0].parameters()), strict=True))


def test_scan_twice_backward_gives_the_same():
    rssm, embeddings, *rest = problem(*SHAPES[0], torch.float64)
    found = ops.observe_scan(embeddings, *rest, rssm.prior_weights(), rssm.posterior_weights())
    total = (found.states.stoch.square() + found.posterior.std).sum()
    first, second = (torch.autograd.grad(total, [embeddings], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_scan_computes_in_the_weights_type_under_autocast():
    args = problem(*SHAPES[0], torch.float32)
    want = run(ops.observe_scan, *args)
    with torch.autocast("cpu", torch.bfloat16):
        got = run(ops.observe_scan, *args)
    assert all(torch.equal(got[0][k], want[0][k]) for k in want[0])


def test_scan_passes_nan_on():
    rssm, embeddings, *rest = problem(*SHAPES[0], torch.float64, 0.0)
    with torch.no_grad():
        embeddings[2, 1, 0] = torch.nan
    found = ops.observe_scan(embeddings, *rest, rssm.prior_weights(), rssm.posterior_weights())
    bad = found.states.stoch.isnan().any(-1)
    assert not bad[:2].any() and bad[2:, 1].all() and not bad[:, [0, 2]].any()
