"""policy.json: what whoever runs the graphs must know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

import lsp_fast
from lsp_fast.agents import Agent, HiroAgent, ImaginationAgent
from lsp_fast.export.functions import Function, Functions

FORMAT = 1


def description(agent: Agent, functions: Functions, env: gymnasium.Env, suffix: str, explore: bool) -> dict[str, Any]:
    """The content of policy.json, for JSON.

    Args:
        env: of the run's task, observing features.
        suffix: of the graphs' files.
        explore: whether it acts as while collecting.
    """
    c = agent.config
    return {
        "format": FORMAT,
        "lsp_fast": lsp_fast.__version__,
        "task": c.task,
        "algorithm": c.algorithm,
        "env_steps": int(agent.env_steps),
        "acting": "exploring" if explore else "deterministic",
        "step": {
            "action_repeat": c.collect.action_repeat,
            "seconds": _seconds(env, c.collect.action_repeat),
        },
        "observation": _observation(agent, env),
        "action": _action(env),
        "skill": _skill(agent),
        "planning": _planning(agent),
        "memory": {name: {"shape": shape, "next": after} for name, (shape, after) in functions.memory.items()},
        "graphs": {
            "act": _graph(functions.act, f"act{suffix}"),
            "plan": None if functions.plan is None else _graph(functions.plan, f"plan{suffix}"),
        },
        "noise": "inputs of role noise are standard normal numbers, drawn anew at every step",
    }


def _graph(function: Function, file: str) -> dict[str, Any]:
    inputs = [
        {"name": x.name, "role": x.role, "shape": list(x.like.shape), "dtype": str(x.like.dtype).removeprefix("torch.")}
        for x in function.inputs
    ]
    outputs = [{"name": name, "shape": list(shape), "dtype": "float32"} for name, shape in function.outputs.items()]
    return {"file": file, "inputs": inputs, "outputs": outputs}


def _seconds(env: gymnasium.Env, action_repeat: int) -> float | None:
    """Simulated time of an agent step, where the environment says."""
    if (seconds := getattr(env, "step_seconds", None)) is not None:
        return seconds
    dt = getattr(env.unwrapped, "dt", None)
    return float(dt) * action_repeat if isinstance(dt, (int, float)) else None


def _observation(agent: Agent, env: gymnasium.Env) -> dict[str, Any]:
    frames = agent.pixels
    entries: dict[str, int] | None = None if frames else getattr(env, "entries", None)
    return {
        "shape": list(agent.observation_shape),
        "dtype": "uint8" if frames else "float32",
        "unit": "red, green and blue, 0 to 255" + _resized(agent)
        if frames
        else "the environment's own (dm_control: metres, radians, seconds, newtons)",
        "entries": None if entries is None else [{"name": name, "size": size} for name, size in entries.items()],
        "normalised": _normaliser(agent),
    }


def _resized(agent: Agent) -> str:
    if not agent.config.observation.resize:
        return ""
    return (
        "; a frame of another size is to be made this one before act, each pixel the mean over its area (Pillow's BOX)"
    )


def _normaliser(agent: Agent) -> dict[str, Any]:
    """Inside the graph; told for those who want to know what it has seen."""
    inside = {"where": "inside act: give observations as they are"}
    if not isinstance(agent, ImaginationAgent):
        return inside | {"formula": "x"}
    if agent.pixels:
        return inside | {"formula": "x / 255 - 0.5"}
    if not agent.config.model.normalize_observations:
        return inside | {"formula": "x"}
    model = agent.world_model
    formula = "(x - mean) / std"
    if agent.config.model.normaliser == "symlog":
        formula = f"sign(y) log(1 + |y|), y = {formula}"
    statistics = {"mean": _numbers(model.observation_mean), "std": _numbers(model.observation_std)}
    return inside | {"formula": formula, **statistics}


def center_and_scale(env: gymnasium.Env) -> tuple[np.ndarray, np.ndarray]:
    """The environment's own action for one of 0, and what 1 adds to it: float64, in the shape of its own actions."""
    low, high = env.action_bounds  # pyright: ignore[reportAttributeAccessIssue]
    return (low + high) / 2, (high - low) / 2


def _action(env: gymnasium.Env) -> dict[str, Any]:
    center, scale = center_and_scale(env)
    low, high = env.action_bounds  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "shape": list(np.shape(center)),
        "names": getattr(env, "actuators", None),
        "formula": "center + scale * a, a in [-1, 1] from the graph",
        "center": center.tolist(),
        "scale": scale.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "unit": "the environment's own control",
    }


def _skill(agent: Agent) -> dict[str, Any] | None:
    if isinstance(agent, HiroAgent):
        meaning = (
            "a skill"
            if agent.config.hiro.goals == "skills"
            else "the values that some entries of the observation are to come to, in their units"
        )
        entries = getattr(agent.goals, "entries", None)
        return {
            "size": agent.goals.dim,
            "length": agent.length,
            "meaning": meaning,
            "of_observation": None if entries is None else entries.tolist(),
        }
    c = agent.config
    if not c.skill_dim:
        return None
    return {
        "size": c.skill.dim,
        "length": c.skill.length,
        "meaning": "numbers that the policy sees; learned from draws of N(0, I)",
        "of_observation": None,
    }


def _planning(agent: Agent) -> dict[str, Any] | None:
    """When `plan` is called. A segment is what one skill is for, in agent steps."""
    c = agent.config
    if isinstance(agent, HiroAgent):
        return {"by": "plan", "segment": agent.length, "every": agent.length, "after_observing": False}
    if c.planner.over == "actions":
        return {"by": "plan", "segment": 1, "every": 1, "after_observing": True}
    if c.skill.source == "none":
        return None
    if c.skill.source == "random":
        return {"by": "chance", "segment": c.skill.length, "every": c.skill.length, "after_observing": False}
    every = c.planner.replan or c.skill.length
    return {"by": "plan", "segment": c.skill.length, "every": every, "after_observing": True}


def _numbers(x: Any) -> Sequence[float]:
    return x.tolist()
