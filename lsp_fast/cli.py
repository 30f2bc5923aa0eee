"""The command line: `lsp-fast train`, `evaluate`, `sweep`, `plot` and what COMMANDS lists."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import json
import re
import signal
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import lsp_fast
from lsp_fast import machine, terminal
from lsp_fast.config import ALGORITHMS, PRESETS, Config, base_config, check, check_seed
from lsp_fast.errors import LspFastError
from lsp_fast.files import check_writable


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


OWN = "env_steps", "seed", "max_minutes", "processes", "device", "backend", "threads"
"""Values that a transfer may choose anew, by the names that they have in a configuration."""


@dataclass(frozen=True)
class Transfer:
    """Train on another task from what a run has learned: its networks, with fresh optimisers."""

    source: Path
    """Folder of the run to begin from; nothing in it is changed."""
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
    processes: int | None = None
    """That train the agent together; as many as the source's by default."""
    device: str | None = None
    backend: Literal["auto", "reference", "cpp", "triton"] | None = None
    threads: int | None = None

    def run(self) -> int:
        from lsp_fast.storage.run_folder import RunFolder
        from lsp_fast.training.transfer import transfer_config

        if self.seed is not None:
            check_seed(self.seed)
        named = "-frozen" * self.freeze_policy + "-relabel" * self.relabel
        if (logdir := self.logdir) is None:
            seed = RunFolder(self.source).read_config().seed if self.seed is None else self.seed
            logdir = Path("runs") / folder_name(f"{self.task}-from-{self.source.resolve().name}{named}-{seed}")
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


@dataclass(frozen=True)
class Sweep:
    """Run an experiment's file, tasks x methods x seeds, or go on with what is missing; then draw its curves.

    A file with [search] has Optuna propose values, and prune what its curves give little hope for.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """TOML, as those in experiments/."""
    out: Path | None = None
    """Folder of the runs; runs/NAME-OF-THE-FILE by default."""
    jobs: int = 1
    """Runs at a time; on one machine they share its processors."""
    cluster: str = "local"
    """Where: local, or slurm."""
    set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE...")] = ()
    """Values that override the file's, as env_steps=20000, planner.candidates=8 or seeds=[0,1]."""
    submitit: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE...")
    ] = ()
    """Parameters of submitit, as slurm_partition=gpu or timeout_min=600."""
    dry_run: bool = False
    """Only list the runs and how far they have come."""

    def run(self) -> int:
        from lsp_fast.training import search, sweep

        if self.jobs < 1:
            raise LspFastError(f"jobs = {self.jobs}: must be at least 1")
        out = self.out or Path("runs") / self.file.stem
        values, parameters = assignments("--set", self.set), assignments("--submitit", self.submitit)
        cells = sweep.read(self.file, out, **values)
        where: dict[str, Any] = {"jobs": self.jobs, "cluster": self.cluster, "parameters": parameters}
        if search.asked_for(self.file):
            asked = search.read(self.file, out, **values)
            found = None if self.dry_run else search.run(asked, out, **where)
            print(found or asked)
            return 0 if found is None else found.status
        if self.dry_run:
            sweep.check_folders(cells)
            for cell in cells:
                told = "  finished" if cell.finished else ""
                print(f"{cell.env_steps:>9} of {cell.config.env_steps:>9}  {cell.folder}{told}")
            return 0
        report = sweep.run(cells, out, **where)
        warn(report.warnings)
        print(report)
        return report.status


def folder_name(text: str) -> str:
    """A text as the name of a folder: `gym:Pendulum-v1` has a colon, which not every file system knows."""
    return re.sub(r"[^\w.-]", "-", text)


