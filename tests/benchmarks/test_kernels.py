"""The kernels of an update outside its plan, counted without a card. A commit that changes a number says why."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from agents.test_update import batches, build
from gpu.kernels import CompilerCounter, count

from lsp_fast.config import make_config


@pytest.mark.parametrize(
    ("observe", "world_model", "products"),
    # The first row is what an expert's reading counted, too.
    [("steps", 3020, 777), ("scan", 1364, 539)],
)
def test_kernels_of_an_update_at_the_papers_sizes(observe, world_model, products):
    found = count(make_config("paper", device="cpu", backend="reference", train__observe=observe), 17, 6)
    assert (found["world model"].total, found["world model"].products) == (world_model, products)
    assert (found["behavior"].total, found["behavior"].products) == (1327, 302)


def test_our_kernels_learn_within_the_bar():
    found = count(make_config("paper", device="cpu", backend="reference"), 17, 6, "triton")
    assert (found["world model"].total, found["behavior"].total) == (110, 222)


@pytest.mark.slow
def test_a_compiled_step_of_the_scan_is_at_most_24_kernels():
    def calls(length):
        agent = build(train__compile=True, train__observe="scan", train__batch_length=length)
        counter = CompilerCounter()
        with counter.counting():
            latent = torch.zeros(length, agent.config.train.batch_size, agent.config.model.stoch)
            loss = agent.model_loss(next(batches(agent.config)), latent).loss
            torch.autograd.grad(loss, list(agent.world_model.parameters()))
        return counter.total

    assert calls(4) - calls(2) <= 2 * 24  # at these sizes; 21.75 a step from 4 to 8
