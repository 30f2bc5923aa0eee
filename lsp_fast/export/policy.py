"""A run's agent as a folder: graphs, policy.json, run.py, and what run.py tests itself by."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from lsp_fast import files
from lsp_fast.agents import Agent
from lsp_fast.config import replace
from lsp_fast.envs.answers import ask, check
from lsp_fast.errors import LspFastError
from lsp_fast.evaluate import load_as, make_env, planned_with
from lsp_fast.export import graphs, run
from lsp_fast.export.describe import center_and_scale, description
from lsp_fast.export.functions import functions, noise_name
from lsp_fast.noise import Noise

SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
STEPS = 24
"""Of the self-test: two plans, and two episodes."""
TRIES = 3

PLAIN: Mapping[str, Any] = {
    "device": "cpu",
    "backend": "reference",
    # Noise comes in as tensors, and a graph computes in one precision.
    "planner.noise": "tensors",
    "planner.precision": "fp32",
    # Of learning, which some backends alone can do.
    "train.precision": "fp32",
    "train.compile": False,
}
"""Values that decide how an agent is computed and not what it does."""


class FunctionNoise(Noise):
    """Numbers from a function of their input's name and shape, as `lsp_fast.export.run` draws them."""

    def __init__(self, draw: Callable[[str, tuple[int, ...]], np.ndarray]) -> None:
        super().__init__(0)
        self._draw = draw

    def normal(self, stream: str, *shape: int) -> Tensor:
        return torch.from_numpy(self._draw(noise_name(stream), shape))


@dataclass(frozen=True)
class Exported:
    """What was written, by size in bytes, and how far the graphs' actions are from the agent's."""

    folder: Path
    sizes: Mapping[str, int]
    difference: float
    acting: str

    def __str__(self) -> str:
        lines = [f"{name:14} {size / 1e6:8.3f} MB" for name, size in self.sizes.items()]
        return "\n".join(
            [
                *lines,
                f"acts {self.acting}; its actions differ from the agent's by at most {self.difference:.1e} of half "
                "their range",
                f"try it        python {self.folder / 'run.py'}",
            ]
        )


def export(
    logdir: str | Path,
    out: str | Path,
    *,
    format: str = "onnx",
    explore: bool = False,
    planner: Mapping[str, Any] | None = None,
) -> Exported:
    """Write the agent of a run's newest checkpoint into a folder of its own.

    Args:
        logdir: the run's folder, or `pretrained:cheetah_run`.
        out: new or empty.
        format: "onnx", or "torch" for torch.export's programs.
        explore: act as while collecting, instead of as in evaluation.
        planner: values of `PlannerConfig` to plan with instead of the run's.

    Raises:
        LspFastError: no run, a folder that is not empty, a library that is missing, an environment that cannot be made,
            a choice that cannot be exported, or graphs that do something else than the agent.
        OSError: it cannot be written.
    """
    out = Path(out)
    files.check_writable(out)
    if out.is_dir() and any(out.iterdir()):
        raise LspFastError(f"{out} is not empty; name another --out")
    if format == "onnx":
        graphs.check_onnx()
    agent = load_as(logdir, **{**planned_with(planner or {}), **PLAIN})
    _refuse(agent, explore)
    env = _env(agent)
    try:
        content = _content(agent, env, format, explore)
        difference = _finish(content, agent, env, explore)
    finally:
        env.close()
    _write(out, content)
    sizes = {name: len(data) for name, data in content.items()}
    return Exported(out, sizes, difference, "exploring" if explore else "deterministic")


def _env(agent: Agent) -> gymnasium.Env:
    """Its environment. Instead of frames it observes numbers: frames may need OpenGL, and only their size counts."""
    if not agent.pixels:
        return make_env(agent.config)
    try:
        return make_env(replace(agent.config, {"obs": "features", "observation.vectors": "all"}))
    except LspFastError:  # beside its frame there is what has no fixed width
        return make_env(agent.config)


def _refuse(agent: Agent, explore: bool) -> None:
    c = agent.config
    if agent.observed.both:
        raise LspFastError("obs = 'both': frames and numbers together are not exported; export a run that sees one")
    if explore and c.collect.commit:
        raise LspFastError(
            f"collect.commit = {c.collect.commit}: segments under random skills are not exported; leave --explore out"
        )


