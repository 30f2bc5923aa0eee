"""A pretended GPU, tasks that need no simulator, and small configurations."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from fake_gpu.cuda import fake_gpu
from gymnasium.spaces import Box

from lsp_fast import envs
from lsp_fast.backends import registry
from lsp_fast.config import make_config
from lsp_fast.observed import Observed
from lsp_fast.training import run

LAUNCHES = Path(__file__).parents[2] / "benchmarks" / "gpu" / "launches.py"
SMALL = {
    "env_steps": 80,
    "collect__action_repeat": 1,
    "collect__prefill": 40,
    "train__train_every": 4,
    "train__batch_size": 3,
    "train__batch_length": 4,
    "train__eval_every": 1000,
    "train__log_every": 20,
    "train__checkpoint_every": 1000,
    "behavior__horizon": 4,
    "skill__length": 2,
}


class Short(gymnasium.Env):
    """Twenty steps; what is seen and earned follows the actions."""

    max_env_steps = 20

    def __init__(self, obs):
        self.observed = Observed(0 if obs == "pixels" else 5, None if obs == "features" else (64, 64, 3))
        self.action_space = Box(-1, 1, (2,), np.float32)
        low, high = (-9, 9) if obs == "features" else (0, 255)
        self.observation_space = Box(low, high, self.observed.shape, self.observed.dtype)

    def seen(self):
        numbers = np.asarray([*self.place, *np.sin(self.place), self.count / 20], np.float32)
        if self.observed.frame is None:
            return numbers
        frame = np.full((64, 64, 3), 100 + 20 * self.place[0], np.uint8)
        return self.observed.pack({"frame": frame, "vector": numbers}) if self.observed.both else frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.place = 0, self.np_random.uniform(-1, 1, 2)
        return self.seen(), {}

    def step(self, action):
        self.count, self.place = self.count + 1, np.clip(self.place + 0.3 * action, -2, 2)
        return self.seen(), float(self.place[0]), False, self.count == 20, {"env_steps": 1}


@pytest.fixture(autouse=True)
def short_tasks(monkeypatch):
    """Every task is the short one, and no curve is drawn: that would take as long as a run."""
    monkeypatch.setattr(envs, "make", lambda task, obs="features", **_: Short(obs))
    monkeypatch.setattr(run, "learning_curves", lambda scores, path: path)


@pytest.fixture
def gpu():
    """A pretended GPU. At the end nothing may have been refused, for a caller may have caught the error."""
    registry._auto.cache_clear()
    with fake_gpu() as device:
        yield device
    registry._auto.cache_clear()
    assert device.faults == []


@pytest.fixture
def launches(gpu, monkeypatch):
    """Triton's launches, recorded instead of run; what they would write is ones."""
    pytest.importorskip("triton")
    spec = importlib.util.spec_from_file_location("recorded_launches", LAUNCHES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(registry, "triton_driver", lambda: SimpleNamespace(get_current_target=lambda: "sm_90"))
    gpu.fill = 1  # deviations among it
    with module.recorded() as found:
        yield found


@pytest.fixture(scope="session")
def small():
    """make_config for a run on the GPU of a second: small("planet", obs="pixels")."""

    def make(algorithm="lsp", device="cuda", **overrides):
        values = {**SMALL, "device": device, "backend": "reference"}
        if algorithm == "planet":  # its row comes after the preset's small planner
            values |= {"planner__candidates": 8, "planner__elites": 2, "planner__iterations": 2}
        return make_config("smoke", algorithm, **{**values, **overrides})

    return make
