"""Trained agents that come with the package: `pretrained:cheetah_run`.

It stands wherever an agent is read from a run's folder: `lsp_fast.load`, evaluate, skills, transfer, export.

Each is two files in `lsp_fast/pretrained/`: NAME.safetensors holds the weights, large tensors in 16 bits, and NAME.json
the configuration, how they were made and what they scored. `benchmarks/pretrained.py` writes both.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lsp_fast.config import Config, from_dict, to_dict
from lsp_fast.config.transfer import PRETRAINED as PREFIX
from lsp_fast.errors import CheckpointError, ConfigError, LspFastError
from lsp_fast.files import write_bytes, write_text
from lsp_fast.storage import checkpoint

FOLDER = Path(__file__).resolve().parents[1] / "pretrained"
SMALL = 1024
"""Tensors of fewer numbers stay as they are: statistics, whose numbers may be of any size, are among them."""


def name_of(path: str | Path) -> str | None:
    """`cheetah_run` of `pretrained:cheetah_run`; None of a folder."""
    text = str(path)
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else None


def names() -> list[str]:
    """All that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def describe(name: str, folder: Path | None = None) -> dict[str, Any]:
    """NAME.json: `config`, `observation`, `action_dim`, `goals`, `env_steps`, and `made`, what is known of it.

    Raises:
        LspFastError: there is none of that name.
        CheckpointError: the file cannot be read.
    """
    folder = folder or FOLDER
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except FileNotFoundError as error:
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean {PREFIX}{near[0]}? " if near else ""
        raise LspFastError(f"there is no {PREFIX}{name}; {hint}there are {', '.join(names()) or 'none'}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name}.json cannot be read: {error}; install the package anew") from error


def read(name: str, folder: Path | None = None) -> tuple[Config, dict[str, Any]]:
    """Configuration and state, the latter as a checkpoint has it, though only what acting needs.

    Raises:
        LspFastError: there is none of that name.
        CheckpointError: its files cannot be read.
    """
    told = describe(name, folder)
    path = (folder or FOLDER) / f"{name}.safetensors"
    try:
        config = from_dict(told["config"])
        modules = {key: _whole(tensor) for key, tensor in load_file(path).items()}
        state = {key: told[key] for key in ("env_steps", "action_dim", "goals", "observation")}
    except (ConfigError, KeyError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; install the package anew") from error
    return config, {**state, "agent": {"modules": modules}}


def write(config: Config, state: dict[str, Any], made: dict[str, Any], name: str, folder: Path | None = None) -> Path:
    """A checkpoint's weights as a trained agent.

    Args:
        state: the checkpoint.
        made: command, date, machine, scores: what its file should tell.

    Returns:
        the path of the weights.
    """
    folder = folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    modules = {key: _halved(tensor) for key, tensor in state["agent"]["modules"].items()}
    write_bytes(path := folder / f"{name}.safetensors", save(modules))
    told = {
        "made": made,
        "env_steps": state["env_steps"],
        "observation": checkpoint.observation_of(state),
        "action_dim": state["action_dim"],
        "goals": state.get("goals"),
        "config": to_dict(config),
    }
    write_text(folder / f"{name}.json", json.dumps(told, indent=1) + "\n")
    return path


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """In 16 bits, where it is large; a copy, which alone is written, where it is a part of another one.

    Raises:
        LspFastError: a number is too large for 16 bits.
    """
    half = tensor.half() if tensor.is_floating_point() and tensor.numel() >= SMALL else tensor.clone()
    if not half.isfinite().all():
        raise LspFastError("a weight is beyond ±65504, which 16 bits cannot hold; choose another run")
    return half.contiguous()


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor
