"""metrics.jsonl."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lsp_fast.files import write_text
from lsp_fast.storage.writers.base import LogWriter, Outcome


class JsonLines(LogWriter):
    """metrics.jsonl, one object a row. A value that is not finite is written as null: JSON has no NaN.

    Args:
        path: of the file.
        kept: rows that it begins with.
    """

    def __init__(self, path: Path, kept: Sequence[Mapping[str, Any]]) -> None:
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a")

    def scalars(self, env_steps: int, row: Mapping[str, float]) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps({"env_steps": env_steps, **values}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def finish(self, outcome: Outcome) -> None:
        self._file.close()
