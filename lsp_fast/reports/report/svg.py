"""Charts as SVG inside a page: of its size, in its letters, and in its colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lsp_fast.reports.figures import Panel, canvas, draw_panel, draw_pooled, drawing
from lsp_fast.reports.report.health import Band
from lsp_fast.reports.statistics import MOST, Pooled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (4.4, 2.7)
"""Inches. On a telephone's width letters are then as large as the page's small ones."""
POINTS = 200
"""Of a line; longer ones are means of so many parts."""
INK, GRID, GOOD, BAD = "#010203", "#040506", "#070809", "#0a0b0c"
"""Stand for the page's own colours."""
INKS = {INK: "--ink", GRID: "--line", GOOD: "--good", BAD: "--bad"}


class Legend(NamedTuple):
    """One line of a chart's legend."""

    label: str
    color: str
    """As in CSS."""
    dashed: bool


class Chart(NamedTuple):
    """A chart and what its lines are."""

    svg: str
    legend: list[Legend]


class Line(NamedTuple):
    """One run's numbers over time."""

    xs: Sequence[float]
    ys: Sequence[float]
    color: Any


def css_colors(colors: Mapping[str, Any]) -> dict[str, str]:
    """Every method's colour as six digits, by which the page's style knows it."""
    drawing()
    from matplotlib.colors import to_hex

    return {method: to_hex(color) for method, color in colors.items()}


def light(color: str, share: float = 0.4) -> str:
    """A colour of six digits mixed with white, for a dark page."""
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def curves(panel: Panel, colors: Mapping[str, Any], name: str) -> Chart:
    """One task's evaluations; `name` sets the chart's parts apart from other charts'."""
    with _style():
        figure, [[axis]] = canvas(1, size=SIZE)
        draw_panel(axis, panel, colors)
        return _chart(figure, axis, name, "evaluation return")


def pooled_curves(pooled: Mapping[str, Pooled], colors: Mapping[str, Any], name: str) -> Chart:
    """The evaluations over all tasks."""
    with _style():
        figure, [[axis]] = canvas(1, size=SIZE)
        draw_pooled(axis, pooled, colors)
        return _chart(figure, axis, name, f"IQM of return / {MOST}")


def health(lines: Sequence[Line], band: Band | None, name: str, *, log: bool = False) -> Chart:
    """One metric of several runs, over where it is good and where it is bad."""
    with _style():
        figure, [[axis]] = canvas(1, size=(SIZE[0], 2.2))
        if log and any(y > 0 for line in lines for y in line.ys):
            axis.set_yscale("log", nonpositive="mask")
        for line in lines:
            axis.plot(*_shortened(line.xs, line.ys), color=line.color, linewidth=1.3, alpha=0.9)
        if band is not None:
            _draw_band(axis, band)
        edge = max((x for line in lines for x in line.xs), default=0)
        if edge > 0:
            axis.set_xlim(0, edge * 1.02)
        return _chart(figure, axis, name, "")


def _shortened(xs: Sequence[float], ys: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS of them, each the mean of its part."""
    parts = np.array_split(np.array([xs, ys], float), min(len(xs), POINTS), axis=1)
    means = np.array([part.mean(1) for part in parts])
    return means[:, 0], means[:, 1]


def _draw_band(axis: Axes, band: Band) -> None:
    """Within what the lines take, and a little beyond, so that a far bound does not press them flat."""
    to, back = axis.transScale.transform, axis.transScale.inverted().transform
    (_, low), (_, high) = to([(1, y) for y in axis.get_ylim()])
    (_, good), (_, bad) = to([(1, band.good), (1, band.bad)])
    reach = high - low
    for bound in (good, bad):
        if low - reach < bound < high + reach:
            low, high = min(low, bound - reach / 10), max(high, bound + reach / 10)
    spans = ((good, high, GOOD), (low, bad, BAD)) if band.higher else ((low, good, GOOD), (bad, high, BAD))
    for begin, end, color in spans:
        begin, end = max(begin, low), min(end, high)
        if begin < end:
            axis.axhspan(*(y for _, y in back([(1, begin), (1, end)])), color=color, alpha=0.1, linewidth=0)
    axis.set_ylim(*(y for _, y in back([(1, low), (1, high)])))


@contextmanager
def _style() -> Iterator[None]:
    inked = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with drawing().rc_context(
        {
            **inked,
            "grid.color": GRID,
            "svg.fonttype": "none",
            "svg.hashsalt": "lsp_fast",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.facecolor": "none",
            "figure.facecolor": "none",
        }
    ):
        yield


def _chart(figure: Figure, axis: Axes, name: str, label: str) -> Chart:
    from matplotlib.colors import to_hex
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    axis.set(ylabel=label, xlabel="environment steps")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.locator_params(axis="x", nbins=6)
    if axis.get_yscale() == "log":
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=8))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    else:
        axis.locator_params(axis="y", nbins=6)
    axis.grid(alpha=0.5)
    handles: tuple[list[Any], list[str]] = axis.get_legend_handles_labels()
    legend = [
        # Its text was made ready for matplotlib's own.
        Legend(text.replace(r"\$", "$").strip(), to_hex(handle.get_color()), handle.get_linestyle() == "--")
        for handle, text in zip(*handles, strict=True)
    ]
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return Chart(_inline(content.getvalue(), name), legend)


def _inline(svg: str, name: str) -> str:
    """An SVG file as a part of a page: nothing that belongs to a file, identifiers of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    for left_out in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r"<defs>\s*</defs>"):
        svg = re.sub(left_out, "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    svg = f'<svg {view[0]} role="img" aria-labelledby="{name}">' + svg[svg.index(">") + 1 :]
    svg = svg.replace("xlink:", "")
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for ink, variable in INKS.items():
        svg = svg.replace(ink, f"var({variable})")
    svg = re.sub(r": (#[0-9a-f]{6})\b", lambda found: f": var(--c{found[1][1:]}, {found[1]})", svg)
    return re.sub(r"\n\s*", "\n", svg).strip()
