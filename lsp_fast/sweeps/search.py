"""A search over an experiment's values: its file's `[search]` names ranges, Optuna proposes and prunes.

A trial is the whole experiment (tasks x methods x seeds) with one set of values, each run in a folder of its own. What
was tried lies in SQLite beside the runs, so that a search that is begun again goes on. docs/running.md describes the
file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from lsp_fast import extras
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.files import check_writable
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.sweeps import sweep, sweep_file
from lsp_fast.sweeps.cell import Cell, Failed, check_folders
from lsp_fast.sweeps.jobs import Again, Executors, NotSubmitted, Pool
from lsp_fast.training.signals import stop_on_signal

DATABASE = "search.db"
STUDY = "lsp-fast"
PRUNERS = {
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "none": "NopPruner",
}
KEYS = {"trials", "at", "seed", "pruner", "values"}


@dataclass(frozen=True)
class Search:
    """What `[search]` says."""

    path: Path
    """The experiment's file."""
    given: Mapping[str, Any]
    """Values that override the file's."""
    space: Mapping[str, Any]
    """Optuna's distribution of each value, by dotted name."""
    trials: int
    at: int | None
    """Environment step whose evaluation, or the last before it, is the score; None is a run's end."""
    seed: int
    pruner: Any

    def __str__(self) -> str:
        """The ranges, a line each."""
        lines = [f"{self.trials} trials, scored at {'their end' if self.at is None else f'{self.at} steps'}"]
        return "\n".join(lines + [f"{name}  {distribution}" for name, distribution in self.space.items()])

    def cells(self, out: Path, number: int, values: Mapping[str, Any]) -> list[Cell]:
        """A trial's runs."""
        return sweep_file.read(self.path, out / f"trial-{number:04}", **{**self.given, **values})


@dataclass
class Report:
    """What a search has found so far."""

    scored: int = 0
    pruned: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    """Why, by folder."""
    left: int = 0
    """Trials that are to be made or gone on with."""
    best: float | None = None
    """The highest mean of the runs' evaluations."""
    values: dict[str, Any] = field(default_factory=dict)
    """Of the best trial."""
    folder: Path | None = None
    """Of the best trial's runs."""

    @property
    def status(self) -> int:
        """The command's exit status."""
        return 1 if self.failed else 130 if self.left else 0

    def __str__(self) -> str:
        lines = [f"{self.scored} trials are scored, {self.pruned} were pruned"]
        lines += [f"failed   {folder}: {reason}" for folder, reason in self.failed.items()]
        if self.left:
            lines.append(f"to do    {self.left} trials; the same command goes on with these")
        if self.best is not None:
            told = " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                            for name, value in self.values.items())  # fmt: skip
            lines += [f"best     {self.best:.1f} with {told}", f"its runs {self.folder}"]
        return "\n".join(lines)


def asked_for(path: str | Path) -> bool:
    """Whether the experiment's file is one of a search."""
    return "search" in sweep_file.parse(Path(path))


