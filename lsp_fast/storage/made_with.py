"""made_with.json: versions and device of a run's newest start, for whoever looks at it later. No run reads it."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import lsp_fast
from lsp_fast import machine
from lsp_fast.files import write_text

if TYPE_CHECKING:
    import torch

NAME = "made_with.json"


def note(folder: Path, device: torch.device) -> None:
    """Write it into a run's folder.

    Raises:
        OSError: the disk's.
    """
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor()
    content = {
        "lsp_fast": lsp_fast.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{device} ({name})",
    }
    write_text(folder / NAME, json.dumps(content) + "\n")


def read(folder: Path) -> dict[str, str]:
    """What was written; nothing where a run is from before there was such a file, or it is damaged."""
    try:
        content = json.loads((folder / NAME).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): str(text) for name, text in content.items()} if isinstance(content, dict) else {}
