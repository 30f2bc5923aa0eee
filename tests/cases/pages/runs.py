"""Runs that go on, take over, or are given a seed that is none."""

from __future__ import annotations

import json
from pathlib import Path

from cases.table import SHORT, Row

from lsp_fast import machine
from lsp_fast.config import make_config, to_dict

SEED = "must be an integer in 0 .. 2**31 - 1"
EXPERIMENT = """preset = "smoke"
seeds = [{seed}]
[[tasks]]
task = "cheetah_run"
[[methods]]
algorithm = "lsp"
"""


def _content(folder: str = "run") -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


before: dict[Path, bytes] = {}


def _full_disk(monkeypatch) -> None:
    """A run that was killed after rows had gone into its replay and before the checkpoint that counts them; since then
    the disk has filled up."""
    from lsp_fast.cli import main

    main(f"train {SHORT} --task gym:Pendulum-v1 --logdir run".split())
    for path in Path("run/replay").iterdir():
        with path.open("ab") as file:
            file.write(b"rows that no checkpoint counts")
    before.clear()
    before.update(_content())
    monkeypatch.setattr(machine, "disk_free", lambda folder: 0)


def _nothing_changed() -> None:
    assert _content() == before


def _source(monkeypatch) -> None:
    """A run to begin from, with the observations and actions of Plain."""
    from lsp_fast.cli import main

    main(f"train {SHORT} --task gym:troubles:Plain-v0 --logdir source".split())
    before.clear()
    before.update(_content("source"))


def _whole_source() -> None:
    """It is stored so that every folder finds it, and nothing in it is changed."""
    told = json.loads(Path("run/config.json").read_text())["transfer"]["source"]
    assert told == str(Path("source").resolve())
    assert _content("source") == before


def _older(monkeypatch) -> None:
    """A transfer that an older version began in another folder: its source is written there as it was typed."""
    config = make_config("smoke", task="cheetah_run", transfer__source="runs/walk", transfer__source_env_steps=1000)
    Path("older").mkdir()
    Path("older/config.json").write_text(json.dumps(to_dict(config)))


def _sweep(monkeypatch) -> None:
    Path("negative.toml").write_text(EXPERIMENT.format(seed=-1))


ROWS = [
    Row(
        "a resume on a disk that is full changes nothing",
        "train {short} --env-steps 90000 --task gym:Pendulum-v1 --logdir run",
        2,
        tells=["the run will need", "of disk", "free some"],
        before=_full_disk,
        leaves=(),
        after=_nothing_changed,
    ),
    *(
        Row(f"seed {seed} of {name}", f"{command} --seed {seed}", 2, tells=[f"lsp-fast: seed = {seed}: {SEED}"],
            leaves=())
        for name, command in {
            "train": "train {short} --task gym:Pendulum-v1 --logdir run",
            "evaluate": "evaluate --logdir run --baselines",
            "skills": "skills --logdir run",
            "transfer": "transfer --source run --task cheetah_run",
        }.items()
        for seed in (-1, 2**31)
    ),
    Row("a seed of an experiment", "sweep negative.toml --out out", 2, tells=[f"negative.toml: seed = -1: {SEED}"],
        before=_sweep, leaves=()),
    Row("a source that is typed from here is stored whole",
        "train {short} --task gym:troubles:Plain-v0 --transfer.source ./source --transfer.source-env-steps 1000 "
        "--logdir run",
        0, before=_source, leaves=["run"], after=_whole_source),
    Row("a source that is gone", "train {short} --task gym:Pendulum-v1 --transfer.source gone --logdir run", 2,
        tells=["transfer.source: ", "gone holds no run", "lsp-fast transfer takes"], leaves=()),
    Row("a source without that checkpoint",
        "train {short} --task gym:troubles:Plain-v0 --transfer.source source --logdir run", 2,
        tells=["transfer.source: there is no checkpoint", "000000000.pt", "lsp-fast transfer takes"], before=_source,
        leaves=()),
    *(
        Row(f"{name} of an older run, called elsewhere", f"{command} --logdir older", 2,
            tells=["older began from runs/walk", "from here that is", "walk: call the command there"], before=_older,
            leaves=())
        for name, command in {
            "a transfer": "transfer --source moved/walk --task cheetah_run",
            "a training": "train {short} --transfer.source moved/walk",
        }.items()
    ),
]  # fmt: skip
