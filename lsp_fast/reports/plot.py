"""Pictures and tables from metrics alone: rows of task, method, seed, xs (environment steps) and ys (returns).

A run still under way, or one that was killed, is drawn as far as it came. Neither torch nor a checkpoint is needed.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lsp_fast.config import flat, method_name
from lsp_fast.errors import LspFastError
from lsp_fast.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

RESAMPLES = 2000
"""Of the bootstrap."""
COLUMNS = 3
"""Panels beside each other."""
FORMATS = (".jpg", ".jpeg", ".pdf", ".png", ".svg")
"""What matplotlib writes everywhere, without LaTeX or codecs of the machine."""
MARGIN = 1.05
"""Right edge of a panel over the last evaluation."""
ALL_TASKS = "all tasks"
MOST = 1000
"""What an episode of dm_control returns at most, 1000 steps of rewards up to 1; `all tasks` is in shares of it."""


# Files -> runs


@dataclass(frozen=True)
class Run:
    """The evaluations of one seed, and where they were read."""

    source: Path
    row: Row
    config: dict[str, Any] | None
    """Values by dotted name; None where a scores.json says nothing of it."""


def read_scores(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All rows of several scores.json files.

    Raises:
        LspFastError: a file cannot be read, or is no list of such rows.
    """
    return [row for path in paths for row in _scores(Path(path))]


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs behind some paths: run folders, folders with run folders anywhere below, scores.json files.

    Returns:
        runs, sorted by task, method and seed, each once; and warnings about the folders that were left out.

    Raises:
        LspFastError: a path that brings no evaluation; the message says what to do.
    """
    runs: dict[tuple[Path, str], Run] = {}
    warnings: list[str] = []
    for path in map(Path, paths):
        if path.is_file():
            found = [Run(path, row, None) for row in _scores(path) if row["xs"]]
            if not found:
                raise LspFastError(f"{path} holds no evaluations; name a run's folder or its scores.json")
        elif _is_run(path):
            found = [_read_run(path)]
        elif path.is_dir():
            found = []
            for folder in sorted({p.parent for p in path.rglob("config.json") if _is_run(p.parent)}):
                try:
                    found.append(_read_run(folder))
                except LspFastError as error:
                    warnings.append(f"left out: {error}")
            if not found:
                raise LspFastError("\n".join([f"{path} holds no run with evaluations; name a run's folder", *warnings]))
        else:
            raise LspFastError(f"{path} does not exist; name a run's folder, a folder of runs, or a scores.json")
        # A run may be named twice, by itself and by the folder above it.
        runs |= {(run.source.resolve(), json.dumps([run.row[k] for k in IDENTITY])): run for run in found}
    return sorted(runs.values(), key=lambda run: [str(run.row[k]) for k in IDENTITY]), warnings


IDENTITY = ("task", "method", "seed")


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "metrics.jsonl").is_file()


def _read_run(folder: Path) -> Run:
    config_path, metrics_path = folder / "config.json", folder / "metrics.jsonl"
    # Plain values rather than a Config: runs of other versions, whose fields differ, can be drawn too.
    config = _json(config_path)
    try:
        identity = {"task": config["task"], "method": method_name(config), "seed": config["seed"]}
    except (TypeError, KeyError, AttributeError) as error:
        raise LspFastError(f"{config_path} is not a run's configuration; name another folder") from error
    points = _evaluations(metrics_path)
    if not points:
        raise LspFastError(f"{folder} has no evaluations yet; let the run go on until its first one")
    row = {**identity, "xs": list(points), "ys": list(points.values())}
    return Run(folder, row, flat(config))


def _evaluations(path: Path) -> dict[int, float | None]:
    """Return by environment steps; a last line that was cut off is left out."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise LspFastError(f"{path} cannot be read: {error.strerror}") from error
    points = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise LspFastError(f"line {number} of {path} is damaged; delete that line, or leave the run out") from error
        if isinstance(row, dict) and "env_steps" in row and "eval/return" in row:
            points[row["env_steps"]] = row["eval/return"]
    return points


