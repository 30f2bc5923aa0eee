"""`lsp-fast transfer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lsp_fast.commands.train import Train
from lsp_fast.commands.words import folder_name
from lsp_fast.config import check_seed

OWN = "env_steps", "seed", "max_minutes", "log", "processes", "device", "backend", "threads"
"""Values that a transfer may choose anew, by the names that they have in a configuration."""


@dataclass(frozen=True)
class Transfer:
    """Train on another task from what a run has learned: its networks, with fresh optimisers."""

    source: Path
    """Folder of the run to begin from, in which nothing is changed; or pretrained:NAME."""
    task: str
    """Of the same spaces, as quadruped_getup_reach is to quadruped_getup_walk."""
    logdir: Path | None = None
    """Folder of the new run; runs/TASK-from-SOURCE[-frozen][-relabel]-SEED by default."""
    freeze_policy: bool = False
    """Keep policy and predictor as they are; everything else learns."""
    relabel: bool = False
    """Begin with the source's experience, rewarded as this task does; otherwise its policy fills the replay."""
    skill_length: int | None = None
    """Agent steps that a skill is held; the source's by default."""
    horizon: int | None = None
    """Agent steps imagined, of a plan too; the source's by default."""
    plan_states: int | None = None
    """Start states of a batch; with a long horizon on a processor at most 32."""
    env_steps: int | None = None
    """Environment steps on the new task; the source's by default."""
    seed: int | None = None
    max_minutes: float | None = None
    log: tuple[str, ...] | None = None
    """Where its numbers go beside its own files; where the source's go by default."""
    processes: int | None = None
    """That train the agent together; as many as the source's by default."""
    device: str | None = None
    backend: Literal["auto", "reference", "cpp", "triton"] | None = None
    threads: int | None = None

    def run(self) -> int:
        from lsp_fast.storage import sources
        from lsp_fast.training.transfer import transfer_config

        if self.seed is not None:
            check_seed(self.seed)
        named = "-frozen" * self.freeze_policy + "-relabel" * self.relabel
        if (logdir := self.logdir) is None:
            seed = sources.read_config(self.source).seed if self.seed is None else self.seed
            logdir = Path("runs") / folder_name(f"{self.task}-from-{sources.label(self.source)}{named}-{seed}")
        given = {
            "transfer__freeze_policy": self.freeze_policy,
            "transfer__relabel": self.relabel,
            "skill__length": self.skill_length,
            "behavior__horizon": self.horizon,
            "behavior__plan_states": self.plan_states,
            **{k: getattr(self, k) for k in OWN},
        }
        overrides = {name: value for name, value in given.items() if value is not None}
        return Train(transfer_config(self.source, logdir, self.task, **overrides), logdir).run()
