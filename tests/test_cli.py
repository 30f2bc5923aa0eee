"""The command line: presets are defaults, bad input exits with status 2 and writes nothing."""

import pytest

from lsp_fast import checkpoint
from lsp_fast.cli import main, parse
from lsp_fast.config import make_config
from lsp_fast.runs import RunFolder


def test_presets_and_algorithms_are_defaults_that_options_override():
    parsed = parse(["train", "--preset", "cpu", "--algorithm", "dreamer", "--model.deter", "64", "--seed", "3"])
    assert parsed.config == make_config("cpu", "dreamer", model__deter=64, seed=3)
    assert parse(["train"]).config == make_config("paper", "lsp")
    assert parse(["train", "--algorithm=no_mi"]).config.skill.intrinsic is False


BAD = {
    "unknown task": (["--task", "cheetah_runn"], "cheetah_run"),
    "negative steps": (["--env-steps", "-5"], "env_steps = -5"),
    "seed out of range": (["--seed", "-1"], "seed = -1"),
    "more elites than candidates": (["--planner.elites", "9"], "planner.elites = 9"),
    "no horizon": (["--behavior.horizon", "0"], "behavior.horizon = 0"),
    "K = 0": (["--skill.length", "0"], "skill.length = 0"),
    "a skill longer than the horizon": (["--skill.length", "30"], "skill.length = 30"),
    "gamma": (["--behavior.gamma", "1.5"], "behavior.gamma = 1.5"),
    "nan": (["--model.learning-rate", "nan"], "model.learning_rate = nan"),
    "no episodes": (["--train.eval-episodes", "0"], "train.eval_episodes = 0"),
    "no intrinsic reward without skills": (["--skill.source", "none"], "skill.intrinsic"),
    "triton on a processor": (["--backend", "triton"], "triton"),
    "an unknown device": (["--device", "abacus"], "abacus"),
    "a device of another kind": (["--device", "mps"], "mps"),
    "a missing GPU": (["--device", "cuda:9"], "sees"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, named = BAD[name]
    device = [] if "--device" in options else ["--device", "cpu"]
    assert main(["train", "--preset", "smoke", *device, "--logdir", "run", *options]) == 2
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [["--preset", "huge"], ["--algorithm", "sac"], ["--seed", "x"], ["--backend", "fpga"], ["--sede", "1"]]
)
def test_what_cannot_be_parsed_exits_with_2(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", *options])
    assert exit_.value.code == 2


def test_commands(capsys):
    assert main([]) == 2 and main(["fly"]) == 2 and main(["--help"]) == 0
    assert "train, evaluate" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_lists_the_options(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0 and "--logdir" in capsys.readouterr().out


@pytest.fixture
def folders(tmp_path):
    """What a logdir may be: a run, one without a checkpoint, one with a damaged configuration, no run at all."""
    for name in ("run", "young", "damaged"):
        RunFolder(tmp_path / name).claim(make_config("smoke", device="cpu"))
    checkpoint.save(tmp_path / "run" / "checkpoints", 1, {"agent": {}, "observation_dim": 17, "action_dim": 6})
    (tmp_path / "damaged" / "config.json").write_text('{"task": "che')
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--logdir nowhere", "nowhere holds no run"),
        ("--logdir empty", "empty holds no run"),
        ("--logdir file", "file holds no run"),
        ("--logdir young", "young has no checkpoint yet"),
        ("--logdir damaged", "config.json cannot be used"),
        ("--logdir run --episodes 0", "episodes = 0"),
        ("--logdir run --seed -1", "seed = -1"),
        ("--logdir run --backend triton --device cpu", "triton"),
        ("--logdir run --device cuda:9", "cuda:9"),
        ("--logdir run --device abacus", "abacus"),
    ],
)
def test_what_cannot_be_evaluated_is_named(options, named, folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    before = sorted(folders.rglob("*"))
    assert main(["evaluate", *options.split()]) == 2
    assert named in capsys.readouterr().err
    assert sorted(folders.rglob("*")) == before


def test_evaluate_needs_a_logdir(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate"])
    assert exit_.value.code == 2


@pytest.mark.parametrize(
    ("logdir", "named"), [("file", "holds no run"), ("file/run", "cannot write"), (".", "not empty")]
)
def test_a_logdir_that_cannot_be_is_named(logdir, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    assert main(["train", "--preset", "smoke", "--device", "cpu", "--logdir", logdir]) == 2
    assert named in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "x")]


def test_train_then_evaluate(tmp_path, capsys):
    run = str(tmp_path / "run")
    common = ["--preset", "smoke", "--device", "cpu", "--train.eval-every", "2000"]
    assert main(["train", *common, "--env-steps", "1020", "--logdir", run]) == 0
    printed = capsys.readouterr().out
    assert "learning_curve.png" in printed and "000001020.pt" in printed and "scores.json" in printed
    assert main(["evaluate", "--logdir", run, "--episodes", "1", "--device", "cpu", "--baselines"]) == 0
    printed = capsys.readouterr().out
    for name in ("deterministic", "exploring", "random actions", "zero actions", "untrained"):
        assert name in printed
