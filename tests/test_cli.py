"""The command line: presets are defaults, commands say what they did. What it refuses: tests/test_bad_input.py."""

import json
import os
import re
import signal

import pytest

from lsp_fast.cli import main, parse
from lsp_fast.config import make_config
from lsp_fast.planning.planner import Planner
from lsp_fast.reports import doctor
from lsp_fast.storage import checkpoint
from lsp_fast.training.trainer import Trainer


def test_presets_and_algorithms_are_defaults_that_options_override():
    parsed = parse(["train", "--preset", "cpu", "--algorithm", "dreamer", "--model.deter", "64", "--seed", "3"])
    assert parsed.config == make_config("cpu", "dreamer", model__deter=64, seed=3)
    assert parse(["train"]).config == make_config("paper", "lsp")
    assert parse(["train", "--algorithm=no_mi"]).config.skill.intrinsic is False


def test_commands(capsys):
    assert main([]) == 2 and main(["fly"]) == 2 and main(["--help"]) == 0
    told = capsys.readouterr().out
    for name, line in (
        ("train", "Train an agent"),
        ("transfer", "Train on another task"),
        ("doctor", "Say what there is"),
    ):
        assert re.search(rf"^  {name} +{line}", told, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "option"),
    [("train", "--profile"), ("evaluate", "--logdir"), ("sweep", "--jobs"), ("plot", "--reference"), ("doctor", "-h")],
)
def test_help_lists_the_options(command, option, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0 and option in capsys.readouterr().out


def test_a_logdir_of_its_own_for_every_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--preset smoke --device cpu --task gym:Pendulum-v1 --env-steps 1000"
    assert main(["train", *options.split()]) == 0
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["gym-Pendulum-v1-lsp-0"]
    assert main(["train", *options.split()]) == 0
    assert "finished before" in capsys.readouterr().out


def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    learn = Trainer.learn
    monkeypatch.setattr(Trainer, "learn", lambda self: (os.kill(os.getpid(), signal.SIGINT), learn(self)))
    assert main(["train", "--preset", "smoke", "--device", "cpu", "--logdir", str(tmp_path / "run")]) == 130
    assert "the same command goes on from there" in capsys.readouterr().out


def test_a_second_ctrl_c_quits_at_once_without_a_traceback(tmp_path, monkeypatch, capsys):
    def twice(self):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "learn", twice)
    assert main(["train", "--preset", "smoke", "--device", "cpu", "--logdir", str(tmp_path / "run")]) == 130
    assert "quit; what was written" in capsys.readouterr().err
    assert [p.stem for p in checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")] == ["000001000"]


def test_plot_and_doctor(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"task": "walker_walk", "method": "lsp", "seed": 0, "xs": [1, 2], "ys": [3.0, 4.0]}
    (tmp_path / "ours.json").write_text(json.dumps([row]))
    (tmp_path / "theirs.json").write_text(json.dumps([{**row, "task": "dmc_walker_walk", "method": "dreamer"}]))
    assert main(["plot", "ours.json", "--reference", "theirs.json", "--out", "x.svg"]) == 0
    assert "dreamer (reference)" in capsys.readouterr().out and (tmp_path / "x.svg").exists()
    monkeypatch.setattr(doctor, "report", lambda: doctor.Report(["ill"], False))
    assert main(["doctor"]) == 1 and "ill" in capsys.readouterr().out


def test_train_then_evaluate(tmp_path, capsys, monkeypatch):
    run = str(tmp_path / "run")
    common = ["--preset", "smoke", "--device", "cpu", "--train.eval-every", "2000"]
    assert main(["train", *common, "--env-steps", "1020", "--logdir", run]) == 0
    printed = capsys.readouterr().out
    assert "learning_curve.png" in printed and "000001020.pt" in printed and "scores.json" in printed
    assert main(["evaluate", "--logdir", run, "--episodes", "1", "--device", "cpu", "--baselines"]) == 0
    printed = capsys.readouterr().out
    for name in ("deterministic", "exploring", "random actions", "zero actions", "untrained"):
        assert name in printed
    planned, plan = [], Planner.plan

    def watched(self, *given):
        planned.append(self.config.planner)
        return plan(self, *given)

    monkeypatch.setattr(Planner, "plan", watched)
    other = ["--set", "planner.candidates=8", "planner.replan=2", "--set", "planner.std_min=0.2"]
    assert main(["evaluate", "--logdir", run, "--episodes", "1", "--device", "cpu", *other]) == 0
    assert {(p.candidates, p.replan, p.std_min) for p in planned} == {(8, 2, 0.2)}
