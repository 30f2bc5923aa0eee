"""`lsp-fast export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Export:
    """Write a trained agent as ONNX, with a program that acts by NumPy and ONNX Runtime alone.

    It takes a minute or so.
    """

    logdir: Path
    """Folder of the run."""
    out: Path | None = None
    """New or empty folder; LOGDIR/policy by default."""
    format: Literal["onnx", "torch"] = "onnx"
    """onnx, or torch for programs that torch.export.load reads."""
    explore: bool = False
    """Act as while collecting: sampled skills and actions, with noise on them; otherwise as in evaluation."""

    def run(self) -> int:
        from lsp_fast.export import policy

        out = self.out or self.logdir / "policy"
        print(policy.export(self.logdir, out, format=self.format, explore=self.explore))
        return 0
