"""`lsp-fast train`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lsp_fast.commands.words import folder_name
from lsp_fast.config import Config, check


@dataclass(frozen=True)
class Train:
    """Train an agent, or go on with the run that --logdir holds.

    Below, [P] is stated in the paper, [D] comes from Dreamer's code and [O] is left open by both. SPEC numbers a
    section of the project's specification, which users need not know. docs/configuration.md says more.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    logdir: Path | None = None
    """Folder of the run; runs/TASK-ALGORITHM-SEED by default."""
    profile: bool = False
    """Also write a trace of a few updates, trace.json, for Perfetto or chrome://tracing."""

    def run(self) -> int:
        check(self.config)
        from lsp_fast import backends, processes
        from lsp_fast.training.loop import train

        c = self.config
        logdir = self.logdir or Path("runs") / folder_name(f"{c.task}-{c.algorithm}-{c.seed}")
        if c.preset in ("paper", "gpu") and backends.device(c.device).type == "cpu":
            print(
                f"lsp-fast: note: --preset {c.preset} takes weeks on a processor; --preset cpu learns in minutes",
                file=sys.stderr,
            )
        result = train(c, logdir, profile=self.profile)
        if processes.invited_rank():
            return 0  # the first process says the rest
        if result.resumed_at >= c.env_steps:
            print(f"finished before: raise --env-steps to go on, or name another --logdir than {logdir}")
        if result.timed_out:
            print(
                f"stopped after {c.max_minutes:g} minutes at {result.env_steps} environment steps; the same command "
                "goes on from there"
            )
        elif not result.finished:
            print(f"interrupted at {result.env_steps} environment steps; the same command goes on from there")
        if result.finished and not result.updates:
            print("nothing was learned: --env-steps ends before the prefill does (--collect.prefill)")
        if result.score is not None:
            print(
                f"return         {result.score:.1f} at {result.env_steps} environment steps, {result.updates} updates"
            )
        print(f"learning curve {result.curve or '- (no evaluation yet)'}")
        print(f"checkpoint     {result.checkpoint}")
        print(f"scores         {result.scores if result.curve else '- (no evaluation yet)'}")
        if self.profile:
            print(f"trace          {result.trace or '- (no update that learns behaviour was left to trace)'}")
        return 0 if result.finished or result.timed_out else 130