def assignments(option: str, given: Iterable[Iterable[str]]) -> dict[str, Any]:
    """NAME=VALUE as a dictionary, of all times that the option is there; a value that is not JSON (true, 8, 0.1) is
    text.

    Raises:
        LspFastError: a text without a name or a value, or a name that is there twice.
    """
    values: dict[str, Any] = {}
    for text in chain.from_iterable(given):
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise LspFastError(f"{option} {text}: must be NAME=VALUE")
        if name in values:
            raise LspFastError(f"{option} {text}: {name} is there twice; name it once")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def warn(warnings: Iterable[str]) -> None:
    """Say on standard error what a user should know of a result."""
    for warning in warnings:
        print(f"lsp-fast: warning: {warning}", file=sys.stderr)


@dataclass(frozen=True)
class Evaluate:
    """Run whole episodes of a trained agent and print their returns."""

    logdir: Path
    """Folder of the run."""
    episodes: int = 5
    seed: int = 0
    """Decides the episodes' beginnings and the policy's noise."""
    baselines: bool = False
    """Also score random actions, zero actions and the untrained agent."""
    video: Path | None = None
    """Also a video of one deterministic episode, a .gif."""
    set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE...")] = ()
    """Values to plan with instead of the run's, as planner.replan=1 or planner.candidates=64."""
    device: str = "auto"
    backend: Literal["auto", "reference", "cpp", "triton"] = "auto"

    def run(self) -> int:
        from lsp_fast import evaluate

        if self.video is not None:
            if self.video.suffix.lower() != ".gif" or self.video.is_dir():
                raise LspFastError(f"--video {self.video}: name a .gif")
            check_writable(self.video.parent)
        if self.episodes < 1:
            raise LspFastError(f"episodes = {self.episodes}: must be at least 1")
        check_seed(self.seed)
        planner = {_of_planner(name): value for name, value in assignments("--set", self.set).items()}
        agent = evaluate.load(self.logdir, device=self.device, backend=self.backend, planner=planner)
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
            from lsp_fast.reports import skills

            skills.film(agent, self.video, self.seed)
            print(f"{'video':20} {self.video}")
        return 0


def _of_planner(name: str) -> str:
    """`planner.replan` as `replan`."""
    table, _, value = name.partition(".")
    if table != "planner" or not value:
        raise LspFastError(f"--set {name}: of a trained agent only planner.… can be changed, as planner.replan")
    return value


