"""Options of world model, value and behaviour in whole runs: they train, and go on to the same end (SPEC section 8)."""

import numpy as np
import pytest
import torch

from lsp_fast.experience.replay import Replay
from lsp_fast.storage import checkpoint
from lsp_fast.training.loop import train
from lsp_fast.training.trainer import Trainer

BRIEF = {
    "task": "gym:Pendulum-v1",  # episodes of 200 steps
    "collect__prefill": 200,
    "train__eval_every": 10_000,
    "train__checkpoint_every": 10_000,
}
OPTIONS = {
    "replay": {"model__normaliser": "replay", "model__normaliser_every": 150},
    "symlog": {"model__normaliser": "symlog", "model__kl_balance": 0.8},
    "norm": {"model__norm": True},
    "values": {"value__slow": 0.02, "value__replay": 0.3, "value__clip_targets": True, "planner__value": "task"},
    "beta by gradients": {"skill__beta_kind": "gradient", "skill__beta_every": 4, "predictor__normalise": True},
    "random starts": {"skill__random_share": 0.5, "behavior__starts": 8, "skill__offset": "off"},
    "a policy that stays in range": {
        "skill__input_scale": 3.0, "actor__saturation": 0.1, "actor__entropy_kind": "range",
    },
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_a_run_and_one_in_two_parts_are_the_same(smoke, tmp_path, option):
    values = {**BRIEF, **OPTIONS[option]}
    whole = train(smoke(env_steps=620, **values), tmp_path / "whole", progress=False)
    train(smoke(env_steps=430, **values), tmp_path / "parts", progress=False)
    parts = train(smoke(env_steps=620, **values), tmp_path / "parts", progress=False)
    assert whole.finished and parts.finished and parts.resumed_at == 430 and whole.score == parts.score
    a, b = (checkpoint.load(result.checkpoint)["agent"]["modules"] for result in (whole, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_normaliser_follows_the_replay_at_its_cadence_alone(smoke, tmp_path, monkeypatch):
    asked = []
    statistics = Replay.observation_statistics
    monkeypatch.setattr(
        Replay, "observation_statistics", lambda replay: asked.append(replay.num_episodes) or statistics(replay)
    )
    found = {}
    for normaliser in ("prefill", "replay"):
        trainer = Trainer(smoke(**BRIEF, model__normaliser=normaliser, model__normaliser_every=150), tmp_path)
        while trainer.env_steps < 620:
            trainer.collect()
        found[normaliser] = trainer.agent.world_model.observation_mean.clone()
        assert asked == ([1] if normaliser == "prefill" else [1, 1, 2, 3])  # at 200; then at 300, 450, 600 steps
        asked.clear()
    mean, std = statistics(trainer.replay)
    assert torch.equal(found["replay"], torch.from_numpy(mean)) and not torch.equal(*found.values())
    assert torch.equal(trainer.agent.world_model.observation_std, torch.from_numpy(np.maximum(std, 1e-2)))
