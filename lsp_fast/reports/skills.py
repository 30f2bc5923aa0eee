"""What an agent's skills do, as pictures and as a number (SPEC section 7: figures 1, 7, 8 and 10 of the paper)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsp_fast.agents import Agent, ImaginationAgent
from lsp_fast.config import check_seed
from lsp_fast.errors import LspFastError
from lsp_fast.files import write_text
from lsp_fast.learning.skill_health import own_information
from lsp_fast.media import Video
from lsp_fast.noise import Noise, stream_seed
from lsp_fast.reports.figures import canvas, save
from lsp_fast.reports.film import FPS, Held, act, environment, episode_steps, no_frames, write

SHOWN = 5
"""Pictures of each skill beside each other, from its first state to its last."""


@dataclass(frozen=True)
class Shown:
    """What `show` found and wrote."""

    numbers: dict[str, float | None]
    files: list[Path]
    missing: str | None
    """Why there are no frames; None where there are."""

    def __str__(self) -> str:
        lines = [f"{name:24} {'-' if value is None else f'{value:.3f}'}" for name, value in self.numbers.items()]
        lines += [f"{'figure' if path.suffix == '.png' else 'file':24} {path}" for path in self.files]
        return "\n".join([*lines, *([f"no frames: {self.missing}"] if self.missing else [])])


def show(agent: Agent, out: Path, *, count: int = 6, env_steps: int = 40, seed: int = 0, form: str = "mp4") -> Shown:
    """Hold skills from one start state, draw and film them, and say how distinct they are.

    Args:
        agent: trained, of an algorithm with skills, on a dm_control task.
        out: folder for skills.png, skills.mp4, paths.png and skills.json.
        count: skills, drawn from N(0, I).
        env_steps: that each is held.
        seed: of the start state and of the skills.
        form: of the video, mp4 or gif.

    Raises:
        LspFastError: no skills, a task without a body, or less than two skills or steps; a seed that is none; or an MP4
            cannot be made.
    """
    check_seed(seed)
    c = agent.config
    steps = env_steps // c.collect.action_repeat
    if c.skill.source == "none" or not isinstance(agent, ImaginationAgent):
        raise LspFastError(f"the run's algorithm, {c.algorithm}, has no skills to show")
    if count < 2 or steps < 1:
        raise LspFastError(
            f"{count} skills for {env_steps} environment steps: at least two skills are compared, over at least "
            f"{c.collect.action_repeat} steps"
        )
    with closing(environment(agent)) as env:
        return _show(agent, env, out, count, steps, seed, form)


def _show(agent: ImaginationAgent, env: Any, out: Path, count: int, steps: int, seed: int, form: str) -> Shown:
    c = agent.config
    missing = no_frames(env)
    skills = Noise(stream_seed(seed, "skills")).normal("skills", count, c.skill.dim).numpy()
    held = [act(agent, env, seed, steps, skill, frames=missing is None) for skill in skills]
    episode = act(agent, env, seed, episode_steps(agent, env))
    numbers = {**distinctness(held), "information": _information(agent, held)}
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "skills.json", out / "paths.png"]
    task = {"task": c.task, "algorithm": c.algorithm, "seed": seed, "env_steps": steps * c.collect.action_repeat}
    ends = [{"skill": h.skill.tolist(), "end": h.poses[-1].root.tolist()} for h in held if h.skill is not None]
    write_text(files[0], json.dumps({**task, **numbers, "skills": ends}, indent=1) + "\n")
    _draw_paths(held, episode, files[1], f"{c.algorithm} {c.task}")
    if missing is None:
        files += [out / "skills.png", out / f"skills.{form}"]
        _draw_frames(held, files[2], c.collect.action_repeat)
        # One whose episode ended before the others' stands still.
        longest = max(len(h.frames) for h in held)
        shown = [h.frames + [h.frames[-1]] * (longest - len(h.frames)) for h in held]
        rows = [np.concatenate(frames, 1) for frames in zip(*shown, strict=True)]
        write(Video(rows, FPS), files[3])
    return Shown(numbers, files, missing)


def distinctness(held: Sequence[Held]) -> dict[str, float | None]:
    """How far apart skills end that began in one state: means over pairs of skills.

    Returns:
        end_distance: between positions, metres.
        posture_distance: between joint angles, root mean square, radians; None without hinges.
    """
    ends = [h.poses[-1] for h in held]
    pairs = list(combinations(ends, 2))
    apart = float(np.mean([np.linalg.norm(a.root - b.root) for a, b in pairs]))
    if not len(ends[0].joints):
        return {"end_distance": apart, "posture_distance": None}
    bent = float(np.mean([np.sqrt(np.mean((a.joints - b.joints) ** 2)) for a, b in pairs]))
    return {"end_distance": apart, "posture_distance": bent}


@torch.no_grad()
def _information(agent: ImaginationAgent, held: Sequence[Held]) -> float | None:
    """Nats that a skill's first segment tells of which of the skills it was, by the predictor and in real states: 0
    where they are alike, at most log of their number; without a predictor None."""
    k = agent.config.skill.length
    segments = [h for h in held if len(h.features) > k]
    if agent.predictor is None or not segments:
        return None
    feature = torch.stack([h.features[: k + 1] for h in segments], 1)  # [K + 1, N, F]
    skill = torch.as_tensor(np.stack([h.skill for h in segments if h.skill is not None]), device=agent.device)
    noise = Noise(0, agent.device).normal("predictor", *agent.predictor.noise_shape(len(segments)))
    # Each segment's own skill first.
    compared = [skill.roll(-i, 0) for i in range(len(segments))]
    log_q = [agent.predictor.log_prob(feature[1 : k + 1], feature[0], z, noise) for z in compared]
    return float(own_information(torch.stack(log_q)).mean())


def _draw_paths(held: Sequence[Held], episode: Held, path: Path, title: str) -> None:
    """From above: each skill from one state, and one episode with the places where its skill changed."""
    figure, [[left, right]] = canvas(2, size=(5.0, 5.0))
    for h in held:
        points = np.array([pose.root for pose in h.poses])
        assert h.skill is not None
        left.plot(points[:, 0], points[:, 1], label="(" + ", ".join(f"{x:.1f}" for x in h.skill) + ")")
        left.plot(*points[-1, :2], "o", color=left.lines[-1].get_color())
    left.plot(*held[0].poses[0].root[:2], "k+", markersize=12)
    left.set_title("one skill held, from one state")
    left.legend(fontsize=7)
    points = np.array([pose.root for pose in episode.poses])
    for begin, end in pairwise([*(episode.switches or [0]), len(points) - 1]):
        right.plot(points[begin : end + 1, 0], points[begin : end + 1, 1])
        right.plot(*points[begin, :2], "k.", markersize=4)
    if "target" in episode.info:
        right.plot(*episode.info["target"][:2], "r*", markersize=12, label="target")
        right.legend(fontsize=7)
    right.set_title("one evaluation episode; dots: a new skill")
    for axis in (left, right):
        axis.set_xlabel("x (m)")
        axis.set_ylabel("y (m)")
        axis.set_aspect("equal", adjustable="datalim")
    figure.suptitle(title)
    save(figure, path, dpi=110)


def _draw_frames(held: Sequence[Held], path: Path, action_repeat: int) -> None:
    """A row for each skill, columns for the time."""
    shown = np.linspace(0, min(len(h.frames) for h in held) - 1, SHOWN).round().astype(int)
    figure, axes = canvas(SHOWN, len(held), size=(1.4, 1.4))
    for h, row in zip(held, axes, strict=True):
        assert h.skill is not None
        for step, axis in zip(shown, row, strict=True):
            axis.imshow(h.frames[step])
            axis.set_xticks([])
            axis.set_yticks([])
            if h is held[0]:
                axis.set_title(f"{step * action_repeat} steps", fontsize=8)
        row[0].set_ylabel("\n".join(f"{x:.1f}" for x in h.skill), fontsize=7, rotation=0, labelpad=12)
    save(figure, path, dpi=110)