@dataclass(frozen=True)
class Skills:
    """Show what a run's skills do: frames and a video of several held from one state, paths, how distinct they are."""

    logdir: Path
    """Folder of the run."""
    out: Path | None = None
    """Folder of the pictures; LOGDIR/skills by default."""
    count: int = 6
    """Skills, drawn from N(0, I)."""
    env_steps: int = 40
    """Environment steps that each is held."""
    seed: int = 0
    """Of the state they begin in and of the skills."""
    device: str = "auto"
    backend: Literal["auto", "reference", "cpp", "triton"] = "auto"

    def run(self) -> int:
        from lsp_fast import evaluate
        from lsp_fast.reports import skills

        check_seed(self.seed)
        out = self.out or self.logdir / "skills"
        check_writable(out)
        agent = evaluate.load(self.logdir, device=self.device, backend=self.backend)
        print(skills.show(agent, out, count=self.count, env_steps=self.env_steps, seed=self.seed))
        return 0


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs, finished or not, beside published scores."""

    logdirs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LOGDIR...")]
    """Run folders, folders that hold some, or scores.json files."""
    out: Path = Path("learning_curves.png")
    """The figure: .png, .svg, .pdf or .jpg."""
    reference: Annotated[tuple[tuple[Path, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE...")] = ()
    """Files of published scores: lists of rows of task, method, seed, xs and ys."""

    def run(self) -> int:
        from lsp_fast.reports.plot import plot

        result = plot(self.logdirs, self.out, tuple(chain.from_iterable(self.reference)))
        warn(result.warnings)
        print(result)
        return 0


@dataclass(frozen=True)
class Doctor:
    """Say what there is to train with on this machine, and what is missing; status 0 if training can run."""

    def run(self) -> int:
        from lsp_fast.reports import doctor

        report = doctor.report()
        print(report)
        return 0 if report.can_train else 1


COMMANDS = {
    "train": Train,
    "transfer": Transfer,
    "sweep": Sweep,
    "evaluate": Evaluate,
    "skills": Skills,
    "plot": Plot,
    "doctor": Doctor,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit status; 2 for what the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        with terminal.streams():
            return _told(argv)
    except terminal.OutputLost as error:
        if error.reason == errno.EPIPE:  # whoever read the output, `head` say, has seen enough
            return 128 + signal.SIGPIPE
        with terminal.streams():
            print(f"lsp-fast: standard output cannot be written: {error}; name another place for it", file=sys.stderr)
        return 2


def _told(argv: list[str]) -> int:
    """Run one command, and put what stops it into a line."""
    if not argv or argv[0] not in COMMANDS:
        return _usage(argv)
    for line in machine.drop_thread_variables():
        print(f"lsp-fast: warning: {line}", file=sys.stderr)
    warnings.formatwarning = _one_line
    try:
        return at_home(parse(argv)).run()
    except LspFastError as error:
        if _tells():
            print(f"lsp-fast: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"lsp-fast: {error.filename}: {error.strerror}; name a path that can be used", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = (
            "; what was written up to the newest checkpoint stays" if argv[0] in ("train", "transfer", "sweep") else ""
        )
        print(f"lsp-fast: quit{kept}", file=sys.stderr)
        return 130


def _tells() -> bool:
    """Whether this process tells of an error: one of those that train together does."""
    together = sys.modules.get("lsp_fast.processes")
    return together is None or together.tells()


def _one_line(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
    """A warning of ours is for the user, who need not know where in the code it is."""
    return (
        f"lsp-fast: warning: {message}\n" if category is UserWarning else _formatted(message, category, *place, **line)
    )


_formatted = warnings.formatwarning


def _usage(argv: list[str]) -> int:
    """What there is to type; of a name that is no command the nearest."""
    if argv[:1] == ["--version"]:
        print(f"lsp-fast {lsp_fast.__version__}")
        return 0
    asked = not argv or argv[0] in ("-h", "--help")
    if not asked:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"lsp-fast: no command {argv[0]!r}; {hint}", file=sys.stderr)
        return 2
    known = "\n".join(f"  {name:9} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items())
    print(
        f"usage: lsp-fast COMMAND [OPTIONS]\n\n{known}\n\n"
        "`lsp-fast COMMAND --help` lists its options, `lsp-fast --version` names the version."
    )
    return 0 if argv else 2


def at_home(command: Any) -> Any:
    """The command with `~` of its paths replaced by the user's home, as a shell does where it stands alone."""

    def expanded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(expanded, value))
        return value.expanduser() if isinstance(value, Path) else value

    try:
        return dataclasses.replace(
            command, **{f.name: expanded(getattr(command, f.name)) for f in dataclasses.fields(command)}
        )
    except RuntimeError as error:  # no home
        raise LspFastError(f"~ cannot be replaced: {str(error).rstrip('.')}; name the whole path") from error


def parse(argv: list[str]) -> Train | Transfer | Sweep | Evaluate | Skills | Plot | Doctor:
    """The command with its options; presets and algorithms are the defaults that the options then override."""
    if argv[0] != "train":
        return tyro.cli(COMMANDS[argv[0]], prog=f"lsp-fast {argv[0]}", args=argv[1:])
    rows = argparse.ArgumentParser("lsp-fast train", add_help=False, allow_abbrev=False)
    rows.add_argument("--preset", default="paper", choices=PRESETS)
    rows.add_argument("--algorithm", default="lsp", choices=ALGORITHMS)
    row, _ = rows.parse_known_args(argv[1:])
    default = Train(base_config(row.preset, row.algorithm))
    return tyro.cli(Train, prog="lsp-fast train", args=argv[1:], default=default)


if __name__ == "__main__":
    sys.exit(main())
