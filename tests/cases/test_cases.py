"""Troubles of users: what they type, what they are told, the exit status, and that nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lsp_fast import envs
from lsp_fast.cli import main

TRAIN = "train --preset smoke --device cpu --backend reference --env-steps 1000 --logdir run --task gym:troubles:"


@pytest.fixture(autouse=True)
def troubles(monkeypatch, tmp_path):
    """The environments can be imported, and whatever is written lands in an empty folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)


REFUSED = {
    "OldStep": ["cannot be stepped: ValueError", "(observation, reward, terminated, truncated, info)"],
    "OldReset": ["reset() gave", "return (observation, info)"],
    "NoInfo": ["step() gave an info None", "info being a dictionary"],
    "TwoRewards": ["reward is ndarray (2,)", "return one number"],
    "NoReward": ["reward is None", "return one number"],
    "Wide": ["an observation has shape (3,), its space (2,)"],
    "Later": ["an observation has shape (3,), its space (2,)"],
    "Ragged": ["cannot be stepped: ValueError", "observations of its observation_space"],
    "Missing": ["cannot be stepped: KeyError: 'b'", "observations of its observation_space"],
    "NeedsArgument": ["cannot make task", "goal"],
    "Broken": ["ConnectionRefusedError: no simulator at port 4242"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_environment_that_does_not_fit_is_refused_in_a_line_before_anything_is_written(name, capsys, tmp_path):
    assert main(f"{TRAIN}{name}-v0".split()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lsp-fast: ") and name in line
    for words in REFUSED[name]:
        assert words in line, line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Plain", "InPlace", "Int32", "Arrays", "Brief"])
def test_an_odd_environment_trains(name, tmp_path):
    assert main(f"{TRAIN}{name}-v0".split()) == 0
    assert (tmp_path / "run" / "scores.json").exists()


def test_an_action_that_is_changed_in_place_does_not_reach_the_next_repeat():
    env = envs.make("gym:troubles:InPlace-v0", action_repeat=3)
    env.reset(seed=0)
    assert env.step(np.array([0.8], np.float32))[1] == pytest.approx(3 * 0.4)


def test_a_goal_that_is_reached_within_a_repeat_counts():
    env = envs.make("gym:troubles:Brief-v0", action_repeat=2)
    env.reset(seed=0)
    assert env.step(np.zeros(1))[4]["success"] is True


def test_a_seed_beyond_int32_still_decides_the_episode():
    env = envs.make("gym:troubles:Int32-v0")
    env.reset(seed=2**32 - 1)
    assert env.unwrapped.taken == 2**31 - 1


def test_a_home_is_a_home_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = "--preset smoke --device cpu --backend reference --env-steps 1000 --task gym:Pendulum-v1"
    assert main(["train", *options.split(), "--logdir", "~/run"]) == 0
    assert (tmp_path / "run" / "config.json").exists() and not Path("~").exists()
    assert main(["plot", "~/run", "--out", "~/curves.png"]) == 0 and (tmp_path / "curves.png").exists()


def test_the_papers_preset_on_a_processor_is_warned_of(capsys, monkeypatch):
    from lsp_fast.training import loop

    monkeypatch.setattr(loop, "train", lambda *_, **__: sys.exit(0))
    for preset, warned in (("paper", True), ("gpu", True), ("cpu", False)):
        with pytest.raises(SystemExit):
            main(["train", "--preset", preset, "--device", "cpu"])
        assert ("--preset cpu learns in minutes" in capsys.readouterr().err) == warned


def test_a_run_that_learned_nothing_says_so(capsys):
    assert main([*f"{TRAIN}Plain-v0".split(), "--collect.prefill", "5000"]) == 0
    assert "nothing was learned" in capsys.readouterr().out


def test_a_run_that_is_out_of_time_in_its_prefill_is_not_at_its_end(capsys):
    options = "--collect.prefill 90000 --env-steps 100000 --max-minutes 0.001"
    assert main([*f"{TRAIN}Plain-v0".split(), *options.split()]) == 0
    told = capsys.readouterr().out
    assert "the same command goes on from there" in told.replace("\n", " ") and "nothing was learned" not in told


@pytest.mark.parametrize("options", ["skills --logdir run --out taken", "plot run --out taken/x.png"])
def test_an_output_that_cannot_be_written_is_named(options, capsys, tmp_path):
    options_of_a_run = (
        "train --preset smoke --device cpu --backend reference --env-steps 1000 --logdir run --task cheetah_run"
    )
    assert main(options_of_a_run.split()) == 0
    (tmp_path / "taken").write_text("a file")
    capsys.readouterr()
    assert main(options.split()) == 2
    assert "taken" in capsys.readouterr().err and (tmp_path / "taken").read_text() == "a file"


def test_a_pipe_that_closes_early_is_no_traceback():
    command = f"{sys.executable} -m lsp_fast.cli --help; {sys.executable} -m lsp_fast.cli doctor | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_a_terminal_that_goes_away_leaves_a_checkpoint(tmp_path, monkeypatch):
    import os
    import signal

    from lsp_fast.training.trainer import Trainer

    learn = Trainer.learn
    monkeypatch.setattr(Trainer, "learn", lambda self: (os.kill(os.getpid(), signal.SIGHUP), learn(self))[1])
    assert main(f"{TRAIN}Plain-v0".split()) == 130
    assert list((tmp_path / "run" / "checkpoints").glob("*.pt"))
