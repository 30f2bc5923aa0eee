"""`lsp-fast plot`: curves of runs beside published scores, a table of where they end, and what to be warned of."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsp_fast.errors import LspFastError
from lsp_fast.reports.figures import ALL_TASKS, Panel, check_format, draw, last_x, panels_of
from lsp_fast.reports.scores import Row, Run, file_rows, find_runs, origin
from lsp_fast.reports.statistics import MOST, Pooled, interquartile_mean, interval, pair, pool, reference_curve, shared

HEAD = ["task", "method", "seeds", "environment steps", "final mean [95 % interval]", "IQM [95 % interval]"]
"""Of the table's columns."""


class Final(NamedTuple):
    """A line of the table: one task and method at the last evaluation, or one method over all tasks."""

    task: str
    method: str
    seeds: int
    env_steps: float | None
    """Where the line stands; None where the seeds share no evaluation, and where all tasks end at different ones."""
    mean: float | None
    """None over all tasks."""
    interval: tuple[float, float] | None
    """95 %, of the mean over seeds; None for one seed and for references."""
    iqm: float | None = None
    """Interquartile mean, over all tasks of returns over MOST; None for references."""
    iqm_interval: tuple[float, float] | None = None
    """95 %; None for one seed."""
    reached: float | None = None
    """The first environment steps where the mean is at least the return that was asked for; None where it never is."""

    def cells(self) -> list[str]:
        """The line as text."""
        digits = 3 if self.task == ALL_TASKS else 1
        steps = "-" if self.env_steps is None else f"{self.env_steps:.0f}"
        mean, iqm = _cell(self.mean, self.interval, digits), _cell(self.iqm, self.iqm_interval, digits)
        return [self.task, self.method, str(self.seeds), steps, mean, iqm]


def _cell(value: float | None, bounds: tuple[float, float] | None, digits: int) -> str:
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text if bounds is None else f"{text} [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


