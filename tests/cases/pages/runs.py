"""Runs that go on, take over, or are given a seed that is none."""

from __future__ import annotations

from pathlib import Path

from cases.table import SHORT, Row

from lsp_fast import machine

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
]  # fmt: skip