def _scores(path: Path) -> list[dict[str, Any]]:
    rows = _json(path)
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise LspFastError(
            f"{path} is not a list of scores; each must be an object with task, method, seed, xs (environment steps) "
            "and ys (returns), the last two equally long"
        )
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not {*IDENTITY, "xs", "ys"} <= set(row):
        return False
    xs, ys = row["xs"], row["ys"]
    return (
        isinstance(row["task"], str)
        and isinstance(row["method"], str)
        and isinstance(xs, list)
        and isinstance(ys, list)
        and len(xs) == len(ys)
        and all(isinstance(x, (int, float)) for x in xs)
        and all(y is None or isinstance(y, (int, float)) for y in ys)
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise LspFastError(f"{path} cannot be read: {error.strerror}; name another file or folder") from error
    except ValueError as error:  # of JSON or of the encoding
        raise LspFastError(f"{path} is not JSON ({error}); name another file or folder") from error


# Runs -> numbers


def shared(seeds: Iterable[Row]) -> tuple[list[int], np.ndarray]:
    """The xs that all rows share, and each row's ys there, [seeds, xs]; a score that was not finite (null) is NaN."""
    curves = [dict(zip(row["xs"], np.array(row["ys"], float), strict=True)) for row in seeds]
    xs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return xs, np.array([[curve[x] for x in xs] for curve in curves])


def mean_curve(seeds: Iterable[Row]) -> tuple[list[int], np.ndarray]:
    """The xs that all rows share, and their mean there; a score that was not finite (null) makes a gap."""
    xs, values = shared(seeds)
    return xs, values.mean(0)


def interval(values: np.ndarray, share: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap of the mean over seeds: values [seeds, xs] -> low [xs], high [xs].

    The same seeds are drawn for every x, and the draws are the same at every call. A column with a NaN gives NaN.
    Of two or three seeds it is just the range.
    """
    seeds = len(values)
    draws = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)  # [resamples, seeds]
    low, high = np.percentile(draws @ values / seeds, [50 * (1 - share), 50 * (1 + share)], axis=0)
    return low, high


def interquartile_mean(scores: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Mean of the middle half of scores, by rliable (Agarwal et al. 2021). Of fewer than four scores it is their mean.

    Args:
        scores: [seeds, tasks, xs].

    Returns:
        the mean over all seeds and tasks [xs], and its 95 % stratified percentile bootstrap, low [xs] and high [xs]:
        seeds are drawn for every task and x by itself, tasks are not. None for one seed. An x with a score that was not
        finite gives NaN. The same scores give the same interval, whatever the order of seeds.

    Raises:
        LspFastError: rliable cannot be imported.
    """
    seeds, tasks, count = scores.shape
    # The same as rliable's aggregate_iqm, which knows no xs: called for each of them, it is many times slower.
    cut = seeds * tasks // 4

    def middle(drawn: np.ndarray) -> np.ndarray:
        return np.sort(drawn.reshape(seeds * tasks, -1), axis=0)[cut : seeds * tasks - cut].mean(0)

    # Trimming would take a NaN for the largest score, and drop it. Sorted, as draws pick seeds by their place.
    known = np.isfinite(scores).all((0, 1))
    scores = np.sort(scores[..., known], axis=0)
    found = np.full((3, count), np.nan)
    if known.any():
        found[0, known] = middle(scores)
    if seeds == 1:
        return found[0], None
    rliable = _rliable()
    if known.any():
        with _fixed_draws():
            _, bounds = rliable.get_interval_estimates({"": scores}, middle, reps=RESAMPLES)
        found[1:, known] = bounds[""]
    return found[0], (found[1], found[2])


def _rliable() -> Any:
    # Only here: it imports pandas and statsmodels, which take their time.
    try:
        from rliable import library
    except Exception as error:  # arch, which it stands on, fails with a TypeError beside pandas 3
        raise LspFastError(
            f'rliable, which intervals need, cannot be imported ({error}); pip install rliable "pandas<3"'
        ) from error
    return library


@contextmanager
def _fixed_draws() -> Iterator[None]:
    """rliable 1.2 draws from NumPy's global generator, whatever random_state it is given."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def reference_curve(seeds: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over rows where all of them reach, interpolated: published seeds rarely share their xs."""
    curves = [np.array(sorted((x, y) for x, y in zip(row["xs"], row["ys"], strict=True) if y is not None)).T
              for row in seeds]  # fmt: skip
    low, high = max(curve[0][0] for curve in curves), min(curve[0][-1] for curve in curves)
    xs = np.unique(np.concatenate([curve[0] for curve in curves]))
    xs = xs[(xs >= low) & (xs <= high)]
    return xs, np.mean([np.interp(xs, *curve) for curve in curves], axis=0)


class Pooled(NamedTuple):
    """One method's normalised returns over all tasks, as interquartile means."""

    seeds: int
    tasks: int
    ends: list[int]
    """Where each task's last common evaluation lies."""
    final: float
    final_interval: tuple[float, float] | None
    xs: list[int]
    """That all of its runs share."""
    curve: np.ndarray
    """[xs]"""
    band: tuple[np.ndarray, np.ndarray] | None
    """[xs] each; None for one seed."""


def pool(tasks: Mapping[str, Sequence[Row]]) -> tuple[Pooled | None, list[str]]:
    """One method's rows by task -> interquartile means, and warnings; None where tasks share no seed, or seeds no x."""
    used, left = _same_seeds(tasks)
    if not any(used.values()):
        return None, ["no seed was run on every task; left out"]
    warnings = []
    if left:
        seeds = "; ".join(f"{', '.join(names)} of {task}" for task, names in left.items())
        warnings.append(f"seeds left out, as not every task has them: {seeds}")
    alone = {task: shared(rows) for task, rows in used.items()}
    for task, (xs, _) in alone.items():
        if not xs:
            return None, [*warnings, f"the seeds of {task} share no evaluation; left out"]
    ends = [xs[-1] for xs, _ in alone.values()]
    if len(set(ends)) > 1:
        at = ", ".join(map(str, sorted(set(ends))))
        warnings.append(f"the tasks end at {at} environment steps; each counts with its own last common evaluation")
    mean, bounds = interquartile_mean(np.stack([values[:, -1:] for _, values in alone.values()], 1) / MOST)
    xs, values = shared(row for rows in used.values() for row in rows)  # [tasks · seeds, xs]
    if not xs:
        warnings.append("its runs share no evaluation; there is no curve")
    seeds = len(values) // len(used)
    curve, band = interquartile_mean(values.reshape(len(used), seeds, len(xs)).swapaxes(0, 1) / MOST)
    return Pooled(seeds, len(used), ends, float(mean[0]), _pair(bounds), xs, curve, band), warnings


def _same_seeds(tasks: Mapping[str, Sequence[Row]]) -> tuple[dict[str, list[Row]], dict[str, list[str]]]:
    """Of each task the rows of the seeds that all tasks have, equally many; and the seeds left out, by task."""
    names = {task: Counter(json.dumps(row["seed"]) for row in rows) for task, rows in tasks.items()}
    common = Counter({seed: min(count[seed] for count in names.values()) for seed in set().union(*names.values())})
    used: dict[str, list[Row]] = {}
    left: dict[str, list[str]] = {}
    for task, rows in tasks.items():
        room, used[task] = common.copy(), []
        # A seed may be there twice; the scores then say which is taken, not the order in which they were read.
        for row in sorted(rows, key=lambda row: json.dumps([row[k] for k in ("seed", "xs", "ys")])):
            seed = json.dumps(row["seed"])
            room[seed] -= 1
            if room[seed] >= 0:
                used[task].append(row)
            else:
                left.setdefault(task, []).append(seed)
    return used, left


def _pair(bounds: tuple[np.ndarray, np.ndarray] | None) -> tuple[float, float] | None:
    return None if bounds is None else (float(bounds[0][0]), float(bounds[1][0]))


# Numbers -> picture


class Panel(NamedTuple):
    """What one task's panel shows: rows by method."""

    ours: dict[str, list[Row]]
    references: dict[str, list[Row]]


def learning_curves(rows: Iterable[Row], path: Path, references: Iterable[Row] = ()) -> Path:
    """Draw one panel per task and one colour per method: each seed thin, their mean bold where they share xs.
    Tasks are not pooled: that is `plot`'s.

    Several seeds get a band, the 95 % interval of their mean. The same rows give the same file.

    Args:
        path: its suffix says the format.
        references: other people's rows, drawn dashed beside the tasks that `rows` has; a task's `dmc_` is ignored.

    Raises:
        LspFastError: the file cannot be written, or not in that format.
    """
    return _draw(_panels(rows, references), Path(path))


def _panels(rows: Iterable[Row], references: Iterable[Row]) -> dict[str, Panel]:
    panels: dict[str, Panel] = defaultdict(lambda: Panel(defaultdict(list), defaultdict(list)))
    for row in rows:
        panels[row["task"]].ours[row["method"]].append(row)
    for row in references:
        task = row["task"].removeprefix("dmc_")
        if task in panels and any(y is not None for y in row["ys"]):
            panels[task].references[row["method"]].append(row)
    return dict(sorted(panels.items()))


def _draw(panels: Mapping[str, Panel], path: Path, pooled: Mapping[str, Pooled] | None = None) -> Path:
    """The last panel is that of all tasks, if there are such curves."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise LspFastError(f"cannot draw {path}: its suffix must be one of {', '.join(FORMATS)}")
    pooled = {method: of for method, of in (pooled or {}).items() if of.xs}
    count = max(len(panels) + bool(pooled), 1)
    columns, lines = min(count, COLUMNS), math.ceil(count / COLUMNS)
    figure = Figure(figsize=(5.5 * columns, 3.6 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    methods = sorted({method for panel in panels.values() for rows in panel for method in rows})
    palette = matplotlib.colormaps["tab10" if len(methods) <= 10 else "tab20"]
    colors = {method: palette(i % palette.N) for i, method in enumerate(methods)}
    for axis, (task, panel) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, panel, colors)
        axis.set(title=task, ylabel="evaluation return")
    if pooled:
        _draw_pooled(axes[len(panels)], pooled, colors)
        axes[len(panels)].set(title=ALL_TASKS, ylabel=f"IQM of return / {MOST}")
    for axis in axes[: len(panels) + bool(pooled)]:
        axis.set(xlabel="environment steps")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize="small")
    for axis in axes[count:]:
        axis.set_visible(False)
    # Neither dates nor random identifiers.
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "lsp_fast"}):
        figure.savefig(content, format=suffix[1:], dpi=120, metadata=undated)
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise LspFastError(f"cannot write {path}: {error.strerror}; name another file") from error
    return path


def _draw_panel(axis: Axes, panel: Panel, colors: Mapping[str, Any]) -> None:
    for method, seeds in sorted(panel.ours.items()):
        color = colors[method]
        if len(seeds) > 1:
            for row in seeds:
                axis.plot(row["xs"], np.array(row["ys"], float), color=color, alpha=0.35, linewidth=1)
        xs, values = shared(seeds)
        label = f"{method} ({_seeds(len(seeds))})"
        axis.plot(xs, values.mean(0), color=color, linewidth=2, marker="o", markersize=3, label=label)
        if len(seeds) > 1:
            axis.fill_between(xs, *interval(values), color=color, alpha=0.2, linewidth=0)
    edge = MARGIN * _last_x(panel)
    for method, seeds in sorted(panel.references.items()):
        xs, ys = reference_curve(seeds)
        style = {"color": colors[method], "linewidth": 1.5, "linestyle": "--"}
        label = f"{method}, reference ({_seeds(len(seeds))})"
        if not len(xs):
            continue
        if xs[0] > edge:  # it says nothing about our steps: a level to look up to, and when it was reached
            axis.axhline(ys[0], label=f"{label}: {ys[0]:.0f} at {xs[0]:,.0f}", **style)
            continue
        if xs[-1] > edge:
            label += f": {ys[-1]:.0f} at {xs[-1]:,.0f}"
            inside = xs < edge
            xs, ys = np.append(xs[inside], edge), np.append(ys[inside], np.interp(edge, xs, ys))
        axis.plot(xs, ys, label=label, **style)
    _limit(axis, edge)


def _draw_pooled(axis: Axes, pooled: Mapping[str, Pooled], colors: Mapping[str, Any]) -> None:
    for method, of in sorted(pooled.items()):
        label = f"{method} ({of.tasks} tasks, {_seeds(of.seeds)})"
        axis.plot(of.xs, of.curve, color=colors[method], linewidth=2, marker="o", markersize=3, label=label)
        if of.band:
            axis.fill_between(of.xs, *of.band, color=colors[method], alpha=0.2, linewidth=0)
    _limit(axis, MARGIN * max(of.xs[-1] for of in pooled.values()))


def _limit(axis: Axes, edge: float) -> None:
    if edge > 0:
        axis.set_xlim(0, edge)
    if axis.dataLim.y0 >= 0 or not np.isfinite(axis.dataLim.y0):
        axis.set_ylim(0, None)


def _last_x(panel: Panel) -> float:
    return max((x for seeds in panel.ours.values() for row in seeds for x in row["xs"]), default=0)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


# The command


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

    def __str__(self) -> str:
        """The table, and where the figure lies."""
        head = ["task", "method", "seeds", "environment steps", "final mean [95 % interval]", "IQM [95 % interval]"]
        lines = [head, *(final.cells() for final in self.table)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        if any(final.task == ALL_TASKS for final in self.table):
            text += ["", f"{ALL_TASKS}: returns over {MOST}, the most that an episode of dm_control returns"]
        return "\n".join([*(line.rstrip() for line in text), "", f"figure {self.path}"])


def plot(paths: Sequence[Path], out: Path = Path("learning_curves.png"), references: Sequence[Path] = ()) -> Plot:
    """Draw runs beside published scores; where a method was run on all of several tasks, also over these together.

    Args:
        paths: run folders, folders that hold some, scores.json files.
        out: the figure; its suffix says the format.
        references: files of rows like those of a scores.json.

    Raises:
        LspFastError: nothing to draw, a file that cannot be used, a figure that cannot be written, or rliable is
            missing where there are several seeds; nothing is written then.
    """
    if not out.parent.is_dir():
        raise LspFastError(f"cannot write {out}: the folder {out.parent} does not exist; make it or name another file")
    runs, warnings = find_runs(paths)
    if not runs:
        raise LspFastError("nothing to draw; name a run's folder, a folder of runs, or a scores.json")
    published = []
    for path in map(Path, references):
        for row in _scores(path):
            # Two papers' methods of one name are not seeds of one method.
            published.append(row if len(references) == 1 else {**row, "method": f"{row['method']} of {path}"})
    panels = _panels([run.row for run in runs], published)
    if references and not any(panel.references for panel in panels.values()):
        warnings.append(f"the references have none of these tasks: {', '.join(panels)}")
    table: list[Final] = []
    for task, panel in panels.items():
        for method, rows in sorted(panel.ours.items()):
            group = [run for run in runs if run.row["task"] == task and run.row["method"] == method]
            table.append(_final(task, method, rows))
            warnings += [f"{task} {method}: {text}" for text in _mixed(group)]
        for method, rows in sorted(panel.references.items()):
            table.append(_final_reference(task, method, rows, _last_x(panel)))
    pooled, left_out = _pool({task: panel.ours for task, panel in panels.items()})
    warnings += left_out
    for method, of in pooled.items():
        at = of.ends[0] if len(set(of.ends)) == 1 else None
        table.append(Final(ALL_TASKS, method, of.seeds, at, None, None, of.final, of.final_interval))
    return Plot(_draw(panels, out, pooled), table, warnings)


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


def _final(task: str, method: str, rows: Sequence[Row]) -> Final:
    xs, values = shared(rows)
    if not xs:
        return Final(task, method, len(rows), None, None, None)
    low, high = interval(values[:, -1:])
    bounds = (float(low[0]), float(high[0])) if len(rows) > 1 else None
    iqm, iqm_bounds = interquartile_mean(values[:, None, -1:])
    mean = float(values[:, -1].mean())
    return Final(task, method, len(rows), xs[-1], mean, bounds, float(iqm[0]), _pair(iqm_bounds))


def _final_reference(task: str, method: str, rows: Sequence[Row], ours: float) -> Final:
    """At our last evaluation, or as near to it as the reference comes."""
    xs, ys = reference_curve(rows)
    name = f"{method} (reference)"
    if not len(xs):
        return Final(task, name, len(rows), None, None, None)
    at = float(np.clip(ours, xs[0], xs[-1]))
    return Final(task, name, len(rows), at, float(np.interp(at, xs, ys)), None)


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
    known = [(run.source, run.config) for run in group if run.config is not None]
    lines = []
    for name in sorted({name for _, config in known for name in config} - {"seed"}):
        where: dict[str, list[str]] = defaultdict(list)
        for source, config in known:
            where[json.dumps(config[name]) if name in config else "absent"].append(str(source))
        if len(where) > 1:
            lines.append(f"  {name}: " + "; ".join(f"{value} in {', '.join(at)}" for value, at in where.items()))
    if lines:
        warnings.append("\n".join(["the mean is over runs that differ in more than the seed:", *lines]))
    ends = sorted({run.row["xs"][-1] for run in group})
    if len(ends) > 1:
        xs, _ = shared(run.row for run in group)
        at = f"the mean ends at {xs[-1]}, their last common one" if xs else "they have none in common: there is no mean"
        warnings.append(f"the last evaluations lie at {', '.join(map(str, ends))} environment steps; {at}")
    return warnings
