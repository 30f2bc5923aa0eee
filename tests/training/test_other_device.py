"""A run that was trained on another kind of device: it is evaluated, shown and gone on with here."""

import shutil

import pytest
import torch

from lsp_fast.cli import main
from lsp_fast.storage import checkpoint

OPTIONS = "--preset smoke --device cpu --backend reference --task cheetah_run"


@pytest.fixture(scope="module", params=["lsp", "hiro_mi"])
def elsewhere(request, tmp_path_factory):
    """A run whose generators' states are a GPU's: 16 bytes, where a CPU's have 5,056."""
    logdir = tmp_path_factory.mktemp("runs") / request.param
    command = f"train {OPTIONS} --algorithm {request.param} --env-steps 1100 --logdir {logdir}"
    assert main(command.split()) == 0
    [*_, path] = checkpoint.list_checkpoints(logdir / "checkpoints")
    state = checkpoint.load(path)
    for streams in (state["agent"]["noise"], state["carry"]["noise"]):
        assert streams and all(value.numel() == 5056 for value in streams.values())
        streams.update(dict.fromkeys(streams, torch.zeros(16, dtype=torch.uint8)))
    checkpoint.save(logdir / "checkpoints", state["env_steps"], state)
    return request.param, logdir


def test_it_is_evaluated_here(elsewhere, capsys):
    assert main(["evaluate", "--logdir", str(elsewhere[1]), "--episodes", "1"]) == 0
    assert "min" in capsys.readouterr().out


def test_it_goes_on_here_and_says_that_its_numbers_begin_anew(elsewhere, tmp_path, capsys):
    algorithm, logdir = elsewhere
    scores = []
    for name in ("once", "again"):
        shutil.copytree(logdir, tmp_path / name)
        command = f"train {OPTIONS} --algorithm {algorithm} --env-steps 1300 --logdir {tmp_path / name}"
        assert main(command.split()) == 0
        told = " ".join(capsys.readouterr().err.split())
        assert "note: the checkpoint was written on another kind of device than cpu" in told
        scores.append((tmp_path / name / "scores.json").read_text())
    assert scores[0] == scores[1]
    assert main(command.split()) == 0  # the checkpoint that was written here is of this kind
    assert "another kind" not in capsys.readouterr().err
