"""run.py acts without PyTorch and without this package, on what is an observation and on nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from exported import TASK, a_run
from gymnasium.spaces import Box, Dict, Discrete

from lsp_fast import envs
from lsp_fast.export import policy, run


def alone(folder, place, code):
    """Python with NumPy and ONNX Runtime, and no other package that is not its own."""
    import numpy
    import onnxruntime

    place.mkdir()
    for module in (numpy, onnxruntime):
        source = Path(module.__file__).parent
        for path in (source, source.with_name(f"{source.name}.libs")):
            if path.exists():
                (place / path.name).symlink_to(path)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(place)}
    command = [sys.executable, "-S", "-P", *code]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)


def test_it_needs_numpy_and_onnxruntime_alone(exported, tmp_path):
    _, folder = exported
    done = alone(folder, tmp_path / "packages", ["run.py"])
    assert done.returncode == 0 and "self-test passed" in done.stdout, done.stderr
    code = (
        "import sys; sys.path.insert(0, '.'); import run, numpy as np; p = run.Policy(seed=1)\n"
        "for _ in range(8): a = p.act(np.zeros(3))\n"
        "print(a.shape, {'torch', 'lsp_fast', 'gymnasium'} & set(sys.modules))\n"
        "import torch"
    )
    done = alone(folder, tmp_path / "again", ["-c", code])
    assert done.stdout.strip() == "(1,) set()" and "No module named 'torch'" in done.stderr


def test_the_self_test_sees_what_is_wrong(exported, tmp_path, capsys, monkeypatch):
    wrong = shutil.copytree(exported[1], tmp_path / "wrong")
    about = json.loads((wrong / "policy.json").read_text())
    about["planning"]["every"] = 1
    (wrong / "policy.json").write_text(json.dumps(about))
    assert run.self_test(wrong) > 1e-4
    monkeypatch.setattr(run, "self_test", lambda: float("inf"))
    assert run.main() == 1 and "FAILED" in capsys.readouterr().out


def test_it_acts_in_the_environments_own_units(exported):
    _, folder = exported
    acting = run.Policy(folder)
    about = acting.about
    assert about["action"]["low"] == [-2.0] and about["action"]["high"] == [2.0]
    assert about["step"]["action_repeat"] == 2 and about["skill"]["length"] == 3 == about["planning"]["every"]
    env = envs.make(TASK)
    observation, _ = env.reset(seed=0)
    actions = [acting.act(observation) for _ in range(20)]
    assert all(action.dtype == np.float64 and (abs(action) <= 2).all() for action in actions)
    np.testing.assert_array_equal(
        actions[:5], [again.act(observation) for again in [run.Policy(folder)] for _ in "12345"]
    )
    assert not np.array_equal(actions[0], run.Policy(folder, seed=1).act(observation))


def test_what_it_cannot_do_it_says(exported):
    acting = run.Policy(exported[1])
    for wrong, words in (
        (np.zeros(4), r"shape \(3,\), not \(4,\)"),
        ([0, np.nan, 0], "finite; entry 1 is not"),
        ({"position": 0}, "no names"),
    ):
        with pytest.raises(ValueError, match=words):
            acting.act(wrong)
    for wrong in ([1.0, 2.0], [1.0, 2.0, np.inf]):
        with pytest.raises(ValueError, match="must be 3 finite numbers"):
            acting.hold(wrong)
    acting.hold([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="must be 3"):
        acting.hold([1.0])  # the one before is still held
    acting.reset()
    acting.act(np.zeros(3))
    np.testing.assert_array_equal(acting.skill, [1, 2, 3])
    acting.hold(None)
    for _ in range(3):
        acting.act(np.zeros(3))
    assert not np.array_equal(acting.skill, [1, 2, 3])


def test_what_is_not_finite_is_neither_given_to_a_robot_nor_remembered(exported, monkeypatch):
    acting = run.Policy(exported[1])
    first = acting.act(np.zeros(3))
    acting.reset()
    whole = acting._graphs["act"]
    with monkeypatch.context() as broken:
        broken.setitem(acting._graphs, "act", lambda values: [x * np.nan for x in whole(values)])
        broken.setitem(acting.about, "planning", None)
        with pytest.raises(FloatingPointError, match="not finite"):
            acting.act(np.zeros(3))
    with monkeypatch.context() as broken:  # the action alone is fine
        broken.setitem(
            acting._graphs, "act", lambda values: [x * y for x, y in zip(whole(values), [1, np.nan, 1], strict=True)]
        )
        broken.setitem(acting.about, "planning", None)
        with pytest.raises(FloatingPointError, match="not finite"):
            acting.act(np.zeros(3))
    assert all(np.isfinite(x).all() for x in acting._memory.values()) and first.shape == acting.act(np.zeros(3)).shape


def test_entries_may_come_by_their_names(exported, tmp_path):
    folder = shutil.copytree(exported[1], tmp_path / "named")
    about = json.loads((folder / "policy.json").read_text())
    about["observation"]["entries"] = [{"name": "angle", "size": 2}, {"name": "velocity", "size": 1}]
    (folder / "policy.json").write_text(json.dumps(about))
    one, other = run.Policy(folder), run.Policy(folder)
    given = {"velocity": 3.0, "angle": [1.0, 2.0], "more": 0}
    np.testing.assert_array_equal(one.act(given), other.act([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="lacks velocity"):
        one.act({"angle": [1.0, 2.0]})
    with pytest.raises(ValueError, match="angle has 2 numbers, not 1"):
        one.act({"angle": 1.0, "velocity": [2.0, 3.0]})
    with pytest.raises(ValueError, match="angle is a dictionary: give its 2 numbers in one array"):
        one.act({"angle": {"sin": 1.0, "cos": 0.0}, "velocity": 2.0})


class Watched(gymnasium.Env):
    """Observes a frame and numbers; middle and half range of its bounds add up to more than the upper one."""

    observation_space = Dict(
        image=Box(0, 255, (64, 64, 3), np.uint8), mode=Discrete(4), position=Box(-9, 9, (2,)), speed=Box(-9, 9, (3,))
    )
    action_space = Box(-0.1, 0.3, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.5, False, False, {}


class Camera(Watched):
    observation_space = Watched.observation_space["image"]


@pytest.fixture
def own():
    """Registers environments of one's own."""
    for kind in (Watched, Camera):
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=50)
    yield
    for kind in (Watched, Camera):
        del gymnasium.registry[f"{kind.__name__}-v0"]


