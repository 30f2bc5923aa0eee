"""A run from pixels, whose frames are painted without OpenGL: learning, resuming, pictures."""

import gymnasium
import numpy as np
import pytest
import torch

from lsp_fast import envs
from lsp_fast.envs.dmc import DmcEnv
from lsp_fast.errors import CheckpointError, ConfigError
from lsp_fast.evaluate import load
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training.loop import train
from lsp_fast.training.trainer import Trainer


class Painted(gymnasium.ObservationWrapper):
    """Frames whose colours follow the task's own numbers."""

    def __init__(self, env):
        super().__init__(env)
        self.max_env_steps = env.max_env_steps
        self.observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def observation(self, observation):
        colours = (127 * (1 + np.tanh(observation[:12]))).astype(np.uint8).reshape(2, 2, 3)
        return colours.repeat(32, 0).repeat(32, 1)


@pytest.fixture(autouse=True)
def painted(monkeypatch):
    make = envs.make

    def paint(task, *, obs="features", fast_render=False, **options):
        env = make(task, **options)
        return Painted(env) if obs == "pixels" else env

    monkeypatch.setattr(envs, "make", paint)


def told(folder):
    timed = {"seconds", "updates_per_second"}
    return [{k: v for k, v in row.items() if k not in timed} for row in read_rows(folder / "metrics.jsonl")]


@pytest.mark.slow
def test_a_run_from_pixels_learns_goes_on_and_shows_what_it_predicts(smoke, tmp_path, monkeypatch):
    from PIL import Image

    config = smoke(obs="pixels")
    whole = train(config, tmp_path / "whole", progress=False)
    assert whole.finished and whole.updates == 12
    pictures = sorted(p.name for p in (tmp_path / "whole" / "images").iterdir())
    assert pictures == ["open_loop_000001000.png", "open_loop_000001200.png"]
    picture = np.asarray(Image.open(tmp_path / "whole" / "images" / pictures[0]))
    assert picture.shape == (4 * 3 * 64, config.train.batch_length * 64, 3)
    # The first row is the truth: four flat colours a frame.
    assert len(np.unique(picture[:64, :64].reshape(-1, 3), axis=0)) <= 4
    assert (tmp_path / "whole" / "replay" / "observation.u8").stat().st_size == 501 * 64 * 64 * 3

    learn = Trainer.learn

    def killed(self):
        if self.updates == 5:
            raise KeyboardInterrupt
        learn(self)

    monkeypatch.setattr(Trainer, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=False)
    monkeypatch.setattr(Trainer, "learn", learn)
    result = train(config, tmp_path / "run", progress=False)
    a, b = (checkpoint.load(r.checkpoint)["agent"]["modules"] for r in (whole, result))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert told(tmp_path / "run") == told(tmp_path / "whole")
    agent = load(tmp_path / "run", device="cpu", backend="reference")
    action, _ = agent.policy(np.zeros((1, 64, 64, 3), np.uint8), agent.initial_carry(1))
    assert action.shape == (1, 6)
    with pytest.raises(ValueError, match=r"\[1, 64, 64, 3\]"):
        agent.policy(np.zeros((1, 17), np.float32), agent.initial_carry(1))


@pytest.mark.slow
def test_pictures_change_nothing_of_what_is_learned(smoke, tmp_path, monkeypatch):
    config = smoke(obs="pixels", env_steps=1100, train__eval_every=50)
    rare = train(smoke(obs="pixels", env_steps=1100, train__eval_every=5000), tmp_path / "rare", progress=False)
    often = train(config, tmp_path / "often", progress=False)
    assert len(list((tmp_path / "often" / "images").iterdir())) > len(list((tmp_path / "rare" / "images").iterdir()))
    a, b = (checkpoint.load(r.checkpoint)["agent"]["modules"] for r in (rare, often))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_does_not_change_what_it_observes(smoke, tmp_path):
    train(smoke(obs="pixels", env_steps=1000, train__pretrain=1), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="obs: 'pixels' there, 'features' asked for"):
        train(smoke(env_steps=1000, train__pretrain=1), tmp_path / "run", progress=False)
    state = checkpoint.load(checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    with pytest.raises(CheckpointError, match="does not fit this version"):
        Trainer(smoke(), tmp_path / "run" / "replay", state)


def test_the_painted_frames_stand_in_for_a_dm_control_task():
    assert isinstance(envs.make("cheetah_run", obs="pixels").unwrapped, DmcEnv)
