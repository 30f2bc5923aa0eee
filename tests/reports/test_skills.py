"""Pictures of skills and the number that tells a collapse."""

import json

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from lsp_fast import envs
from lsp_fast.agents import ImaginationAgent
from lsp_fast.envs.dmc import DmcEnv, Pose
from lsp_fast.errors import LspFastError
from lsp_fast.evaluate import dimensions
from lsp_fast.noise import Noise, stream_seed
from lsp_fast.reports import film as films
from lsp_fast.reports.film import Held, act, film
from lsp_fast.reports.skills import distinctness, show


@pytest.fixture
def build(smoke):
    def make(algorithm="lsp", task="cheetah_run", **overrides):
        config = smoke(algorithm, task=task, **overrides)
        env = envs.make(task)
        return ImaginationAgent(*dimensions(env), config)

    return make


@pytest.fixture
def painted(monkeypatch):
    """Frames without OpenGL: their shade says how often a picture was taken."""
    taken = []

    def render(self, width, height):
        taken.append(1)
        return np.full((height, width, 3), len(taken) % 256, np.uint8)

    monkeypatch.setattr(DmcEnv, "render_frame", render, raising=False)


@pytest.fixture
def blind(monkeypatch):
    def render(self, width, height):
        raise LspFastError("no OpenGL: install libegl1")

    monkeypatch.setattr(DmcEnv, "render_frame", render, raising=False)


def posed(root, joints=(0.0, 0.0)):
    pose = Pose(np.array(root, float), np.array(joints))
    return Held(np.zeros(3), [pose], torch.zeros(1, 1), [], [], {})


def test_distances_are_means_over_pairs():
    held = [posed((0, 0, 0)), posed((3, 4, 0), (2.0, 0.0)), posed((0, 0, 0))]
    numbers = distinctness(held)
    assert numbers["end_distance"] == pytest.approx(2 * 5 / 3)
    assert numbers["posture_distance"] == pytest.approx(2 * np.sqrt(2) / 3)
    assert distinctness([posed((1, 2, 3))] * 3) == {"end_distance": 0.0, "posture_distance": 0.0}
    assert distinctness([posed((0, 0, 0), ())] * 2)["posture_distance"] is None


def test_a_held_skill_stays_and_a_free_one_changes_every_k_steps(build):
    agent = build(skill__length=3)
    env = envs.make("cheetah_run")
    seen = []
    policy = agent.policy

    def watched(observation, carry):
        action, carry = policy(observation, carry)
        seen.append(carry.skill[0].tolist())
        return action, carry

    agent.policy = watched
    held = act(agent, env, 0, 7, np.array([1.0, 2.0, 3.0], np.float32))
    assert seen == [[1.0, 2.0, 3.0]] * 7 and held.switches == [] and len(held.poses) == len(held.features) + 1 == 8
    seen.clear()
    free = act(agent, env, 0, 7)
    assert free.switches == [0, 3, 6]
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5] != seen[6]


def test_a_policy_that_ignores_its_skill_is_told_from_one_that_does_not(build):
    agent = build()
    env = envs.make("cheetah_run")
    skills = np.array([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]], np.float32)
    apart = distinctness([act(agent, env, 0, 20, skill) for skill in skills])
    with torch.no_grad():
        agent.actor.mlp.hidden[0].weight[:, -3:] = 0
    alike = distinctness([act(agent, env, 0, 20, skill) for skill in skills])
    assert apart["end_distance"] > 0 and apart["posture_distance"] > 0
    assert alike == {"end_distance": 0.0, "posture_distance": 0.0}


@pytest.mark.parametrize("task", ["cheetah_run", "quadruped_getup_reach"])
def test_everything_is_written(build, painted, tmp_path, task):
    shown = show(build(task=task), tmp_path / "skills", count=3, env_steps=40)
    assert shown.missing is None
    assert sorted(p.name for p in tmp_path.glob("skills/*")) == ["paths.png", "skills.json", "skills.mp4", "skills.png"]
    found = json.loads((tmp_path / "skills" / "skills.json").read_text())
    assert found["end_distance"] > 0 and found["env_steps"] == 40 and len(found["skills"]) == 3
    assert found["information"] <= np.log(3) + 1e-6
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "skills" / "skills.mp4"))
    assert next(reader)["size"] == (3 * films.FRAME, films.FRAME) and len(list(reader)) == 21
    again = show(build(task=task), tmp_path / "again", count=3, env_steps=40)
    assert again.numbers == shown.numbers
    assert (tmp_path / "again" / "skills.json").read_bytes() == (tmp_path / "skills" / "skills.json").read_bytes()


def test_a_gif_where_that_is_asked_for(build, painted, tmp_path):
    from PIL import Image

    shown = show(build(), tmp_path / "skills", count=2, env_steps=10, form="gif")
    assert tmp_path / "skills" / "skills.gif" in shown.files and not (tmp_path / "skills" / "skills.mp4").exists()
    assert Image.open(tmp_path / "skills" / "skills.gif").n_frames == 6
    film(build(), tmp_path / "x" / "episode.gif")
    film(build(), tmp_path / "x" / "episode.MP4")
    assert Image.open(tmp_path / "x" / "episode.gif").n_frames == 501
    assert (tmp_path / "x" / "episode.MP4").read_bytes()[4:8] == b"ftyp"


def test_a_predictor_that_knows_the_skill_is_told_from_one_that_guesses(build, blind, tmp_path):
    agent = build()
    own = torch.as_tensor(Noise(stream_seed(0, "skills")).normal("skills", 4, 3))
    agent.predictor.log_prob = lambda segment, first, z, noise: 50.0 * (z == own).all(-1)
    knowing = show(agent, tmp_path / "x", count=4, env_steps=40).numbers["information"]
    agent.predictor.log_prob = lambda segment, first, z, noise: torch.full((4,), -3.0)
    guessing = show(agent, tmp_path / "x", count=4, env_steps=40).numbers["information"]
    assert knowing == pytest.approx(np.log(4)) and guessing == pytest.approx(0, abs=1e-6)


def test_without_opengl_there_are_paths_and_numbers_and_the_reason(build, blind, tmp_path):
    shown = show(build("random_skills"), tmp_path / "skills", count=2, env_steps=10)
    assert sorted(p.name for p in tmp_path.glob("skills/*")) == ["paths.png", "skills.json"]
    assert "libegl1" in str(shown)
    with pytest.raises(LspFastError, match="libegl1"):
        film(build(), tmp_path / "x.gif")


def test_what_has_no_skills_or_body_is_refused(build, blind, tmp_path):
    with pytest.raises(LspFastError, match="dreamer, has no skills"):
        show(build("dreamer"), tmp_path / "skills")
    with pytest.raises(LspFastError, match="at least two skills"):
        show(build(), tmp_path / "skills", count=1)
    with pytest.raises(LspFastError, match="gym:Pendulum-v1"):
        show(build(task="gym:Pendulum-v1"), tmp_path / "skills")
    assert show(build("no_mi"), tmp_path / "x", count=2, env_steps=4).numbers["information"] is None
    assert not (tmp_path / "skills").exists()
