"""Every row of the table of troubles, and what a row cannot say."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401 - its caches belong in the real home, not in a row's
import numpy as np
import pytest
from cases.table import SHORT, Row

from lsp_fast import envs
from lsp_fast.cli import main

HERE = Path(__file__).parent
PAGES = sorted(path.stem for path in (HERE / "pages").glob("*.py"))
TABLE = [(page, row) for page in PAGES for row in importlib.import_module(f"cases.pages.{page}").ROWS]


@pytest.fixture(autouse=True)
def troubles(monkeypatch, tmp_path):
    """The environments can be imported, and whatever is written lands in an empty folder."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *sys.path]))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{page}: {row.trouble}", marks=[pytest.mark.slow] if row.slow else [])
        for page, row in TABLE
    ],
)
def test_a_trouble(row: Row, capfd, monkeypatch):
    if row.before is not None:
        row.before(monkeypatch)
    there = set(os.listdir())
    capfd.readouterr()
    argv = shlex.split(row.command.format(short=SHORT))
    if row.alone:
        status = subprocess.run([sys.executable, "-m", "lsp_fast.cli", *argv]).returncode
    else:
        status = main(argv)
    told = " ".join("".join(capfd.readouterr()).split())
    assert status == row.status, told
    assert all(words in told for words in row.tells), told
    assert not any(words in told for words in row.spares), told
    assert row.leaves is None or set(os.listdir()) - there == set(row.leaves)
    if row.after is not None:
        row.after()


def test_the_table_is_long_enough():
    assert len({row.trouble for _, row in TABLE}) == len(TABLE) >= 20


TRAIN = f"train {SHORT} --logdir run --task gym:troubles:"


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


def test_the_papers_preset_on_a_processor_is_warned_of(capsys, monkeypatch):
    from lsp_fast.training import loop

    monkeypatch.setattr(loop, "train", lambda *_, **__: sys.exit(0))
    for preset, warned in (("paper", True), ("gpu", True), ("cpu", False)):
        with pytest.raises(SystemExit):
            main(["train", "--preset", preset, "--device", "cpu"])
        assert ("--preset cpu learns in minutes" in capsys.readouterr().err) == warned


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
