"""`lsp-fast plot`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro

from lsp_fast.commands.words import warn


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs, finished or not, beside published scores."""

    logdirs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LOGDIR...")]
    """Run folders, folders that hold some, or scores.json files."""
    out: Path = Path("learning_curves.png")
    """The figure: .png, .svg, .pdf or .jpg."""
    reference: Annotated[tuple[tuple[Path, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE...")] = ()
    """Files of published scores: lists of rows of task, method, seed, xs and ys."""
    at: int | None = None
    """Environment steps where the table compares, for runs of different lengths: later evaluations do not count."""
    reach: float | None = None
    """A return: the table says at which environment steps each mean was first there."""

    def run(self) -> int:
        from lsp_fast.reports.plot import plot

        result = plot(self.logdirs, self.out, tuple(chain.from_iterable(self.reference)), self.at, self.reach)
        warn(result.warnings)
        print(result)
        return 0
