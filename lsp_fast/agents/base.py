"""What every agent is to the training loop, and what all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lsp_fast import backends
from lsp_fast.config import Config
from lsp_fast.experience.replay import Replay
from lsp_fast.learning.optimizer import Optimizer
from lsp_fast.noise import Noise
from lsp_fast.observed import Observed, Plain


class Agent(ABC):
    """Acts on observations and learns from the replay.

    Args:
        observation: O; or the shape of frames; or both, as of `Observed.plain`.
        action_dim: A.
        config: checked; its device and backend may be `auto`.

    Raises:
        ConfigError, BackendUnavailable: the device or backend named is unknown or cannot be had.

    Attributes:
        modules: everything with weights, by name; a run that takes this one over loads them.
        optimizers: by the name of the module that each changes.
        frozen: names of modules that do not learn.
        extras_dim: numbers that `extras` gives; the replay keeps them with every step.
        env_steps: 0-d int64 on the device, environment steps of the run so far: a clock for what changes over time. It
            keeps its storage, so that a captured CUDA graph reads it anew at every replay. `at` sets it.
    """

    modules: nn.ModuleDict
    optimizers: dict[str, Optimizer]
    extras_dim: int = 0

    def __init__(self, observation: Plain | Sequence[int], action_dim: int, config: Config) -> None:
        self.config = config
        self.device = backends.device(config.device)
        self.backend = backends.get(config.backend, self.device)
        self.observed = Observed.of(observation)
        self.observation: Plain = self.observed.plain
        self.observation_shape = self.observed.shape
        self.action_dim = action_dim
        self.noise = Noise(config.seed, self.device)
        self.env_steps = torch.zeros((), dtype=torch.int64, device=self.device)
        self.frozen = {"actor", "predictor"} if config.transfer.freeze_policy else set()
        if self.device.type == "cuda":
            # Kernels run on the current device, whatever their tensors' is.
            torch.cuda.set_device(self.device)
            # A setting of the whole process; the Triton kernels go by it too.
            torch.set_float32_matmul_precision("high" if config.train.matmul == "tf32" else "highest")

    def at(self, env_steps: int) -> None:
        """Set the clock. Whoever counts the steps calls it, before the agent acts or learns; it is in no checkpoint."""
        self.env_steps.fill_(env_steps)

    @property
    def exploration(self) -> float | Tensor:
        """Standard deviation of the noise on actions while collecting: a number, or what it has fallen to by now, 0-d
        on the device (SPEC section 8)."""
        c = self.config.collect
        if not c.exploration_steps:
            return c.exploration_noise
        passed = (self.env_steps / c.exploration_steps).clamp(max=1)
        return c.exploration_noise + passed * (c.exploration_noise_final - c.exploration_noise)

    @property
    def pixels(self) -> bool:
        """Whether frames are observed, alone or with numbers."""
        return self.observed.frame is not None

    def upload(self, x: Tensor) -> Tensor:
        """A tensor on the agent's device, without a wait: a copy from pageable memory would wait for all that the GPU
        was asked for before, such as a whole update."""
        if self.device.type != "cuda" or x.device.type != "cpu":
            return x.to(self.device)
        # PyTorch keeps pinned memory for later calls, and does not give this out again before it was read.
        return x.pin_memory().to(self.device, non_blocking=True)

    def checked(self, observation: np.ndarray | Tensor | Mapping[str, np.ndarray], rows: int) -> Tensor:
        """Observations [rows, ...] on the agent's device; of another shape they raise ValueError.

        Of both, {"frame": uint8 [rows, H, W, 3], "vector": [rows, V]} is taken, too.
        """
        if isinstance(observation, Mapping):
            observation = self.observed.pack(observation)
        dtype = torch.uint8 if self.pixels else torch.float32
        obs = self.upload(torch.as_tensor(observation, dtype=dtype))
        if obs.shape != (rows, *self.observation_shape):
            raise ValueError(f"observation must be {[rows, *self.observation_shape]}, not {list(obs.shape)}")
        return obs

    @abstractmethod
    def initial_carry(self, batch: int, *, explore: bool = False, noise: Noise | None = None) -> Any:
        """Memory for `batch` episodes that begin now."""

    @abstractmethod
    def reset(self, carry: Any, is_first: np.ndarray | Tensor) -> Any:
        """Forget the episodes where `is_first` [N] is true."""

    @abstractmethod
    def policy(self, observation: np.ndarray | Tensor, carry: Any) -> tuple[np.ndarray, Any]:
        """Actions [N, A] float32 in [-1, 1], and the carry of the next call."""

    def extras(self, carry: Any) -> np.ndarray | None:
        """What the replay keeps of the step that `policy` has just decided, [N, extras_dim]; None where it decided
        nothing (random actions), or keeps nothing."""
        return None

    def fit(self, replay: Replay) -> None:
        """Take scales from the replay: from the prefill, before anything is learned, and where `Schedule.refits` says
        so from what has come since."""
        return

    @abstractmethod
    def sample(self, replay: Replay, rng: np.random.Generator) -> NamedTuple:
        """Arrays of one update's batch."""

    @abstractmethod
    def update(self, batch: Sequence[Tensor], *, behavior: bool = True, diagnose: bool = False) -> dict[str, Tensor]:
        """One training update from the batch that `sample` gave, on the device; metrics are 0-d tensors there."""

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and noise: all that learning goes on from."""
        return {
            "modules": self.modules.state_dict(),
            "optimizers": {k: o.adam.state_dict() for k, o in self.optimizers.items()},
            "noise": self.noise.state_dict(),
        }

    def load_weights(self, state: dict[str, Any]) -> None:
        """Of what `state_dict` gave only what acting needs, in place: that goes over to any device."""
        self.modules.load_state_dict(state["modules"])

    def load_state_dict(self, state: dict[str, Any], env_steps: int = 0) -> None:
        """Restore what `state_dict` gave, in place: parameters keep their storage.

        Args:
            env_steps: when it was taken, for noise that comes from another kind of device (`Noise.load_state_dict`).
        """
        self.load_weights(state)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.noise.load_state_dict(state["noise"], env_steps)
