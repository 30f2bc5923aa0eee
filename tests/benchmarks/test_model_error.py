"""What a world model knows of its replay."""

import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from model_error import AHEAD, explained, known

from lsp_fast.training.loop import train


def test_what_is_explained_of_a_variance():
    truth = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert explained(truth, truth) == 1
    assert explained(truth.mean().expand(2, 2), truth) == pytest.approx(0)
    assert explained(-truth, truth) < 0


def test_shares_of_rewards_and_of_each_entry(smoke, tmp_path):
    train(smoke(task="cheetah_run", env_steps=1100), tmp_path, progress=False)
    found = known(tmp_path)
    assert found["env_steps"] == 1100 and list(found["reward_ahead"]) == list(AHEAD)
    assert {name: len(shares) for name, shares in found["entries"].items()} == {"position": 8, "velocity": 9}
    every = [found["reward"], *found["reward_ahead"].values(), *chain(*found["entries"].values())]
    assert all(share <= 1 for share in every)
    assert known(tmp_path) == found
