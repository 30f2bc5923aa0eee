"""Files and runs as they lie on people's disks, made without training: what a row's `before` puts there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lsp_fast.config import make_config, to_dict

UNTOLD = "untold"
"""Of a checkpoint from before it said whether the run was finished."""


def run(
    folder: str | Path,
    evaluations: Sequence[tuple[int, Any]] = (),
    saved: int | None = None,
    finished: bool | str = True,
    preset: str = "smoke",
    algorithm: str = "lsp",
    **values: Any,
) -> None:
    """A run's folder.

    Args:
        folder: made, with those above it.
        evaluations: environment steps and returns, of metrics and scores.
        saved: environment steps of a checkpoint, which holds no weights; none by default.
        finished: what the checkpoint says.
        preset, algorithm, values: the configuration's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    config = to_dict(make_config(preset, algorithm, **values))
    (folder / "config.json").write_text(json.dumps(config))
    if evaluations:
        rows = [{"env_steps": x, "eval/return": y} for x, y in evaluations]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        xs, ys = zip(*evaluations, strict=True)
        scores = [{"task": config["task"], "method": algorithm, "seed": config["seed"], "xs": xs, "ys": ys}]
        (folder / "scores.json").write_text(json.dumps(scores))
    if saved is not None:
        from lsp_fast.storage import checkpoint

        told = {} if finished == UNTOLD else {"finished": finished}
        checkpoint.save(folder / "checkpoints", saved, told)


def text(name: str, content: str) -> Callable[[Any], None]:
    """A `before` that writes one file."""
    return lambda _: put(name, content)


def put(name: str, content: str) -> None:
    """Write a file, with the folders above it."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(content)
