"""`lsp-fast evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lsp_fast.commands.words import agent_of, planner_values
from lsp_fast.config import check_seed
from lsp_fast.errors import LspFastError
from lsp_fast.files import check_writable
from lsp_fast.media import VIDEOS


@dataclass(frozen=True)
class Evaluate:
    """Run whole episodes of a trained agent and print their returns."""

    logdir: Path | None = None
    """Folder of the run."""
    pretrained: str | None = None
    """Or the name of an agent that comes with the package, as cheetah_run."""
    episodes: int = 5
    seed: int = 0
    """Decides the episodes' beginnings and the policy's noise."""
    baselines: bool = False
    """Also score random actions, zero actions and the untrained agent."""
    video: Path | None = None
    """Also a video of one deterministic episode, an .mp4 or a .gif."""
    set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE...")] = ()
    """Values to plan with instead of the run's, as planner.replan=1 or planner.candidates=64."""
    device: str = "auto"
    backend: Literal["auto", "reference", "cpp", "triton"] = "auto"

    def run(self) -> int:
        from lsp_fast import evaluate
        from lsp_fast.reports import film

        source = agent_of(self.logdir, self.pretrained)
        if self.video is not None:
            if self.video.suffix.lower() not in VIDEOS or self.video.is_dir():
                raise LspFastError(f"--video {self.video}: name an .mp4 or a .gif")
            check_writable(self.video.parent)
        if self.episodes < 1:
            raise LspFastError(f"episodes = {self.episodes}: must be at least 1")
        check_seed(self.seed)
        planner = planner_values(self.set)
        agent = evaluate.load(source, device=self.device, backend=self.backend, planner=planner)
        if self.video is not None:
            film.check_task(agent)
        with evaluate.Evaluator(agent.config, self.episodes) as evaluator:
            scores = {
                "deterministic": evaluator.run_agent(agent, self.seed),
                "exploring": evaluator.run_agent(agent, self.seed, explore=True),
            }
        if self.baselines:
            scores |= evaluate.baselines(agent.config, self.episodes, self.seed)
        for name, score in scores.items():
            print(f"{name:20} {score}")
        if self.video is not None:
            film.film(agent, self.video, self.seed)
            print(f"{'video':20} {self.video}")
        return 0
