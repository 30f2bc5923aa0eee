"""`lsp-fast skills`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lsp_fast.commands.words import agent_of, folder_for
from lsp_fast.config import check_seed
from lsp_fast.files import check_writable


@dataclass(frozen=True)
class Skills:
    """Show what a run's skills do: frames and a video of several held from one state, paths, how distinct they are."""

    logdir: Path | None = None
    """Folder of the run."""
    pretrained: str | None = None
    """Or the name of an agent that comes with the package, as cheetah_run."""
    out: Path | None = None
    """Folder of the pictures; by default LOGDIR/skills, or runs/NAME-skills."""
    count: int = 6
    """Skills, drawn from N(0, I)."""
    env_steps: int = 40
    """Environment steps that each is held."""
    seed: int = 0
    """Of the state they begin in and of the skills."""
    format: Literal["mp4", "gif"] = "mp4"
    """Of the video."""
    device: str = "auto"
    backend: Literal["auto", "reference", "cpp", "triton"] = "auto"

    def run(self) -> int:
        from lsp_fast import evaluate
        from lsp_fast.reports import skills

        check_seed(self.seed)
        source = agent_of(self.logdir, self.pretrained)
        out = self.out or folder_for(source, "skills")
        check_writable(out)
        agent = evaluate.load(source, device=self.device, backend=self.backend)
        print(skills.show(agent, out, count=self.count, env_steps=self.env_steps, seed=self.seed, form=self.format))
        return 0
