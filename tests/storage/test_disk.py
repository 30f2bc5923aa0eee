"""A disk that is full, too small or not ours: said clearly, and nothing that was written is lost."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from lsp_fast.cli import main
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows

TRAIN = ["train", "--preset", "smoke", "--device", "cpu", "--backend", "reference", "--train.checkpoint-every", "100"]


def python(*arguments, limit=None):
    """Python in a process of its own, with a limit on the size of a file."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def told(folder):
    timed = ("seconds", "updates_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_rows(folder / "metrics.jsonl")]


def weights(folder):
    return checkpoint.load_latest(folder / "checkpoints")["agent"]["modules"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*TRAIN, "--env-steps", "1400", "--logdir", str(folder)]) == 0
    return folder


def assert_same(folder, whole):
    assert told(folder) == told(whole)
    assert all(torch.equal(value, weights(folder)[name]) for name, value in weights(whole).items())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB; skipped where it cannot be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", path], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield path
    subprocess.run(["umount", path], check=True)


# Another program fills the disk up once the run has made its first checkpoint.
FILLED = """
import os, sys
from lsp_fast import cli
from lsp_fast.storage import checkpoint
save, disk, free = checkpoint.save, sys.argv[1], int(sys.argv[2])
def save_and_fill(*arguments):
    save(*arguments)
    state = os.statvfs(disk)
    with open(disk + "/hog", "wb") as file:
        file.write(bytes(max(state.f_bavail * state.f_frsize - free, 0)))
checkpoint.save = save_and_fill
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 9_000, 200_000])
def test_a_disk_that_fills_up_keeps_the_checkpoints(small_disk, whole, free):
    run = small_disk / "run"
    train = [*TRAIN, "--env-steps", "1400", "--logdir", str(run)]
    stuck = python("-c", FILLED, small_disk, free, *train)
    assert stuck.returncode == 2, stuck.stderr
    assert "No space left on device" in stuck.stderr and "00.pt is whole" in stuck.stderr
    assert "Traceback" not in stuck.stderr
    assert not list(run.rglob("*.part"))
    (small_disk / "hog").unlink()
    assert main(train) == 0
    assert_same(run, whole)


def test_a_disk_without_room_is_refused_at_the_start(small_disk, capsys):
    (small_disk / "hog").write_bytes(bytes(2_900_000))
    assert main([*TRAIN, "--env-steps", "1400", "--logdir", str(small_disk / "run")]) == 2
    assert "of disk, and" in capsys.readouterr().err
    assert [p.name for p in small_disk.iterdir()] == ["hog"]


@pytest.mark.slow
def test_a_limit_on_files_is_no_traceback_either(tmp_path, whole):
    run = tmp_path / "run"
    command = ["-m", "lsp_fast.cli", *TRAIN, "--env-steps", "1400", "--logdir", run]
    stuck = python(*command, limit=250_000)  # the first checkpoint fits
    assert stuck.returncode == 2, stuck.stderr
    assert "File too large" in stuck.stderr and "000001000.pt is whole" in stuck.stderr
    assert "Traceback" not in stuck.stderr
    assert python(*command).returncode == 0
    assert_same(run, whole)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main([*TRAIN, "--logdir", str(tmp_path / "run")]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_a_read_only_disk_is_named(small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert main([*TRAIN, "--logdir", str(small_disk / "run")]) == 2
    assert "Read-only file system" in capsys.readouterr().err
    assert not list(small_disk.iterdir())