@dataclass(frozen=True)
class Plot:
    """What was drawn."""

    path: Path
    table: list[Final]
    warnings: list[str]
    reach: float | None = None
    """The return that the table says the steps to."""

    def __str__(self) -> str:
        """The table, and where the figure lies."""
        lines = [HEAD, *(final.cells() for final in self.table)]
        if self.reach is not None:
            steps = ["-" if final.reached is None else f"{final.reached:.0f}" for final in self.table]
            lines = [[*line, cell] for line, cell in zip(lines, [f"steps to {self.reach:g}", *steps], strict=True)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        if any(final.task == ALL_TASKS for final in self.table):
            text += ["", f"{ALL_TASKS}: returns over {MOST}, the most that an episode of dm_control returns"]
        return "\n".join([*(line.rstrip() for line in text), "", f"figure {self.path}"])


@dataclass(frozen=True)
class Compared:
    """Runs side by side, and beside published scores."""

    runs: list[Run]
    panels: dict[str, Panel]
    """By task."""
    pooled: dict[str, Pooled]
    """Of the methods that were run on all of several tasks."""
    table: list[Final]
    warnings: list[str]


def plot(
    paths: Sequence[Path],
    out: Path = Path("learning_curves.png"),
    references: Sequence[Path] = (),
    at: int | None = None,
    reach: float | None = None,
) -> Plot:
    """Draw runs beside published scores; where a method was run on all of several tasks, also over these together.

    Args:
        paths: run folders, folders that hold some, scores.json files.
        out: the figure; its suffix says the format.
        references: files of rows like those of a scores.json.
        at, reach: as `compare` takes them; a task's panel shows all there is.

    Raises:
        LspFastError: nothing to draw, a file that cannot be used, a figure that cannot be written, or rliable is
            missing where there are several seeds; nothing is written then.
    """
    check_folder_of(out)
    check_format(out)
    found = compare(paths, references, at, reach)
    return Plot(draw(found.panels, out, found.pooled), found.table, found.warnings, reach)


def check_folder_of(out: Path) -> None:
    """Raise LspFastError where a file has no folder to lie in."""
    if not out.parent.is_dir():
        why = "is not a folder; name another file" if out.parent.exists() else "does not exist; make it or name another"
        raise LspFastError(f"cannot write {out}: {out.parent} {why}")


def compare(
    paths: Sequence[Path], references: Sequence[Path] = (), at: int | None = None, reach: float | None = None
) -> Compared:
    """What `plot` draws, its table, and what to be warned of.

    Args:
        at: environment steps. Later evaluations count neither in the table nor over all tasks, so that runs of
            different lengths are compared at equal steps.
        reach: a return; the table says at which evaluation each mean was first there.

    Raises:
        LspFastError: nothing to draw, no evaluation until `at`, a file that cannot be used, or rliable is missing where
            there are several seeds.
    """
    runs, warnings = find_runs(paths)
    if not runs:
        raise LspFastError("nothing to draw; name a run's folder, a folder of runs, or a scores.json")
    published = []
    for path in map(Path, references):
        for row in file_rows(path):
            # Two papers' methods of one name are not seeds of one method.
            published.append(row if len(references) == 1 else {**row, "method": f"{row['method']} of {path}"})
    panels = panels_of([run.row for run in runs], published)
    if references and not any(panel.references for panel in panels.values()):
        warnings.append(f"the references have none of these tasks: {', '.join(panels)}")
    counted, left_out = _until(runs, at)
    warnings += left_out
    table: list[Final] = []
    cut = panels_of([run.row for run in counted], published)
    for task, panel in cut.items():
        for method, rows in sorted(panel.ours.items()):
            group = [run for run in counted if run.row["task"] == task and run.row["method"] == method]
            table.append(_final(task, method, rows, reach))
            warnings += [f"{task} {method}: {text}" for text in _mixed(group)]
        for method, rows in sorted(panel.references.items()):
            table.append(_final_reference(task, method, rows, last_x(panel), reach))
    pooled, left_out = _pool({task: panel.ours for task, panel in cut.items()})
    warnings += left_out
    for method, of in pooled.items():
        at = of.ends[0] if len(set(of.ends)) == 1 else None
        table.append(Final(ALL_TASKS, method, of.seeds, at, None, None, of.final, of.final_interval))
    return Compared(runs, panels, pooled, table, warnings)


def _until(runs: Sequence[Run], at: int | None) -> tuple[list[Run], list[str]]:
    """The runs with their evaluations at or before `at`, and which have none."""
    if at is None:
        return list(runs), []
    counted, without = [], []
    for run in runs:
        points = [(x, y) for x, y in zip(run.row["xs"], run.row["ys"], strict=True) if x <= at]
        if points:
            xs, ys = map(list, zip(*points, strict=True))
            counted.append(replace(run, row={**run.row, "xs": xs, "ys": ys}))
        else:
            named = f"{run.row['task']} {run.row['method']}, seed {run.row['seed']} ({run.source})"
            without.append(f"{named} is not compared: no evaluation at or before {at} environment steps")
    if not counted:
        first = min(run.row["xs"][0] for run in runs)
        raise LspFastError(f"no run has an evaluation at or before {at} environment steps; the first lies at {first}")
    return counted, without + _ends_before(counted, at)


def _ends_before(runs: Sequence[Run], at: int) -> list[str]:
    """Which tasks' runs are compared at different steps, although one number was named."""
    ends: dict[str, set[int]] = defaultdict(set)
    for run in runs:
        ends[run.row["task"]].add(run.row["xs"][-1])
    return [
        f"{task}: compared are evaluations at {', '.join(map(str, sorted(found)))} environment steps, the last at or "
        f"before {at}"
        for task, found in sorted(ends.items())
        if len(found) > 1
    ]


def _pool(tasks: Mapping[str, Mapping[str, Sequence[Row]]]) -> tuple[dict[str, Pooled], list[str]]:
    """Rows by task and method -> the methods that were run on all of several tasks; and why something was left out."""
    pooled: dict[str, Pooled] = {}
    bounded = {task: methods for task, methods in tasks.items() if not task.startswith("gym:")}
    if len(tasks) < 2:
        return pooled, []
    warnings = [
        f"{ALL_TASKS}: {task} is left out, as its returns have no common scale" for task in tasks if task not in bounded
    ]
    if len(bounded) < 2:
        return pooled, warnings
    for method in sorted({method for methods in bounded.values() for method in methods}):
        missing = [task for task, methods in bounded.items() if method not in methods]
        if missing:
            warnings.append(f"{ALL_TASKS}: {method} is left out, as it has no run of {', '.join(missing)}")
            continue
        of, notes = pool({task: methods[method] for task, methods in bounded.items()})
        warnings += [f"{ALL_TASKS} {method}: {note}" for note in notes]
        if of:
            pooled[method] = of
    return pooled, warnings


def _first(xs: Sequence[float] | np.ndarray, ys: np.ndarray, reach: float | None) -> float | None:
    return None if reach is None else next((float(x) for x, y in zip(xs, ys, strict=True) if y >= reach), None)


def _final(task: str, method: str, rows: Sequence[Row], reach: float | None) -> Final:
    xs, values = shared(rows)
    if not xs:
        return Final(task, method, len(rows), None, None, None)
    bounds = pair(interval(values[:, -1:])) if len(rows) > 1 else None
    iqm, iqm_bounds = interquartile_mean(values[:, None, -1:])
    means = values.mean(0)
    reached = _first(xs, means, reach)
    return Final(task, method, len(rows), xs[-1], float(means[-1]), bounds, float(iqm[0]), pair(iqm_bounds), reached)


def _final_reference(task: str, method: str, rows: Sequence[Row], ours: float, reach: float | None) -> Final:
    """The last point published at or before our last evaluation, else the first one: nothing between points was
    measured."""
    xs, ys = reference_curve(rows)
    name = f"{method} (reference)"
    if not len(xs):
        return Final(task, name, len(rows), None, None, None)
    at = max(int(np.searchsorted(xs, ours, side="right")) - 1, 0)
    return Final(
        task, name, len(rows), float(xs[at]), float(ys[at]), None, reached=_first(xs[: at + 1], ys[: at + 1], reach)
    )


NO_MATTER = {
    "seed", "label", "threads", "max_minutes", "train.log_every", "train.health_every", "train.checkpoint_every",
}  # fmt: skip
"""Values in which seeds of one method may differ: nothing that decides what is learned."""


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that runs of one mean share: of a transfer's source what it was trained on and how, as every seed has
    a source of its own."""
    values = {name: value for name, value in config.items() if name not in NO_MATTER}
    if source := values.get("transfer.source"):
        values["transfer.source"] = origin(source, config.get("seed"))
    return values


def _mixed(group: Sequence[Run]) -> list[str]:
    """Why a mean over these runs, of one task and method, may not be what it seems."""
    warnings = []
    by_seed: dict[str, list[Run]] = defaultdict(list)
    for run in group:
        by_seed[str(run.row["seed"])].append(run)
    for seed, same in by_seed.items():
        if len(same) > 1:
            places = ", ".join(str(run.source) for run in same)
            warnings.append(f"seed {seed} is there {len(same)} times and counts as so many seeds: {places}")
    known = [(run.source, compared(run.config)) for run in group if run.config is not None]
    lines = []
    for name in sorted({name for _, config in known for name in config}):
        where: dict[str, list[str]] = defaultdict(list)
        for source, config in known:
            where[json.dumps(config[name]) if name in config else "absent"].append(str(source))
        if len(where) > 1:
            lines.append(f"  {name}: " + "; ".join(f"{value} in {', '.join(at)}" for value, at in where.items()))
    if lines:
        warnings.append("\n".join(["the mean is over runs that differ in more than the seed:", *lines]))
    common, values = shared(run.row for run in group)
    if common and (broken := [str(run.row["seed"]) for run, ys in zip(group, values, strict=True) if np.isnan(ys[-1])]):
        warnings.append(f"there is no mean, as what seed {', '.join(broken)} returned at {common[-1]} is not finite")
    ends = sorted({run.row["xs"][-1] for run in group})
    if len(ends) > 1:
        at = (
            f"the mean ends at {common[-1]}, their last common one"
            if common
            else "they have none in common: there is no mean"
        )
        warnings.append(f"the last evaluations lie at {', '.join(map(str, ends))} environment steps; {at}")
    return warnings
