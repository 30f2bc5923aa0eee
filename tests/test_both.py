"""Runs that see a Dict's frame and numbers together: learning, resuming, evaluating, transfer, pictures."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

from lsp_fast import evaluate
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.export import policy
from lsp_fast.observed import Observed
from lsp_fast.storage import checkpoint
from lsp_fast.training import data
from lsp_fast.training.loop import train, transfer

TASK = "gym:Dot-v0"
SIZES = Observed(4, (64, 64, 3))


class Dot(gymnasium.Env):
    """A dot in a plane: its place and speed as numbers, and a frame of 32x32 that shows it."""

    observation_space = Dict(place=Box(-2, 2, (2,)), speed=Box(-2, 2, (2,)), camera=Box(0, 255, (32, 32), np.uint8))
    action_space = Box(-1, 1, (2,))

    def seen(self):
        frame = np.zeros((32, 32), np.uint8)
        column, row = (16 + 7 * self.place).astype(int)
        frame[row : row + 2, column : column + 2] = 255
        place, speed = self.place.astype(np.float32), self.speed.astype(np.float32)
        return {"place": place, "speed": speed, "camera": frame}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.uniform(-1, 1, 2), np.zeros(2)
        return self.seen(), {}

    def step(self, action):
        self.speed = 0.1 * action
        self.place = np.clip(self.place + self.speed, -2, 2)
        return self.seen(), float(np.exp(-(self.place @ self.place))), False, False, {}


@pytest.fixture(autouse=True)
def dots():
    gymnasium.register("Dot-v0", Dot, max_episode_steps=40)
    yield
    del gymnasium.registry["Dot-v0"]


@pytest.fixture
def brief(smoke):
    def make(algorithm="lsp", **overrides):
        seen = {"obs": "both", "observation__resize": True} if "obs" not in overrides else {}
        values = {
            "task": TASK, "env_steps": 240, "collect__action_repeat": 1, "collect__prefill": 80,
            "train__train_every": 40, "train__pretrain": 1, "train__batch_size": 3, "train__batch_length": 5,
            "train__eval_every": 10_000, "train__eval_episodes": 1, "train__checkpoint_every": 10_000,
            "behavior__plan_states": 4, "model__normalize_observations": True,
        }  # fmt: skip
        return smoke(algorithm, **{**values, **seen, **overrides})

    return make


def weights(result):
    return checkpoint.load(result.checkpoint)["agent"]["modules"]


def test_a_run_of_both_goes_on_to_the_bit_and_shows_what_it_predicts(brief, tmp_path):
    from PIL import Image

    whole = train(brief(), tmp_path / "whole", progress=False)
    train(brief(env_steps=150), tmp_path / "parts", progress=False)
    parts = train(brief(), tmp_path / "parts", progress=False)
    assert whole.finished and parts.resumed_at == 150 and whole.score == parts.score
    a, b = weights(whole), weights(parts)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    state = checkpoint.load(whole.checkpoint)
    assert checkpoint.observation_of(state) == SIZES.plain
    rows = 6 * 41
    assert (tmp_path / "whole" / "replay" / "observation.u8").stat().st_size == rows * SIZES.shape[0]
    picture = np.asarray(Image.open(tmp_path / "whole" / "images" / "open_loop_000000240.png"))
    assert picture.shape == (4 * 3 * 64, 5 * 64, 3)
    assert set(np.unique(picture[:64])) == {0, 255}  # the truth: a dot

    agent = evaluate.load(tmp_path / "whole", device="cpu", backend="reference")
    assert agent.world_model.observation_std.shape == (4,)
    assert not torch.equal(agent.world_model.observation_std, torch.ones(4))
    observation, _ = evaluate.make_env(agent.config).reset(seed=0)
    parts = {"frame": SIZES.frames(observation)[None], "vector": SIZES.numbers(observation)[None]}
    packed, _ = agent.policy(observation[None], agent.initial_carry(1))
    named, _ = agent.policy(parts, agent.initial_carry(1))
    np.testing.assert_array_equal(packed, named)
    blind, _ = agent.policy({**parts, "vector": parts["vector"] + 1}, agent.initial_carry(1))
    dark, _ = agent.policy({**parts, "frame": 255 - parts["frame"]}, agent.initial_carry(1))
    assert not np.array_equal(packed, blind) and not np.array_equal(packed, dark)
    with pytest.raises(ValueError, match=r"has a frame uint8 \[1, 64, 64, 3\] and a vector \[1, 4\]"):
        agent.policy({**parts, "vector": np.zeros((1, 5))}, agent.initial_carry(1))

    with pytest.raises(LspFastError, match="frames and numbers together are not exported"):
        policy.export(tmp_path / "whole", tmp_path / "policy")
    with pytest.raises(ConfigError, match="both frames and numbers, which no recording holds"):
        data.of_run(tmp_path / "whole")
    moved = transfer(tmp_path / "whole", tmp_path / "moved", TASK, progress=False, env_steps=100)
    assert moved.finished
    with pytest.raises(ConfigError, match=r"nothing can be taken over"):
        transfer(tmp_path / "whole", tmp_path / "x", TASK, progress=False, observation__vectors="place")


@pytest.mark.parametrize("algorithm", ["dreamer", "planet"])
def test_other_algorithms_see_both(algorithm, brief, tmp_path):
    assert train(brief(algorithm, env_steps=120), tmp_path / "run", progress=False).finished


def test_the_cpp_backend_trains_from_both(brief, tmp_path):
    assert train(brief(backend="cpp", env_steps=120), tmp_path / "run", progress=False).finished


@pytest.mark.slow
def test_environments_of_other_processes_are_seen_alike(brief, tmp_path):
    here = train(brief(env_steps=120), tmp_path / "here", progress=False)
    there = train(brief(env_steps=120, collect__workers=1), tmp_path / "there", progress=False)
    a, b = weights(here), weights(there)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_seen_is_said_once_at_the_start(brief, tmp_path, capsys):
    train(brief(env_steps=80), tmp_path / "run")
    said = "gym:Dot-v0: observed are the frame camera (32x32, as 64x64), place (2), speed (2)\n"
    assert capsys.readouterr().err.count(said) == 1


def test_features_leave_the_frame_out_and_pixels_the_numbers(brief, tmp_path):
    for obs, sizes in (("features", 4), ("pixels", (64, 64, 3))):
        config = brief(obs=obs, env_steps=80, observation__resize=obs == "pixels")
        result = train(config, tmp_path / obs, progress=False)
        assert checkpoint.observation_of(checkpoint.load(result.checkpoint)) == sizes


def test_a_run_does_not_change_what_it_sees(brief, tmp_path):
    train(brief(env_steps=80), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match=r"observation\.vectors: 'auto' there, 'place' asked for"):
        train(brief(env_steps=80, observation__vectors="place"), tmp_path / "run", progress=False)


def test_nothing_is_written_where_what_is_asked_for_is_not_there(brief, tmp_path):
    for values, named in (
        ({"observation__resize": False}, "32x32 pixels.*--observation.resize"),
        ({"observation__vectors": "speed,force"}, "'force'.*place"),
    ):
        with pytest.raises(LspFastError, match=named):
            train(brief(**values), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_there_was_a_choice_still_sees_all(brief, tmp_path):
    """Its frame was flattened with the rest; today's command goes on with it."""
    old = train(brief(obs="features", observation__vectors="all", env_steps=80), tmp_path / "run", progress=False)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    del written["observation"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(written))
    assert old.finished
    assert train(brief(obs="features", env_steps=120), tmp_path / "run", progress=False).resumed_at == 80
    assert evaluate.load(tmp_path / "run", device="cpu").observation == 1024 + 4
