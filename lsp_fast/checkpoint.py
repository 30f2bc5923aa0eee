"""Checkpoints: tensors and plain values in one file, written atomically, loaded without running code."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from lsp_fast.errors import CheckpointError

FORMAT = 1
KEEP = 2  # checkpoints kept in a run


def path_of(folder: Path, env_steps: int) -> Path:
    """checkpoints/000012000.pt: names sort by environment steps."""
    return folder / f"{env_steps:09d}.pt"


def save(folder: Path, env_steps: int, state: dict[str, Any]) -> Path:
    """Write one checkpoint so that a crash leaves either all of it or none, then drop the oldest ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, env_steps)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save({"format": FORMAT, "env_steps": env_steps, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    # A crash while writing leaves a part under another number.
    for old in (*list_checkpoints(folder)[:-KEEP], *folder.glob("*.part")):
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(p for p in folder.glob("*.pt") if re.fullmatch(r"\d{9}", p.stem))


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the CPU.

    Raises:
        CheckpointError: it is missing, truncated, foreign, or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except Exception as error:  # damaged bytes make the unpickler fail with anything: IndexError, struct.error, ...
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}); an older one may lie beside it"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by this version of lsp_fast (format {FORMAT})")
    return state


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None where there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    error = None
    for path in reversed(list_checkpoints(folder)):
        try:
            return load(path)
        except CheckpointError as e:
            error = error or e
    if error is not None:
        raise error
    return None
