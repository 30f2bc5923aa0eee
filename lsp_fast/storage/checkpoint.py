"""Checkpoints: tensors and plain values in one file, written atomically, loaded without running code."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lsp_fast import files
from lsp_fast.errors import CheckpointError, LspFastError
from lsp_fast.observed import Plain

FORMAT = 2
KEEP = 2  # checkpoints kept in a run


def path_of(folder: Path, env_steps: int) -> Path:
    """checkpoints/000012000.pt: names sort by environment steps."""
    return folder / f"{env_steps:09d}.pt"


def save(folder: Path, env_steps: int, state: dict[str, Any]) -> Path:
    """Write one checkpoint so that a crash leaves either all of it or none, then drop the oldest ones.

    Raises:
        OSError: the disk's; what was there before is still there, and nothing half-written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, env_steps)
    # In memory first: torch's own writer answers a full disk by aborting the process.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "env_steps": env_steps, **state}, buffer)
    files.write_bytes(path, buffer.getbuffer())
    # A crash while writing leaves a part under another number.
    for old in (*list_checkpoints(folder)[:-KEEP], *folder.glob(f"*{files.PART}")):
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(p for p in folder.glob("*.pt") if re.fullmatch(r"\d{9}", p.stem))


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the CPU.

    Raises:
        CheckpointError: it is missing, truncated, altered, foreign, or of another version.
    """
    try:
        # torch does not compare the archive's own checksums: altered weights would load.
        with zipfile.ZipFile(path) as archive:
            if (altered := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the content of {altered} is not what was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except Exception as error:  # damaged bytes make the unpickler fail with anything: IndexError, struct.error, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable checkpoint ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by this version of lsp_fast (format {FORMAT})")
    return state


def plain_values(path: Path) -> dict[str, Any]:
    """A checkpoint's content without its tensors' numbers, of whatever size it is, in a millisecond.

    Raises:
        CheckpointError: it cannot be read; altered tensors are `load`'s to find.
    """
    try:
        state = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except Exception as error:  # as in `load`
        raise CheckpointError(f"{path} is not a readable checkpoint") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a checkpoint")
    return state


@contextmanager
def fitting(state: dict[str, Any]) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint's content is taken over into a CheckpointError."""
    try:
        yield
    except LspFastError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint of {state.get('env_steps')} environment steps does not fit this version of lsp_fast or "
            f"this task ({type(error).__name__}: {error}); use the version that wrote it, or begin in another --logdir"
        ) from error


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, with a warning for each that cannot; None where there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    errors = []
    for path in reversed(list_checkpoints(folder)):
        try:
            state = load(path)
        except CheckpointError as error:
            errors.append(error)
            continue
        for error in errors:
            warnings.warn(f"{error}; the one before it, {path.name}, is used", stacklevel=2)
        return state
    if errors:
        raise CheckpointError(f"{errors[0]}, and no older one can be read; delete {folder} to begin the run anew")
    return None


def observation_of(state: dict[str, Any]) -> Plain:
    """The width or shape of what a run observes, or both; runs from before there were frames named it otherwise."""
    found = state["observation"] if "observation" in state else state["observation_dim"]
    return found if isinstance(found, int) else tuple(found)