def read(path: str | Path, out: str | Path, **values: Any) -> Search:
    """What a file with `[search]` asks for; nothing is written.

    Args:
        path: the file.
        out: folder that the trials' folders lie in.
        values: as `sweep.read` takes them.

    Raises:
        ConfigError: Optuna is not installed, or the file asks for something that cannot run.
    """
    path, content = Path(path), sweep_file.parse(Path(path))
    table = content["search"]
    try:
        search = _read(path, table, values)
    except (ConfigError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: [search]: {error}") from error
    if "target" in content:
        raise ConfigError(f"{path}: [search] knows no [target]; search on one of the tasks")
    edges = [{name: end(distribution) for name, distribution in search.space.items()} for end in (_low, _high)]
    for edge in edges:  # so that a mistake shows before anything is begun
        for cell in search.cells(Path(out), 0, edge):
            if search.at is not None and search.at > cell.config.env_steps:
                raise ConfigError(f"{path}: [search]: at = {search.at}: runs end at {cell.config.env_steps}")
    return search


def _read(path: Path, table: Any, values: Mapping[str, Any]) -> Search:
    if not isinstance(table, dict) or not isinstance(table.get("values"), dict) or not table["values"]:
        raise ConfigError("needs [search.values], as predictor.noise = { low = 0.0, high = 1.0 }")
    if unknown := sorted(table.keys() - KEYS):
        raise ConfigError(f"{unknown[0]} is none of {', '.join(sorted(KEYS))}")
    numbers = {"trials": 20, "seed": 0, **{k: table[k] for k in ("trials", "at", "seed") if k in table}}
    for name, number in numbers.items():
        if type(number) is not int or number < (name != "seed"):
            raise ConfigError(f"{name} = {number!r}: must be a whole number above 0")
    space = _space(table["values"])
    given = {name.replace("__", "."): value for name, value in values.items()}
    if both := sorted(space.keys() & given.keys()):
        raise ConfigError(f"{both[0]} is searched and cannot be given, too")
    pruner = _pruner(table.get("pruner", "median"))
    return Search(path, given, space, numbers["trials"], numbers.get("at"), numbers["seed"], pruner)


def _optuna() -> Any:
    optuna = extras.load("optuna", "search", "[search]")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _space(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{ low, high }` with `log` or `step` is a range, of whole numbers where both ends are; a list is a choice."""
    kinds, space = _optuna().distributions, {}
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, list) and value:
            space[name] = kinds.CategoricalDistribution(value)
        elif isinstance(value, dict) and {"low", "high"} <= value.keys() <= {"low", "high", "log", "step"}:
            whole = type(value["low"]) is int and type(value["high"]) is int
            space[name] = (kinds.IntDistribution if whole else kinds.FloatDistribution)(**value)
        elif isinstance(value, dict) and not value.keys() & {"low", "high"}:
            space |= _space(value, f"{name}.")
        else:
            raise ConfigError(f"{name} = {value!r}: must be {{ low = ..., high = ... }}, with log or step, or a list")
    return space


def _pruner(asked: Any) -> Any:
    """A pruner of Optuna's by name, or a table of the name and its own arguments."""
    arguments = {"name": asked} if isinstance(asked, str) else dict(asked)
    name = arguments.pop("name", None)
    if name not in PRUNERS:
        raise ConfigError(f"pruner = {asked!r}: name one of {', '.join(PRUNERS)}")
    return getattr(_optuna().pruners, PRUNERS[name])(**arguments)


def _low(distribution: Any) -> Any:
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


def _high(distribution: Any) -> Any:
    return distribution.choices[-1] if hasattr(distribution, "choices") else distribution.high


class Trial:
    """One set of values, and its runs."""

    def __init__(self, trial: Any, cells: list[Cell], at: int | None, told: set[int]) -> None:
        self.trial, self.cells, self._at, self._told = trial, cells, at, told
        self.waiting = [cell for cell in cells if not cell.finished]
        self.pruned = False
        self.failed = False

    def curve(self) -> dict[int, float]:
        """Mean of the runs' evaluations, by environment step, as far as all have come."""
        curves = [_curve(RunFolder(cell.folder).scores) for cell in self.cells]
        steps = [step for step in sorted(set(curves[0]).intersection(*curves)) if self._at is None or step <= self._at]
        return {step: fmean(curve[step] for curve in curves) for step in steps}

    def should_end(self) -> bool:
        """Tell Optuna of what is new on the curve, and ask whether to go on."""
        for step, score in self.curve().items():
            if step not in self._told:
                self.trial.report(score, step)
                self._told.add(step)
                if self.trial.should_prune():
                    return True
        return False


def _curve(path: Path) -> dict[int, float]:
    """A run's evaluations so far, by environment step."""
    try:
        [row] = json.loads(path.read_text())
        return dict(zip(row["xs"], row["ys"], strict=True))
    except (OSError, ValueError):
        return {}


class Trials:
    """What is tried and was tried, in Optuna's storage.

    Args:
        out: folder of the storage and of the trials' folders.
    """

    def __init__(self, search: Search, out: Path) -> None:
        self.search, self.out, self._optuna = search, out, _optuna()
        states = self._optuna.trial.TrialState
        self._state = {"scored": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        storage = f"sqlite:///{(out / DATABASE).absolute()}"
        self.study = self._optuna.create_study(
            storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True, pruner=search.pruner
        )
        before = self.study.get_trials(deepcopy=False)
        # Another seed than the trials before had, which would be proposed once more.
        self.study.sampler = self._optuna.samplers.TPESampler(seed=search.seed + len(before))
        for trial in before:
            if trial.params.keys() != search.space.keys():
                raise ConfigError(f"{out / DATABASE} is of a search over other values; name another --out")
        self.active = [
            self._trial(self._optuna.trial.Trial(self.study, trial._trial_id))
            for trial in before
            if trial.state == states.RUNNING
        ]
        self.asked = len(before)

    def _trial(self, trial: Any) -> Trial:
        told = set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        return Trial(trial, self.search.cells(self.out, trial.number, trial.params), self.search.at, told)

    def ask(self) -> bool:
        """Begin the next trial, if there is one."""
        if self.asked >= self.search.trials:
            return False
        try:
            trial = self._trial(self.study.ask(dict(self.search.space)))
        except ValueError as error:
            raise ConfigError(f"{self.out / DATABASE}: {error}; name another --out") from error
        self.active.append(trial)
        self.asked += 1
        return True

    def end(self, trial: Trial) -> str:
        """Tell Optuna what became of a trial, in a word."""
        curve = trial.curve()
        how = "failed" if trial.failed or not curve else "pruned" if trial.pruned else "scored"
        self.study.tell(trial.trial.number, curve[max(curve)] if how == "scored" else None, self._state[how])
        self.active.remove(trial)
        return f"{how} {curve[max(curve)]:.1f}" if how == "scored" else how

    def report(self, failed: dict[Path, str]) -> Report:
        """Of all trials there are."""
        states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
        report = Report(states.count(self._state["scored"]), states.count(self._state["pruned"]), failed)
        report.left = self.search.trials - self.asked + len(self.active)
        if report.scored:
            best = self.study.best_trial
            report.best, report.values = best.value, best.params
            report.folder = self.out / f"trial-{best.number:04}"
        return report


def run(
    search: Search,
    out: str | Path,
    *,
    jobs: int = 1,
    cluster: str = "local",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Report:
    """Try values until there are as many trials as asked for; at most `jobs` runs at a time.

    Ctrl-C asks every run to end with a checkpoint, and the same call goes on with these. Arguments and errors are
    `sweep.run`'s.
    """
    out = Path(out)
    check_writable(out)
    hands = sweep.executors(out, jobs, cluster, parameters or {})
    out.mkdir(parents=True, exist_ok=True)
    with _storage_errors(out / DATABASE):
        return _run(search, hands, out, jobs, progress)


def _run(search: Search, hands: Executors, out: Path, jobs: int, progress: bool) -> Report:
    trials, failed = Trials(search, out), {}
    check_folders(cell for trial in trials.active for cell in trial.cells)
    bar = tqdm(total=search.trials, initial=trials.asked - len(trials.active), unit="trial", disable=not progress,
               dynamic_ncols=True)  # fmt: skip
    with bar, stop_on_signal() as stop:
        pool = Pool(hands, jobs, bar.write)
        for trial in trials.active:
            for cell in pool.take_up(trial.waiting):
                trial.waiting.remove(cell)
        while True:
            _follow(pool, trials, failed)
            if stop.asked:
                if hands.outlive(stop):
                    break
                if pool.cells and not pool.ending:
                    bar.write("every run ends with a checkpoint")
                pool.ask_to_end(pool.cells)
            while not stop.asked and pool.free and (found := _next(trials)) is not None:
                trial, cell = found
                try:
                    if not pool.begin(cell):
                        break
                except NotSubmitted as error:
                    failed[cell.folder], trial.failed = str(error), True
                trial.waiting.remove(cell)
            for trial in [t for t in trials.active if _over(t, pool)]:
                bar.write(f"trial {trial.trial.number}  {trials.end(trial)}")
                bar.update()
            bar.set_postfix({"failed": len(failed), **pool.counts}, refresh=False)
            more = trials.asked < search.trials or any(trial.waiting for trial in trials.active)
            if not pool.cells and (stop.asked or not more):
                break  # what is active then was interrupted
            time.sleep(sweep.POLL_SECONDS)
    return trials.report(failed)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Put into a line what keeps Optuna from its storage: a disk that is full, a file that is no study, a lock."""
    from sqlalchemy.exc import SQLAlchemyError  # pyright: ignore[reportMissingImports]

    try:
        yield
    except (SQLAlchemyError, _optuna().exceptions.StorageInternalError) as error:
        why = str(error.__cause__ or error).splitlines()[0]
        raise LspFastError(f"{path} cannot be used: {why}; mend that, and the same command goes on") from error


def _follow(pool: Pool, trials: Trials, failed: dict[Path, str]) -> None:
    """What has ended, and what Optuna gives up."""
    owner = {cell.folder: trial for trial in trials.active for cell in trial.cells}
    for cell, outcome in pool.ended():
        trial = owner[cell.folder]
        if isinstance(outcome, Failed):
            failed[cell.folder], trial.failed = outcome.reason, True
        elif isinstance(outcome, Again) and not (trial.pruned or trial.failed):
            trial.waiting.insert(0, cell)
    for trial in trials.active:
        if not (trial.pruned or trial.failed) and trial.should_end():
            trial.pruned = True
        if trial.pruned or trial.failed:
            trial.waiting.clear()
            pool.ask_to_end(cell for cell in pool.cells if cell in trial.cells)


def _next(trials: Trials) -> tuple[Trial, Cell] | None:
    """The next run: of the oldest trial first, and of a new one where those have none left to begin."""
    while True:
        for trial in trials.active:
            if trial.waiting:
                return trial, trial.waiting[0]
        if not trials.ask():
            return None


def _over(trial: Trial, pool: Pool) -> bool:
    """Whether nothing of it runs any more, and nothing of it is left to do."""
    if any(cell in trial.cells for cell in pool.cells):
        return False
    return trial.pruned or trial.failed or all(cell.finished for cell in trial.cells)