def _content(agent: Agent, env: gymnasium.Env, format: str, explore: bool) -> dict[str, bytes]:
    """The folder's files but for the self-test's; policy.json, which says that it is whole, comes last."""
    found = functions(agent, explore)
    suffix = SUFFIX[format]
    convert = graphs.to_onnx if format == "onnx" else graphs.to_torch
    content = {f"act{suffix}": convert(found.act)}
    if found.plan is not None:
        content[f"plan{suffix}"] = convert(found.plan)
    told = readable(description(agent, found, env, suffix, explore))
    return content | {"run.py": Path(run.__file__).read_bytes(), "policy.json": told.encode()}


def readable(told: dict[str, Any]) -> str:
    """JSON for people: a list of numbers, and a short table, on one line."""

    def joined(found: re.Match[str]) -> str:
        text = re.sub(r"\n\s*", " ", found[0])
        text = text[0] + text[1:-1].strip() + text[-1]
        return text if text[0] == "[" or len(text) <= 110 else found[0]

    text = json.dumps(told, indent=2)
    for innermost in (r"\[[^\[\]{}]*\]", r"\{[^{}]*\}"):
        text = re.sub(innermost, joined, text)
    return text + "\n"


def _finish(content: dict[str, bytes], agent: Agent, env: gymnasium.Env, explore: bool) -> float:
    """Add what the self-test compares with, and make it.

    Returns:
        the largest difference.

    Raises:
        LspFastError: the graphs do something else than the agent.
    """
    told, differences = content.pop("policy.json"), []
    for seed in range(TRIES):
        # Where two plans are as good, rounding decides; that is no error, and another seed has no such two.
        content["selftest.npz"], content["policy.json"] = _recorded(agent, env, seed, explore), told
        with tempfile.TemporaryDirectory() as folder:
            for name, data in content.items():
                (Path(folder) / name).write_bytes(data)
            differences.append(_own(folder).self_test(folder))
        if differences[-1] <= run.TOLERANCE:
            return differences[-1]
        del content["policy.json"]
    raise LspFastError(
        f"the graphs' actions differ from the agent's by {min(differences):.1e} of half their range; please report it "
        "with the run's config.json"
    )


def _own(folder: str) -> Any:
    """The folder's run.py as a module."""
    spec = importlib.util.spec_from_file_location("exported_policy", Path(folder) / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    keeps, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keeps
    return module


def _recorded(agent: Agent, env: gymnasium.Env, seed: int, explore: bool) -> bytes:
    """selftest.npz: observations of two episodes, where each begins, and the agent's actions in own units.

    Frames are random ones: to draw real ones would need OpenGL.
    """
    c = agent.config
    planned = c.planner.over == "actions"
    steps = 4 if planned else 12 if agent.pixels else STEPS
    rng = np.random.RandomState(seed)
    center, scale = center_and_scale(env)
    carry = agent.initial_carry(1, explore=explore, noise=FunctionNoise(run.repeated(seed)))
    observation, over = np.empty(0), True
    rows: dict[str, Any] = {"observation": [], "is_first": [], "action": [], "seed": seed}
    for t in range(steps):
        first = over or t == steps - 2
        if first:
            observation, _ = ask(env, 0, 0, env.reset, seed=seed)
            check(env, 0, 0, observation, 0.0)
            carry = agent.reset(carry, [True])  # pyright: ignore[reportArgumentType]
        seen = rng.randint(0, 256, agent.observation_shape).astype(np.uint8) if agent.pixels else observation
        actions, carry = agent.policy(seen[None], carry)
        rows["observation"].append(seen)
        rows["is_first"].append(first)
        rows["action"].append(center + scale * actions[0].astype(np.float64).clip(-1, 1).reshape(center.shape))
        observation, reward, terminated, truncated, _ = ask(env, 0, t + 1, env.step, actions[0])
        check(env, 0, t + 1, observation, float(reward))
        over = terminated or truncated
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **rows)
    return buffer.getvalue()


def _write(out: Path, content: Mapping[str, bytes]) -> None:
    """All files, or none, whatever stops it."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    written = []
    try:
        for name, data in content.items():
            files.write_bytes(out / name, data)
            written.append(out / name)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        if made:
            shutil.rmtree(out, ignore_errors=True)
        raise