def test_it_sees_the_entries_that_the_run_sees(own, smoke, tmp_path):
    seen = {"task": "gym:Watched-v0", "observation__vectors": "speed,mode", "behavior__horizon": 2}
    folder = a_run(tmp_path / "run", smoke("dreamer", **seen), 7, 2)
    policy.export(folder, tmp_path / "policy", format="torch")
    acting = run.Policy(tmp_path / "policy")
    assert acting.about["observation"]["entries"] == [{"name": "speed", "size": 3}, {"name": "mode", "size": 4}]
    given = {"mode": [0, 1, 0, 0], "speed": [1.0, 2.0, 3.0], "position": [0, 0]}
    np.testing.assert_array_equal(acting.act(given), run.Policy(tmp_path / "policy").act([1, 2, 3, 0, 1, 0, 0]))


def test_frames_of_an_environment_of_ones_own(own, smoke, tmp_path):
    config = smoke("dreamer", task="gym:Camera-v0", obs="pixels", behavior__horizon=2)
    folder = a_run(tmp_path / "run", config, (64, 64, 3), 2)
    policy.export(folder, tmp_path / "policy", format="torch")
    acting = run.Policy(tmp_path / "policy")
    assert (acting.about["action"]["low"], acting.about["action"]["high"]) == ([-0.1] * 2, [0.3] * 2)
    shape = acting.about["observation"]["shape"]
    for wrong in (np.full(shape, 0.5), np.full(shape, 256), np.full(shape, -1)):
        with pytest.raises(ValueError, match="whole numbers from 0 to 255"):
            acting.act(wrong)
    np.testing.assert_array_equal(
        acting.act(np.full(shape, 7.0)), run.Policy(tmp_path / "policy").act(np.full(shape, 7, np.uint8))
    )
    for end, bound in ((-1.0, -0.1), (1.0, 0.3)):
        acting._graphs["act"] = lambda values, end=end: [np.full((1, 2), end), values["stoch"], values["deter"]]
        action = acting.act(np.zeros(shape))
        np.testing.assert_allclose(action, bound, rtol=1e-12)
        assert (action >= -0.1).all() and (action <= 0.3).all()
