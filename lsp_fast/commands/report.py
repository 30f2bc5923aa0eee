"""`lsp-fast report`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro

from lsp_fast.commands.words import warn


@dataclass(frozen=True)
class Report:
    """Write one page of runs to read or to send: curves, scores, health, differences, videos and pictures."""

    logdirs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LOGDIR...")]
    """Run folders, folders that hold some, or scores.json files."""
    out: Path = Path("report.html")
    """The page. It needs no network and no other file."""
    reference: Annotated[tuple[tuple[Path, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE...")] = ()
    """Files of published scores: lists of rows of task, method, seed, xs and ys."""
    title: str = ""
    """Of the page; by default it says what runs there are."""
    megabytes: float = 8.0
    """That pictures and videos may take within the page; the others are linked."""

    def run(self) -> int:
        from lsp_fast.reports.report.page import report

        references = tuple(chain.from_iterable(self.reference))
        result = report(self.logdirs, self.out, references, title=self.title, megabytes=self.megabytes)
        warn(result.warnings)
        print(result)
        return 0
