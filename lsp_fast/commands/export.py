"""`lsp-fast export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lsp_fast.commands.words import agent_of, folder_for, planner_values


@dataclass(frozen=True)
class Export:
    """Write a trained agent as ONNX, with a program that acts by NumPy and ONNX Runtime alone.

    It takes a minute or so.
    """

    logdir: Path | None = None
    """Folder of the run."""
    pretrained: str | None = None
    """Or the name of an agent that comes with the package, as cheetah_run."""
    out: Path | None = None
    """New or empty folder; by default LOGDIR/policy, or runs/NAME-policy."""
    format: Literal["onnx", "torch"] = "onnx"
    """onnx, or torch for programs that torch.export.load reads."""
    explore: bool = False
    """Act as while collecting: sampled skills and actions, with noise on them; otherwise as in evaluation."""

    set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE...")] = ()
    """Values to plan with instead of the run's, as planner.replan=1 or planner.candidates=8."""

    def run(self) -> int:
        from lsp_fast.export import policy

        source, planner = agent_of(self.logdir, self.pretrained), planner_values(self.set)
        out = self.out or folder_for(source, "policy")
        print(policy.export(source, out, format=self.format, explore=self.explore, planner=planner))
        return 0
