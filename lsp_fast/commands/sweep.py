"""`lsp-fast sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lsp_fast.commands.words import assignments, warn
from lsp_fast.errors import LspFastError


@dataclass(frozen=True)
class Sweep:
    """Run an experiment's file, tasks x methods x seeds, or go on with what is missing; then draw its curves.

    A file with [search] has Optuna propose values, and prune what its curves give little hope for.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """TOML, as those in experiments/."""
    out: Path | None = None
    """Folder of the runs; runs/NAME-OF-THE-FILE by default."""
    jobs: int = 1
    """Runs at a time; on one machine they share its processors."""
    cluster: str = "local"
    """Where: local, or slurm."""
    set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE...")] = ()
    """Values that override the file's, as env_steps=20000, planner.candidates=8 or seeds=[0,1]."""
    submitit: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE...")
    ] = ()
    """Parameters of submitit, as slurm_partition=gpu or timeout_min=600."""
    dry_run: bool = False
    """Only list the runs and how far they have come."""

    def run(self) -> int:
        from lsp_fast.sweeps import search, sweep

        if self.jobs < 1:
            raise LspFastError(f"jobs = {self.jobs}: must be at least 1")
        out = self.out or Path("runs") / self.file.stem
        values, parameters = assignments("--set", self.set), assignments("--submitit", self.submitit)
        cells = sweep.read(self.file, out, **values)
        where: dict[str, Any] = {"jobs": self.jobs, "cluster": self.cluster, "parameters": parameters}
        if search.asked_for(self.file):
            asked = search.read(self.file, out, **values)
            found = None if self.dry_run else search.run(asked, out, **where)
            print(found or asked)
            return 0 if found is None else found.status
        if self.dry_run:
            sweep.check_folders(cells)
            for cell in cells:
                told = "  finished" if cell.finished else ""
                print(f"{cell.env_steps:>9} of {cell.config.env_steps:>9}  {cell.folder}{told}")
            return 0
        report = sweep.run(cells, out, **where)
        warn(report.warnings)
        print(report)
        return report.status
