"""`lsp-fast data import` and `lsp-fast data export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lsp_fast.errors import LspFastError


@dataclass(frozen=True)
class Import:
    """Make a replay of recorded data, for `lsp-fast train --data`.

    It takes a dataset of Minari's, a folder of Dreamer-style .npz episodes, or an HDF5 file of D4RL's kind.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RECORDING")]
    """Folder or file of the recording; nothing in it is changed."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the replay, which must be new."""
    task: str | None = None
    """What was recorded, as cheetah_run or gym:HalfCheetah-v5: shapes and order of its observations are checked, and
    only this task then trains with it."""
    action_repeat: int | None = None
    """Environment steps between two rows of the recording. Of Minari's and D4RL's it is 1 by default, and our own
    exports say it; of other .npz it must be given."""
    merge: int = 1
    """Rows that make one agent step, their rewards summed. They must hold one action."""
    observation: tuple[str, ...] = ()
    """Fields of .npz that make up the observation, in this order."""
    actions: Literal["auto", "led_to", "taken"] = "auto"
    """Whether a row of .npz has the action that led to its observation, as Dreamer's, or the one taken in it. auto: the
    zero in the first or in the last row of every episode tells."""
    action_low: tuple[float, ...] = ()
    """Least recorded action, one number or one for each entry; the recording's own, or else -1."""
    action_high: tuple[float, ...] = ()
    """Greatest recorded action."""
    clip_actions: bool = False
    """Cut actions that lie outside, as environments do, instead of refusing them."""
    never_ends: bool = False
    """Take a recording without a field for terminations: its task ends by time alone."""
    episode_length: int | None = None
    """Steps of every episode of an HDF5 file that has neither timeouts nor next_observations."""

    def run(self) -> int:
        from lsp_fast.experience.recorded.exchange import import_recording
        from lsp_fast.experience.recorded.form import Asked, target

        for name, value in (("--action-repeat", self.action_repeat), ("--episode-length", self.episode_length)):
            if value is not None and value < 1:
                raise LspFastError(f"{name} {value}: must be at least 1")
        asked = Asked(
            None if self.task is None else target(self.task),
            self.action_repeat or 0,
            self.merge,
            self.action_low,
            self.action_high,
            self.clip_actions,
            self.observation,
            self.actions,
            self.never_ends,
            self.episode_length or 0,
        )
        summary = import_recording(self.source, self.out, asked)
        print(summary)
        print(f"replay        {self.out}")
        frames = "" if isinstance(summary.observation, int) else " --obs pixels"
        print(
            f"next          lsp-fast train --data {self.out} --task {summary.about.task or 'TASK'} "
            f"--collect.action-repeat {summary.about.action_repeat}{frames}"
        )
        return 0


@dataclass(frozen=True)
class Export:
    """Write a run's replay as a dataset of Minari's, or as a folder of .npz episodes.

    Rows are agent steps, and actions lie in [-1, 1].
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, whose newest checkpoint says what there is, or of an imported replay."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the recording, which must be new."""
    format: Literal["minari", "npz"] = "minari"
    """A dataset of Minari's, or .npz episodes as Dreamer's programs read them."""
    name: str | None = None
    """Of Minari's dataset, as walker_walk/lsp-v0; the folder's by default."""
    author: str | None = None
    """For Minari's metadata."""
    author_email: str | None = None
    """For Minari's metadata."""
    code_permalink: str | None = None
    """For Minari's metadata: where the code of this version lies."""

    def run(self) -> int:
        from lsp_fast.experience.recorded import exchange, minari, npz
        from lsp_fast.training import data

        exchange.check_free(self.out)
        name = self.name or self.out.name
        if self.format == "minari":
            minari.check_name(name)
        stored, spec = data.of_run(self.source), None
        if stored.about.task:
            stored, spec = data.with_bounds(stored)
        if self.format == "npz":
            summary = exchange.export_replay(stored, self.out, npz.write_npz)
        else:
            about = stored.about
            described = (
                f"{about.task or 'An unnamed task'}, a row an agent step of {about.action_repeat} environment steps "
                "with their rewards summed; actions in [-1, 1]."
            )
            metadata: dict[str, Any] = {"description": described, "algorithm_name": about.algorithm}
            if self.author:
                metadata["author"] = {self.author}
            if self.author_email:
                metadata["author_email"] = {self.author_email}
            if self.code_permalink:
                metadata["code_permalink"] = self.code_permalink
            summary = exchange.export_replay(
                stored, self.out, lambda part, found: minari.write_minari(part, found, name, metadata, spec)
            )
        print(summary)
        print(f"recording     {self.out}")
        return 0


@dataclass(frozen=True)
class Data:
    """Import recorded data for training, or export a run's replay as others read it."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Import, tyro.conf.subcommand("import", prefix_name=False)]
        | Annotated[Export, tyro.conf.subcommand("export", prefix_name=False)]
    ]

    def run(self) -> int:
        return self.command.run()
