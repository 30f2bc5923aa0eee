"""Runs and published scores from their files: rows of task, method, seed, xs (environment steps), ys (returns).

A run still under way, or one that was killed, is read as far as it came. Neither torch nor a checkpoint is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsp_fast.config import flat, method_name
from lsp_fast.errors import LspFastError
from lsp_fast.storage.metrics import read_rows

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """The evaluations of one seed, and where they were read."""

    source: Path
    row: Row
    config: dict[str, Any] | None
    """Values by dotted name; None where a scores.json says nothing of it."""


def read_scores(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All rows of several scores.json files.

    Raises:
        LspFastError: a file cannot be read, or is no list of such rows.
    """
    return [row for path in paths for row in file_rows(Path(path))]


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs behind some paths: run folders, folders with run folders anywhere below, scores.json files.

    Returns:
        runs, sorted by task, method and seed, each once; and warnings about the folders that were left out.

    Raises:
        LspFastError: a path that does not exist, or none that brings an evaluation; the message says what to do.
    """
    runs: dict[tuple[Path, str], Run] = {}
    left: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise LspFastError(f"{path} does not exist; name a run's folder, a folder of runs, or a scores.json")
        try:
            found, left_below = _runs_of(path)
        except LspFastError as error:
            left.append(str(error))
            continue
        # A run may be named twice, by itself and by the folder above it.
        runs |= {(run.source.resolve(), json.dumps([run.row[k] for k in IDENTITY])): run for run in found}
        left += left_below
    if left and not runs:
        raise LspFastError("\n".join(left))
    ordered = sorted(runs.values(), key=lambda run: [str(run.row[k]) for k in IDENTITY])
    return ordered, [f"left out: {text}" for text in left]


PICTURES = {".gif", ".jpeg", ".jpg", ".mp4", ".pdf", ".png", ".svg"}
"""That lie in folders of runs, where `runs/*` finds them."""


def _runs_of(path: Path) -> tuple[list[Run], list[str]]:
    """The runs of one path, and what was left out below it; LspFastError where it brings nothing to draw."""
    if path.is_file():
        if path.suffix.lower() in PICTURES:
            raise LspFastError(f"{path} is a picture; name a run's folder or its scores.json")
        found = [Run(path, row, None) for row in file_rows(path) if row["xs"]]
        if not found:
            raise LspFastError(f"{path} holds no evaluations; name a run's folder or its scores.json")
        return found, []
    if _is_run(path):
        return [_read_run(path)], []
    found, left = [], []
    for folder in sorted({p.parent for p in path.rglob("config.json") if _is_run(p.parent)}):
        try:
            found.append(_read_run(folder))
        except LspFastError as error:
            left.append(str(error))
    if not found:
        raise LspFastError("\n".join([f"{path} holds no run with evaluations; name a run's folder", *left]))
    return found, left


IDENTITY = ("task", "method", "seed")


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "metrics.jsonl").is_file()


def _read_run(folder: Path) -> Run:
    config_path, metrics_path = folder / "config.json", folder / "metrics.jsonl"
    # Plain values rather than a Config: runs of other versions, whose fields differ, can be drawn too.
    config = _json(config_path)
    try:
        identity = {"task": config["task"], "method": method_name(config), "seed": config["seed"]}
    except (TypeError, KeyError, AttributeError) as error:
        raise LspFastError(f"{config_path} is not a run's configuration; name another folder") from error
    points = {r["env_steps"]: r["eval/return"] for r in read_rows(metrics_path, strict=True) if "eval/return" in r}
    for at, value in points.items():
        if not _is_score(value):
            raise LspFastError(
                f"{metrics_path}: the eval/return {value!r} at {at} environment steps is no number; delete that line, "
                "or leave the run out"
            )
    if not points:
        raise LspFastError(f"{folder} has no evaluations yet; let the run go on until its first one")
    row = {**identity, "xs": list(points), "ys": list(points.values())}
    return Run(folder, row, flat(config))


def file_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file of scores; LspFastError where it is none."""
    rows = _json(path)
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise LspFastError(
            f"{path} is not a list of scores; each must be an object with task, method, seed, xs (environment steps) "
            "and ys (returns), the last two equally long lists of finite numbers; mend it, or leave the file out"
        )
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not {*IDENTITY, "xs", "ys"} <= set(row):
        return False
    xs, ys = row["xs"], row["ys"]
    return (
        isinstance(row["task"], str)
        and isinstance(row["method"], str)
        and isinstance(xs, list)
        and isinstance(ys, list)
        and len(xs) == len(ys)
        and all(map(_is_number, xs))
        and all(map(_is_score, ys))
    )


LARGEST = 1e300
"""Of a number in a figure; means and margins of larger ones would overflow."""


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) < LARGEST


def _is_score(y: Any) -> bool:
    """A return, or null (in other programs' files NaN) where it was not finite."""
    return y is None or y != y or _is_number(y)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise LspFastError(f"{path} cannot be read: {error.strerror}; name another file or folder") from error
    except (ValueError, RecursionError) as error:  # of JSON or of the encoding
        raise LspFastError(f"{path} is not JSON ({error}); name another file or folder") from error


def origin(folder: str, seed: Any) -> str:
    """What a transferred run began from, but for the seed: `walker_walk lsp`.

    Args:
        folder: the source's.
        seed: the transferred run's; in the name of a folder that is gone the same number is taken for a seed.
    """
    try:
        config = _json(Path(folder) / "config.json")
        return f"{config['task']} {method_name(config)}"
    except (LspFastError, TypeError, KeyError, AttributeError):
        return re.sub(rf"(?<!\d){re.escape(str(seed))}$", "SEED", Path(folder).name)
