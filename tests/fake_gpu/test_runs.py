"""Whole runs on a pretended GPU: they train, stop between two rows of the log, go on, are evaluated and passed on."""

import math
import os
import signal

import pytest
import torch
from fake_gpu.cuda import fake_gpu
from fake_gpu.device import FakeTensor
from torch.utils._pytree import tree_leaves

from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import ALGORITHMS
from lsp_fast.evaluate import Evaluator, load
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training import loop
from lsp_fast.training.loop import train, transfer
from lsp_fast.training.trainer import Trainer

VARIANTS = {
    **{algorithm: (algorithm, {}) for algorithm in ALGORITHMS},
    "pixels": ("lsp", {"obs": "pixels", "planner__candidates": 4}),
    "both": ("lsp", {"obs": "both", "planner__candidates": 4, "model__normalize_observations": True}),
    "autocast": ("lsp", {"train__autocast": True}),
    "overlap": ("lsp", {"train__overlap": True}),
    "philox in bf16": ("lsp", {"planner__noise": "philox", "planner__precision": "bf16", "train__matmul": "tf32"}),
    "warm start": ("planet", {"planner__warm_start": True}),
    "normaliser": ("lsp", {"model__normaliser": "replay", "model__normaliser_every": 7, "model__kl_balance": 0.8}),
    "values": ("lsp", {"value__slow": 0.02, "value__replay": 0.3, "planner__value": "task"}),
    "norm": ("lsp", {"model__norm": True}),
    "planning often": (
        "lsp",
        {"planner__replan": 2, "planner__rollouts": "mean", "collect__commit": 0.5, "collect__exploration_steps": 200},
    ),
    "terminations": ("lsp", {"model__discount_head": "on"}),
    "beta by gradients": (
        "lsp",
        {
            "skill__beta_kind": "gradient",
            "skill__beta_every": 6,
            "train__train_every": 2,
            "skill__random_share": 0.5,
            "behavior__starts": 6,
            "skill__input_scale": 3.0,
            "predictor__normalise": True,
            "actor__entropy_kind": "range",
            "actor__saturation": 0.1,
            "model__discount_head": "on",
        },
    ),
}
ALLOWED = {
    # Once a run, or once a start of it.
    ("pageable copy", "agents/imagination:__init__"),
    ("pageable copy", "agents/hiro:__init__"),
    ("pageable copy", "agents/goals:__init__"),
    ("pageable copy", "agents/hiro:fit"),
    ("pageable copy", "agents/base:load_weights"),
    ("pageable copy", "agents/acting:loaded"),
    ("pageable copy", "agents/hiro:loaded"),
    ("pageable copy", "learning/optimizer:load_state_dict"),
    ("pageable copy", "training/transfer:take_over"),
    ("host read", "agents/goals:half_range"),
    # Once a row of the log, an evaluation or a checkpoint.
    ("pageable copy", "training/means:_stacked"),
    ("host read", "training/means:pop"),
    ("host read", "training/means:state_dict"),
    ("host read", "training/learner:check_finite"),
    ("pageable copy", "reports/open_loop:predicted_frames"),
    ("host read", "reports/open_loop:predicted_frames"),
    # Once a step: what was decided. `test_agents` counts it.
    ("host read", "agents/imagination:policy"),
    ("host read", "agents/hiro:policy"),
    ("host read", "agents/hiro:extras"),
}
"""Where a run may wait for the GPU. Nothing else is: not an update, not the way of a batch or of an observation."""


@pytest.fixture
def stopped(monkeypatch):
    """A run that is asked to stop in an update that lies between two rows of the log."""
    learn = Trainer.learn

    def stop(trainer):
        learn(trainer)
        if trainer.env_steps > 60:
            os.kill(os.getpid(), signal.SIGTERM)

    def run(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "learn", stop)
            return train(*arguments, **options, progress=False)

    return run


@pytest.fixture
def made(monkeypatch):
    """The trainers that runs make."""
    found = []

    class Kept(Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            found.append(self)

    monkeypatch.setattr(loop, "Trainer", Kept)
    return found


def lasting(agent):
    """Weights, buffers, and Adam's state."""
    adam = tree_leaves([list(o.adam.state.values()) for o in agent.optimizers.values()])
    return [*agent.modules.parameters(), *agent.modules.buffers(), *(x for x in adam if isinstance(x, torch.Tensor))]


def rows(folder):
    return read_rows(folder / "metrics.jsonl")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_stops_between_two_rows_and_goes_on(variant, gpu, launches, small, stopped, made, tmp_path):
    algorithm, overrides = VARIANTS[variant]
    config = small(algorithm, backend="auto", **overrides)
    first = stopped(config, tmp_path / "run")
    assert not first.finished and 60 < first.env_steps < 80
    kept = checkpoint.load(first.checkpoint)["means"]
    assert kept and all(len(values) for values in kept.values())
    before = len(rows(tmp_path / "run"))
    second = train(config, tmp_path / "run", progress=False)
    assert second.finished and second.resumed_at == first.env_steps and second.updates > first.updates
    assert len(rows(tmp_path / "run")) > before and math.isfinite(second.score)
    assert gpu.seen() - ALLOWED == set()
    for trainer in made:
        assert trainer.agent.backend.name == "triton"
        assert all(isinstance(x, FakeTensor) for x in lasting(trainer.agent))
        assert all(value.numel() == 16 for value in trainer.agent.noise.state_dict().values())
    if isinstance(made[0].agent, ImaginationAgent):
        assert made[0].agent._learn[True, False, False]._replays, "the update was not captured"
        assert launches
    for launch in launches:
        assert all(n > 0 for n in launch.grid)
        assert all(isinstance(x, FakeTensor) for x in launch.tensors.values()), launch.kernel
    # What a GPU learned is evaluated where there is none.
    assert math.isfinite(
        Evaluator(config, 1).run_agent(load(tmp_path / "run", device="cpu", backend="reference"), 0).mean
    )


@pytest.mark.parametrize("algorithm", ["lsp", "hiro_mi"])
def test_a_run_moves_to_a_gpu_and_back(algorithm, small, stopped, tmp_path, capsys):
    def go_on(device):
        config = small(algorithm, device=device, env_steps=steps[device])
        return train(config, tmp_path / "run")

    steps = {"cpu": 100, "cuda": 80}
    stopped(small(algorithm, device="cpu"), tmp_path / "run")
    capsys.readouterr()
    with fake_gpu() as gpu:
        assert go_on("cuda").finished and gpu.faults == []
    assert "another kind of device than cuda" in " ".join(capsys.readouterr().err.split())
    assert go_on("cpu").finished
    assert "another kind of device than cpu" in " ".join(capsys.readouterr().err.split())


def test_a_frozen_policy_is_passed_on(gpu, small, tmp_path):
    train(small(task="cheetah_run", env_steps=48), tmp_path / "source", progress=False)
    there = tmp_path / "reach"
    result = transfer(tmp_path / "source", there, "walker_walk", progress=False, transfer__freeze_policy=True)
    assert result.finished and gpu.seen() - ALLOWED == set()
    source, learned = (
        checkpoint.load(checkpoint.list_checkpoints(folder / "checkpoints")[-1])["agent"]["modules"]
        for folder in (tmp_path / "source", there)
    )
    same = {name.split(".")[0] for name, x in learned.items() if torch.equal(x, source[name])}
    moved = {name.split(".")[0] for name, x in learned.items() if not torch.equal(x, source[name])}
    assert {"actor", "predictor"} <= same - moved and {"world_model", "value"} <= moved
