"""Reading a run's metrics.jsonl: one JSON object a line, each with its `env_steps`. Knows neither torch nor models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lsp_fast.errors import LspFastError

TAIL = 10_000
"""Bytes that hold a file's last row, and more."""


def read_rows(path: Path, *, strict: bool = False) -> list[dict[str, Any]]:
    """The rows, oldest first; none where there is no such file.

    The last line may have been cut off while it was written, and is then left out. A damaged line before it is the end
    of what a run goes on from; with `strict` it is an error.

    Raises:
        LspFastError: the file cannot be read, or with `strict` is damaged.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LspFastError(f"{path} cannot be read: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            if strict and number < len(lines):
                raise LspFastError(f"line {number} of {path} is damaged; delete that line, or leave the run out")
            break
        rows.append(row)
    return rows


def last_row(path: Path) -> dict[str, Any] | None:
    """The newest whole row, whatever the file's length; None where there is none, or it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    return next((row for line in reversed(lines) if (row := _row(line)) is not None), None)


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and type(row.get("env_steps")) is int else None
