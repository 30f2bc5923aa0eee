"""An agent acts alone, and is filmed: a whole episode, or one skill held."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsp_fast.agents import Agent, Carry, ImaginationAgent
from lsp_fast.config import check_seed
from lsp_fast.envs.answers import ask, check
from lsp_fast.envs.dmc import DmcEnv, Pose
from lsp_fast.errors import LspFastError
from lsp_fast.evaluate import make_env
from lsp_fast.files import write_bytes
from lsp_fast.media import Video
from lsp_fast.noise import Noise, stream_seed
from lsp_fast.ops.types import features

FRAME = 160
"""Pixels of a picture's side."""
FPS = 20
"""Frames that a video shows in a second, one for each agent step."""


@dataclass(frozen=True)
class Held:
    """One skill, or none, acted on from a start state: T agent steps."""

    skill: np.ndarray | None  # [Z]
    poses: list[Pose]  # T + 1
    features: torch.Tensor  # [T, F], posterior states, each before its action
    switches: list[int]  # agent steps at which a skill was planned
    frames: list[np.ndarray]  # T + 1 of [FRAME, FRAME, 3] uint8; none without OpenGL
    info: dict[str, Any]  # of the reset


def film(agent: Agent, path: Path, seed: int = 0) -> None:
    """A video of one deterministic episode, an .mp4 or a .gif.

    Raises:
        LspFastError: frames cannot be had, an MP4 cannot be made, or the seed is none.
    """
    write(episode(agent, seed), path)


def episode(agent: Agent, seed: int = 0) -> Video:
    """One deterministic episode. Nothing of the agent changes.

    Raises:
        LspFastError: frames cannot be had, or the seed is none.
        EnvironmentFailed: the environment raised, or gave a number that is not finite.
    """
    check_seed(seed)
    with closing(environment(agent)) as env:
        if (missing := no_frames(env)) is not None:
            raise LspFastError(f"a video needs frames: {missing}")
        return Video(act(agent, env, seed, episode_steps(agent, env), frames=True).frames, FPS)


def write(video: Video, path: Path) -> None:
    """Write it as its suffix says, .mp4 or .gif, in a folder that is made if absent."""
    content = video.file(path.suffix.lower())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def act(
    agent: Agent,
    env: Any,
    seed: int,
    steps: int,
    skill: np.ndarray | None = None,
    frames: bool = False,
) -> Held:
    """Act deterministically for so many agent steps, holding one skill [Z], or planning as in evaluation.

    Raises:
        EnvironmentFailed: it raised, or gave a number that is not finite.
    """
    observation, info = ask(env, 0, 0, env.reset, seed=seed)
    check(env, 0, 0, observation, 0.0)
    carry = agent.initial_carry(1, noise=Noise(stream_seed(seed, "act"), agent.device))
    if skill is not None:
        assert isinstance(agent, ImaginationAgent)
        carry = agent.hold(carry, skill)
    poses, seen, switches, pictures = [env.unwrapped.pose()], [], [], []
    for t in range(steps):
        if frames:
            pictures.append(env.unwrapped.render_frame(FRAME, FRAME))
        action, carry = agent.policy(observation[None], carry)
        if skill is None and getattr(carry, "skill", None) is not None and t % agent.config.skill.length == 0:
            switches.append(t)
        if isinstance(carry, Carry):
            seen.append(features(carry.state)[0])
        observation, reward, terminated, truncated, _ = ask(env, 0, t + 1, env.step, action[0])
        check(env, 0, t + 1, observation, float(reward))
        poses.append(env.unwrapped.pose())
        if terminated or truncated:
            break
    if frames:
        pictures.append(env.unwrapped.render_frame(FRAME, FRAME))
    return Held(skill, poses, torch.stack(seen) if seen else torch.empty(0), switches, pictures, info)


def environment(agent: Agent) -> Any:
    """An environment of the agent's task that says where its robot is.

    Raises:
        LspFastError: it is none of dm_control.
    """
    task, env = agent.config.task, make_env(agent.config)
    if not isinstance(env.unwrapped, DmcEnv):  # a `gym:` task may be one, too
        env.close()
        raise LspFastError(
            f"{task} cannot be filmed: only dm_control tasks say where their robot is; leave videos and pictures out"
        )
    return env


def check_task(agent: Agent) -> None:
    """Raise LspFastError where its task cannot be filmed."""
    environment(agent).close()


def episode_steps(agent: Agent, env: Any) -> int:
    """Agent steps of a whole episode."""
    return (getattr(env, "max_env_steps", None) or 1000) // agent.config.collect.action_repeat


def no_frames(env: Any) -> str | None:
    """Why no frame can be had; None where one can."""
    env.reset(seed=0)
    try:
        env.unwrapped.render_frame(FRAME, FRAME)
    except LspFastError as error:
        return str(error)
    return None
