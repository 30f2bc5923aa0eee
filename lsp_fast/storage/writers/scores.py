"""scores.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lsp_fast.files import write_text
from lsp_fast.storage.writers.base import LogWriter


class Scores(LogWriter):
    """scores.json: the evaluations, `xs` (environment steps) and `ys` (mean returns). Without any there is no file.

    Args:
        path: of the file.
        identity: task, method and seed, which the row carries.
        kept: rows of metrics that it begins with.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]) -> None:
        self._path, self._identity = path, dict(identity)
        evaluations = [row for row in kept if "eval/return" in row]
        self.xs: list[int] = [row["env_steps"] for row in evaluations]
        self.ys = [math.nan if row["eval/return"] is None else float(row["eval/return"]) for row in evaluations]
        self._save()

    def scalars(self, env_steps: int, row: Mapping[str, float]) -> None:
        if "eval/return" in row:
            self.xs.append(env_steps)
            self.ys.append(row["eval/return"])
            self._save()

    def _save(self) -> None:
        if self.xs:
            ys = [y if math.isfinite(y) else None for y in self.ys]
            write_text(self._path, json.dumps([{**self._identity, "xs": self.xs, "ys": ys}]) + "\n")
        else:
            self._path.unlink(missing_ok=True)
