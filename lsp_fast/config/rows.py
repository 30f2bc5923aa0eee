"""Presets and algorithms: rows of overrides over the fields of `Config`, by their dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Overrides = Mapping[str, Any]

_HIRO: Overrides = {
    "skill.source": "none",
    "skill.intrinsic": False,
    # It imagines nothing that these could be measured in.
    "skill.beta_kind": "fixed",
    "predictor.normalise": False,
    "value.clip_targets": False,
    "train.train_every": 2,  # an update of the low level per agent step [O]
    "train.pretrain": 0,
    "train.batch_size": 100,
    "collect.replay_capacity": 200_000,
    "collect.exploration_noise": 0.1,
}

ALGORITHMS: dict[str, Overrides] = {
    "lsp": {},
    "no_mi": {"skill.intrinsic": False},
    "random_skills": {"skill.source": "random"},
    "rand_skills_init": {"skill.source": "random", "skill.intrinsic": False},
    "dreamer": {"skill.source": "none", "skill.intrinsic": False, "behavior.horizon": 15},
    "planet": {
        "skill.source": "none",
        "skill.intrinsic": False,
        "planner.over": "actions",
        "planner.candidates": 1000,
        "planner.elites": 100,
        "planner.iterations": 10,
        "planner.objective": "sum",
        "planner.std_floor": 0.0,
        "planner.std_min": 0.0,
        "planner.rollouts": "sampled",
        "behavior.horizon": 12,
        "behavior.gamma": 1.0,
        "value.clip_targets": False,
    },
    "hiro": {"hiro.goals": "states", **_HIRO},
    "hiro_mi": {"hiro.goals": "skills", **_HIRO},
}

# Sizes that two processor cores learn with in minutes; docs/configuration.md gives the reason of each departure.
_CPU: Overrides = {
    "env_steps": 16_000,
    "collect.prefill": 2500,
    "train.batch_size": 32,
    "train.batch_length": 24,
    "train.eval_every": 2500,
    "train.eval_episodes": 4,
    "train.pretrain_world_model_only": True,
    "train.checkpoint_every": 5000,
    "model.deter": 128,
    "model.hidden": 128,
    "model.encoder_units": 128,
    "model.decoder_units": 128,
    "model.reward_units": 128,
    "model.learning_rate": 1e-3,
    "model.normalize_observations": True,
    "actor.units": 128,
    "actor.layers": 3,
    "actor.init_std": 1.0,
    "actor.entropy": 1e-2,
    "actor.learning_rate": 1e-4,
    "value.units": 128,
    "value.learning_rate": 3e-4,
    "behavior.plan_states": 32,
    "skill.beta": 0.1,
    "skill.per_plan": 4,
    "predictor.units": 128,
    "predictor.learning_rate": 3e-4,
}

PRESETS: dict[str, Overrides] = {
    "paper": {},
    # The paper's sizes and schedule with what makes a GPU fast; learning stays in fp32 numbers.
    "gpu": {"planner.precision": "bf16", "train.matmul": "tf32", "train.overlap": True},
    # What learned fastest there, of what the paper leaves open and of what later work found (docs/results.md).
    "cpu": {
        **_CPU,
        "train.train_every": 2,
        "planner.precision": "auto",
        "planner.rollouts": "mean",
        "planner.std_min": 0.3,
        "skill.random_share": 0.5,
        "skill.beta_kind": "gradient",
        "skill.beta": 0.3,
        "skill.beta_max": 2.0,
        "skill.input_scale": 3.0,
        "predictor.normalise": True,
        "value.slow": 0.02,
        "value.clip_targets": True,
    },
    # Seconds, for tests: everything happens once or twice, nothing is learned.
    "smoke": {
        **_CPU,
        "threads": 1,
        "env_steps": 1200,
        "collect.prefill": 1000,
        "train.pretrain": 2,
        "train.train_every": 20,
        "train.batch_size": 4,
        "train.batch_length": 8,
        "train.eval_every": 600,
        "train.eval_episodes": 1,
        "train.log_every": 100,
        "train.health_every": 4,
        "train.checkpoint_every": 1100,
        "model.deter": 16,
        "model.hidden": 16,
        "model.stoch": 6,
        "model.encoder_units": 16,
        "model.decoder_units": 16,
        "model.reward_units": 16,
        "actor.units": 16,
        "actor.layers": 2,
        "value.units": 16,
        "value.layers": 2,
        "predictor.units": 16,
        "behavior.plan_states": 4,
        "skill.per_plan": 2,
        "planner.candidates": 6,
        "planner.elites": 2,
        "planner.iterations": 2,
    },
}
