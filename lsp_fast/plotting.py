"""Pictures and tables from metrics alone: rows of task, method, seed, xs (environment steps) and ys (returns).

A run still under way, or one that was killed, is drawn as far as it came. Neither torch nor a checkpoint is needed.
"""

from __future__ import annotations

import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lsp_fast.config import method_name
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
    return Run(folder, row, _flat(config))


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


def _flat(node: Any, name: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    if not isinstance(node, dict):
        return {name: node}
    return {k: v for key, child in node.items() for k, v in _flat(child, f"{name}.{key}" if name else key).items()}


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


def reference_curve(seeds: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over rows where all of them reach, interpolated: published seeds rarely share their xs."""
    curves = [np.array(sorted((x, y) for x, y in zip(row["xs"], row["ys"], strict=True) if y is not None)).T
              for row in seeds]  # fmt: skip
    low, high = max(curve[0][0] for curve in curves), min(curve[0][-1] for curve in curves)
    xs = np.unique(np.concatenate([curve[0] for curve in curves]))
    xs = xs[(xs >= low) & (xs <= high)]
    return xs, np.mean([np.interp(xs, *curve) for curve in curves], axis=0)


# Numbers -> picture


class Panel(NamedTuple):
    """What one task's panel shows: rows by method."""

    ours: dict[str, list[Row]]
    references: dict[str, list[Row]]


def learning_curves(rows: Iterable[Row], path: Path, references: Iterable[Row] = ()) -> Path:
    """Draw one panel per task and one colour per method: each seed thin, their mean bold where they share xs.

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


def _draw(panels: Mapping[str, Panel], path: Path) -> Path:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise LspFastError(f"cannot draw {path}: its suffix must be one of {', '.join(FORMATS)}")
    columns, lines = min(max(len(panels), 1), COLUMNS), max(math.ceil(len(panels) / COLUMNS), 1)
    figure = Figure(figsize=(5.5 * columns, 3.6 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    methods = sorted({method for panel in panels.values() for rows in panel for method in rows})
    palette = matplotlib.colormaps["tab10" if len(methods) <= 10 else "tab20"]
    colors = {method: palette(i % palette.N) for i, method in enumerate(methods)}
    for axis, (task, panel) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, panel, colors)
        axis.set(title=task, xlabel="environment steps", ylabel="evaluation return")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize="small")
    for axis in axes[max(len(panels), 1) :]:
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
        label = f"{method} ({_count(seeds)})"
        axis.plot(xs, values.mean(0), color=color, linewidth=2, marker="o", markersize=3, label=label)
        if len(seeds) > 1:
            axis.fill_between(xs, *interval(values), color=color, alpha=0.2, linewidth=0)
    edge = MARGIN * _last_x(panel)
    for method, seeds in sorted(panel.references.items()):
        xs, ys = reference_curve(seeds)
        style = {"color": colors[method], "linewidth": 1.5, "linestyle": "--"}
        label = f"{method}, reference ({_count(seeds)})"
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
    if edge > 0:
        axis.set_xlim(0, edge)
    if axis.dataLim.y0 >= 0 or not np.isfinite(axis.dataLim.y0):
        axis.set_ylim(0, None)


def _last_x(panel: Panel) -> float:
    return max((x for seeds in panel.ours.values() for row in seeds for x in row["xs"]), default=0)


def _count(seeds: Sequence[Row]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"


# The command


class Final(NamedTuple):
    """A line of the table: the last mean of one task and method."""

    task: str
    method: str
    seeds: int
    env_steps: float | None
    """Where the mean stands; None where the seeds share no evaluation."""
    mean: float | None
    interval: tuple[float, float] | None
    """95 %, of the mean over seeds; None for one seed and for references."""

    def cells(self) -> list[str]:
        """The line as text."""
        mean = "-" if self.mean is None else f"{self.mean:.1f}"
        if self.interval:
            mean += " [{:.1f}, {:.1f}]".format(*self.interval)
        steps = "-" if self.env_steps is None else f"{self.env_steps:.0f}"
        return [self.task, self.method, str(self.seeds), steps, mean]


@dataclass(frozen=True)
class Plot:
    """What was drawn."""

    path: Path
    table: list[Final]
    warnings: list[str]

    def __str__(self) -> str:
        """The table, and where the figure lies."""
        head = ["task", "method", "seeds", "environment steps", "final mean [95 % interval]"]
        lines = [head, *(final.cells() for final in self.table)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*(line.rstrip() for line in text), "", f"figure {self.path}"])


def plot(paths: Sequence[Path], out: Path = Path("learning_curves.png"), references: Sequence[Path] = ()) -> Plot:
    """Draw runs beside published scores.

    Args:
        paths: run folders, folders that hold some, scores.json files.
        out: the figure; its suffix says the format.
        references: files of rows like those of a scores.json.

    Raises:
        LspFastError: nothing to draw, a file that cannot be used, or a figure that cannot be written; nothing is then.
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
    return Plot(_draw(panels, out), table, warnings)


def _final(task: str, method: str, rows: Sequence[Row]) -> Final:
    xs, values = shared(rows)
    if not xs:
        return Final(task, method, len(rows), None, None, None)
    low, high = interval(values[:, -1:])
    bounds = (float(low[0]), float(high[0])) if len(rows) > 1 else None
    return Final(task, method, len(rows), xs[-1], float(values[:, -1].mean()), bounds)


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
