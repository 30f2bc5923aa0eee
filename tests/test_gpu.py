"""What only a GPU can show: `pytest -m gpu`."""

import copy

import pytest
import torch

from lsp_fast import backends, ops
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import ALGORITHMS, make_config
from lsp_fast.cudagraph import capture
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.ops import philox
from lsp_fast.train import train

pytestmark = pytest.mark.gpu


def build(algorithm="lsp"):
    return ImaginationAgent(5, 2, make_config("smoke", algorithm, device="cuda"))


def batch(seed, config):
    generator = torch.Generator().manual_seed(seed)
    shape = (config.train.batch_size, config.train.batch_length)
    observation, action = (torch.randn(*shape, n, generator=generator) for n in (5, 2))
    parts = (observation, action.tanh(), observation[..., 0], torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))
    return SequenceBatch(*(x.cuda() for x in parts))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_on_a_gpu(tmp_path, algorithm):
    result = train(make_config("smoke", algorithm, device="cuda"), tmp_path / "run", progress=False)
    assert result.finished


def test_the_triton_returns_equal_the_reference():
    native = backends.get("triton", "cuda").lambda_return
    for shape in ((1, 3), (9, 1000), (4, 5, 7)):
        inputs = [torch.randn(shape, device="cuda", requires_grad=True) for _ in range(3)]
        inputs.append(torch.randn(shape[1:], device="cuda", requires_grad=True))
        expected, actual = ops.lambda_return(*inputs, 0.95), native(*inputs, 0.95)
        torch.testing.assert_close(actual, expected)
        grad = torch.randn_like(expected)
        wanted = torch.autograd.grad(expected, inputs, grad, allow_unused=True)
        for a, b in zip(torch.autograd.grad(actual, inputs, grad), wanted, strict=True):
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_the_triton_elites_and_normals_equal_the_reference():
    triton = backends.get("triton", "cuda")
    values, plans = torch.randn(2500, 16, device="cuda"), torch.randn(2500, 16, 1, 3, device="cuda")
    values[::7, 3] = torch.nan
    mean, std = torch.zeros(2500, 1, 3, device="cuda"), torch.ones(2500, 1, 3, device="cuda")
    expected, actual = (f(values, plans, 4, mean, std) for f in (ops.select_elites, triton.select_elites))
    assert torch.equal(actual[2], expected[2])
    torch.testing.assert_close(actual[:2], expected[:2])
    key = torch.tensor([0xA4093822, 0x299F31D0])
    on_gpu = triton.normals(key.cuda(), 1, 3, 4, 1000, 42)
    assert torch.equal(on_gpu.cpu(), philox.normals(key, 1, 3, 4, 1000, 42))


def test_elites_break_ties_as_on_a_cpu():
    values = torch.tensor([[0.0, -0.0, 1.0, 1.0, float("nan"), float("inf")]])
    plans, zeros = torch.randn(1, 6, 1, 3), torch.zeros(1, 1, 3)
    for m in range(1, 7):
        cpu = ops.select_elites(values, plans, m, zeros, zeros)
        gpu = ops.select_elites(values.cuda(), plans.cuda(), m, zeros.cuda(), zeros.cuda())
        assert torch.equal(cpu[2], gpu[2].cpu())


@pytest.mark.parametrize("algorithm", ["lsp", "dreamer"])
def test_a_captured_update_learns_what_an_eager_one_does(algorithm):
    eager, graphed = build(algorithm), build(algorithm)

    def update(*arrays):
        return graphed.update(SequenceBatch(*arrays))

    replay = capture(update, *batch(0, graphed.config), generators=graphed.noise.generators)
    eager.update(batch(0, eager.config))  # so that it has moments to load into
    eager.load_state_dict(copy.deepcopy(graphed.state_dict()))
    for seed in range(1, 4):
        expected = eager.update(batch(seed, eager.config))
        actual = replay(*batch(seed, graphed.config))
        for name in ("world_model/loss", "behavior/actor_loss"):
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-4)
