"""Figures: the paper to draw on and where it goes, and learning curves, a panel a task, a colour a method."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lsp_fast.errors import LspFastError
from lsp_fast.files import write_bytes
from lsp_fast.reports.scores import Row
from lsp_fast.reports.statistics import MOST, Pooled, interval, reference_curve, shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
"""Panels beside each other."""
FORMATS = (".jpg", ".jpeg", ".pdf", ".png", ".svg")
"""What matplotlib writes everywhere, without LaTeX or codecs of the machine."""
MARGIN = 1.05
"""Right edge of a panel over the last evaluation."""
ALL_TASKS = "all tasks"


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
    return draw(panels_of(rows, references), Path(path))


def panels_of(rows: Iterable[Row], references: Iterable[Row]) -> dict[str, Panel]:
    """By task, sorted; references only of tasks that `rows` has."""
    panels: dict[str, Panel] = defaultdict(lambda: Panel(defaultdict(list), defaultdict(list)))
    for row in rows:
        panels[row["task"]].ours[row["method"]].append(row)
    for row in references:
        task = row["task"].removeprefix("dmc_")
        if task in panels and any(y is not None for y in row["ys"]):
            panels[task].references[row["method"]].append(row)
    return dict(sorted(panels.items()))


def check_format(path: Path) -> None:
    """Raise LspFastError where the file's suffix is of no known format."""
    if path.suffix.lower() not in FORMATS:
        raise LspFastError(f"cannot draw {path}: its suffix must be one of {', '.join(FORMATS)}")


def draw(panels: Mapping[str, Panel], path: Path, pooled: Mapping[str, Pooled] | None = None) -> Path:
    """The last panel is that of all tasks, if there are such curves."""
    drawing()
    from matplotlib.ticker import EngFormatter

    check_format(path)
    pooled = {method: of for method, of in (pooled or {}).items() if of.xs}
    count = max(len(panels) + bool(pooled), 1)
    columns, lines = min(count, COLUMNS), math.ceil(count / COLUMNS)
    figure, grid = canvas(columns, lines, size=(5.5, 3.6))
    axes = list(grid.flat)
    colors = colors_of(panels)
    for axis, (task, panel) in zip(axes, panels.items(), strict=False):
        draw_panel(axis, panel, colors)
        axis.set(title=_text(task), ylabel="evaluation return")
    if pooled:
        draw_pooled(axes[len(panels)], pooled, colors)
        axes[len(panels)].set(title=ALL_TASKS, ylabel=f"IQM of return / {MOST}")
    for axis in axes[: len(panels) + bool(pooled)]:
        axis.set(xlabel="environment steps")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize="small")
    for axis in axes[count:]:
        axis.set_visible(False)
    return save(figure, path, dpi=120)


def colors_of(panels: Mapping[str, Panel]) -> dict[str, Any]:
    """A colour for each method, the same in every panel."""
    methods = sorted({method for panel in panels.values() for rows in panel for method in rows})
    palette = drawing().colormaps["tab10" if len(methods) <= 10 else "tab20"]
    return {method: palette(i % palette.N) for i, method in enumerate(methods)}


def drawing() -> Any:
    """matplotlib with what draws, whatever this machine has set for it: nothing here opens a window or needs a cache.

    MPLBACKEND is a notebook's, and may name what is not installed where a command or a sweep's run draws.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # fonts are looked for again where they cannot be kept; that is no one's concern
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
    finally:
        log.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):  # what the user's own windows are drawn with, if it is there
            matplotlib.rcParams["backend"] = backend
    return matplotlib


def canvas(columns: int, lines: int = 1, *, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """A figure that needs no screen, and its axes [lines, columns]; `size` is a panel's width and height in inches."""
    drawing()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * lines), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False)


def save(figure: Figure, path: Path, *, dpi: int) -> Path:
    """Write a figure in its suffix's format, whole or not at all. The same figure gives the same file.

    Raises:
        LspFastError: the file cannot be written.
    """
    matplotlib = drawing()
    suffix, content = path.suffix.lower(), io.BytesIO()
    # Neither dates nor random identifiers.
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
    with matplotlib.rc_context({"svg.hashsalt": "lsp_fast"}):
        figure.savefig(content, format=suffix[1:], dpi=dpi, metadata=undated)
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise LspFastError(f"cannot write {path}: {error.strerror}; name another file") from error
    return path


def draw_panel(axis: Axes, panel: Panel, colors: Mapping[str, Any]) -> None:
    """One task's curves and references; the legend is the caller's."""
    for method, seeds in sorted(panel.ours.items()):
        color = colors[method]
        if len(seeds) > 1:
            for row in seeds:
                axis.plot(row["xs"], np.array(row["ys"], float), color=color, alpha=0.35, linewidth=1)
        xs, values = shared(seeds)
        label = _text(f"{method} ({_seeds(len(seeds))})")
        axis.plot(xs, values.mean(0), color=color, linewidth=2, marker="o", markersize=3, label=label)
        if len(seeds) > 1:
            axis.fill_between(xs, *interval(values), color=color, alpha=0.2, linewidth=0)
    edge = MARGIN * last_x(panel)
    for method, seeds in sorted(panel.references.items()):
        xs, ys = reference_curve(seeds)
        style = {"color": colors[method], "linewidth": 1.5, "linestyle": "--"}
        label = _text(f"{method}, reference ({_seeds(len(seeds))})")
        if not len(xs):
            continue
        if xs[0] > edge:  # it says nothing about our steps: a level to look up to, and when it was reached
            axis.axhline(ys[0], label=f"{label}: {ys[0]:.0f} at {xs[0]:,.0f}", **style)
            continue
        published = int((xs <= edge).sum())  # marked; what lies between was not measured
        if xs[-1] > edge:
            label += f": {ys[-1]:.0f} at {xs[-1]:,.0f}"
            inside = xs < edge
            xs, ys = np.append(xs[inside], edge), np.append(ys[inside], np.interp(edge, xs, ys))
        axis.plot(xs, ys, label=label, marker="o", markersize=3, markevery=list(range(published)), **style)
    _limit(axis, edge)


def draw_pooled(axis: Axes, pooled: Mapping[str, Pooled], colors: Mapping[str, Any]) -> None:
    """The curves over all tasks; there is at least one."""
    for method, of in sorted(pooled.items()):
        label = _text(f"{method} ({of.tasks} tasks, {_seeds(of.seeds)})")
        axis.plot(of.xs, of.curve, color=colors[method], linewidth=2, marker="o", markersize=3, label=label)
        if of.band:
            axis.fill_between(of.xs, *of.band, color=colors[method], alpha=0.2, linewidth=0)
    _limit(axis, MARGIN * max(of.xs[-1] for of in pooled.values()))


def _limit(axis: Axes, edge: float) -> None:
    if edge > 0:
        axis.set_xlim(0, edge)
    if axis.dataLim.y0 >= 0 or not np.isfinite(axis.dataLim.y0):
        axis.set_ylim(0, None)


def last_x(panel: Panel) -> float:
    """The last evaluation of our runs."""
    return max((x for seeds in panel.ours.values() for row in seeds for x in row["xs"]), default=0)


def _text(name: str) -> str:
    """A task or a method as matplotlib shows it: not as mathematics between dollars, and in a legend even where it
    begins with an underscore, which would hide it."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
