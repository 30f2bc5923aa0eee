"""Environments seen through a camera, alone or beside their own numbers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from lsp_fast.envs.dmc import DmcEnv
from lsp_fast.observed import Observed

SIZE = 64
"""Width and height of an observation."""


class PixelEnv(
    gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray], gymnasium.utils.RecordConstructorArgs
):
    """A `DmcEnv` whose observations are frames, uint8 [64, 64, 3], drawn after a reset and after each agent step; or
    both these and the features, as `lsp_fast.observed` packs them.

    All else is the environment's own; where the simulation diverged, the frame is the one before, too. A frame takes
    far longer than a step and all are drawn by one thread of a process: more processes, not threads, make it faster.
    """

    releases_gil: bool = False
    max_env_steps: int | None
    """As the environment's."""

    def __init__(self, env: DmcEnv, features: bool = False) -> None:
        """
        Args:
            env: what is seen.
            features: observe them beside the frame.

        Attributes:
            observed: sizes of an observation.
        """
        gymnasium.utils.RecordConstructorArgs.__init__(self, features=features)
        super().__init__(env)
        self._env = env
        self.observed = Observed(sum(env.entries.values()) if features else 0, (SIZE, SIZE, 3))
        self.max_env_steps = env.max_env_steps
        self.observation_space = gymnasium.spaces.Box(0, 255, self.observed.shape, np.uint8)
        self._frame = np.zeros((SIZE, SIZE, 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """As the environment's, but observing uint8 [64, 64, 3], or both.

        Raises:
            LspFastError: there is no OpenGL, or it does not work.
        """
        features, info = self._env.reset(seed=seed, options=options)
        self._frame = self.render_frame(SIZE, SIZE)
        return self._observation(features), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As the environment's, but observing uint8 [64, 64, 3], or both."""
        features, reward, terminated, truncated, info = self._env.step(action)
        if not info.get("diverged"):
            self._frame = self.render_frame(SIZE, SIZE)
        return self._observation(features), reward, terminated, truncated, info

    def render_frame(self, width: int, height: int) -> np.ndarray:
        """`DmcEnv.render_frame`."""
        return self._env.render_frame(width, height)

    def _observation(self, features: np.ndarray) -> np.ndarray:
        """The frame, a copy, or both."""
        if not self.observed.vector:
            return self._frame.copy()
        return self.observed.pack({"frame": self._frame, "vector": features})
