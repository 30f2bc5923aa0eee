"""The page: what it holds, and its writing. What it looks like is page.html.j2's and page.css's matter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

import lsp_fast
from lsp_fast.errors import LspFastError
from lsp_fast.files import write_text
from lsp_fast.machine import size_text
from lsp_fast.reports.figures import ALL_TASKS, colors_of
from lsp_fast.reports.plot import HEAD, Compared, check_folder_of, compare
from lsp_fast.reports.report import svg
from lsp_fast.reports.report.health import QUESTIONS, Measure, State, band_of, judged
from lsp_fast.reports.report.pictures import media_of
from lsp_fast.reports.report.runs import Told, differences_of, grouped, told
from lsp_fast.reports.statistics import MOST

MEGABYTES = 8.0
"""Of pictures and videos within the page."""
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    size: int
    """Bytes."""
    runs: int
    warnings: list[str]

    def __str__(self) -> str:
        return f"page {self.path} ({size_text(self.size)}, {_counted(self.runs, 'run')})"


class Figure(NamedTuple):
    """A chart of the page."""

    name: str
    caption: str
    svg: Markup
    legend: list[svg.Legend]


class Health(NamedTuple):
    """One metric: what it means, and a chart for each task."""

    measure: Measure
    figures: list[Figure]


def report(
    paths: Sequence[Path],
    out: Path = Path("report.html"),
    references: Sequence[Path] = (),
    *,
    title: str = "",
    megabytes: float = MEGABYTES,
) -> Report:
    """Write a page of runs: curves, table, health, differences, what each was, videos and pictures.

    Args:
        paths: run folders, folders that hold some, scores.json files.
        out: the page, an .html.
        references: published scores, as `plot` takes them.
        title: of the page; says what it holds by default.
        megabytes: that pictures and videos may take within it; the others are linked.

    Raises:
        LspFastError: nothing to show, a file that cannot be used, a page that cannot be written, or rliable is
            missing where there are several seeds; nothing is written then.
    """
    check_folder_of(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise LspFastError(f"cannot write {out}: a page's name ends with .html")
    if not 0 <= megabytes < 1000:
        raise LspFastError(f"{megabytes:g} megabytes: must be at least 0 and below 1000")
    found = compare(paths, references)
    runs = told(found.runs)
    media = media_of(
        ((run.name, run.folder, run.label) for run in runs if run.folder is not None), out, round(megabytes * 1e6)
    )
    warnings = [*found.warnings, *media.warnings]
    if media.left_out:
        warnings.append(
            f"pictures and videos beyond {megabytes:g} MB are linked and not in the page (--megabytes): "
            + ", ".join(media.left_out)
        )
    content = _rendered(found, runs, title=title, warnings=warnings, media=media)
    try:
        write_text(out, content)
    except OSError as error:
        raise LspFastError(f"cannot write {out}: {error.strerror}; name another file") from error
    return Report(out, len(content.encode()), len(runs), warnings)


def _rendered(found: Compared, runs: Sequence[Told], **said: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"words": _words, "breaking": _breaking}
    colors = svg.css_colors(colors_of(found.panels))
    palette = sorted(set(colors.values()))
    groups = grouped(runs)
    states = {run.name: _states(run) for run in runs}
    measures = [measure for of in QUESTIONS.values() for measure in of]
    page = environment.get_template("page.html.j2").render(
        **{**said, "title": said["title"] or _title(found, runs)},
        style=Markup((HERE / "page.css").read_text()),
        palette=[(color[1:], color, svg.light(color)) for color in palette],
        version=lsp_fast.__version__,
        runs=runs,
        unfinished=[run for run in runs if run.folder is not None and not run.finished],
        curves=_curves(found, colors),
        head=HEAD,
        table=[final.cells() for final in found.table],
        pooled=any(final.task == ALL_TASKS for final in found.table),
        most=MOST,
        overview=[measure for measure in measures if any(measure.name in of for of in states.values())],
        states=states,
        colors=colors,
        questions=_health(runs, colors),
        differences=differences_of(runs),
        groups=groups,
        counted=_counted,
    )
    # Blank lines that the template's own lines leave.
    return re.sub(r"\n\s*\n+", "\n", page)


def _title(found: Compared, runs: Sequence[Told]) -> str:
    tasks = list(found.panels)
    shown = ", ".join(tasks) if len(tasks) <= 3 else _counted(len(tasks), "task")
    return f"{_counted(len(runs), 'run')} of {shown}"


def _curves(found: Compared, colors: dict[str, str]) -> list[Figure]:
    figures = []
    for number, (task, panel) in enumerate(found.panels.items()):
        name = f"curve-{number}"
        figures.append(_figure(name, task, svg.curves(panel, colors, name)))
    pooled = {method: of for method, of in found.pooled.items() if of.xs}
    if pooled:
        figures.append(_figure("curve-all", ALL_TASKS, svg.pooled_curves(pooled, colors, "curve-all")))
    return figures


def _figure(name: str, caption: str, chart: svg.Chart) -> Figure:
    return Figure(name, caption, Markup(chart.svg), chart.legend)


def _states(run: Told) -> dict[str, State]:
    """By the metric's name, where the run has it."""
    found = {m.name: judged(m, run.rows, run.config) for measures in QUESTIONS.values() for m in measures}
    return {name: state for name, state in found.items() if state is not None}


def _health(runs: Sequence[Told], colors: dict[str, str]) -> dict[str, list[Health]]:
    """By question, what some run has."""
    numbers = count()
    questions: dict[str, list[Health]] = {}
    for question, measures in QUESTIONS.items():
        for measure in measures:
            figures = []
            for task, methods in grouped(runs).items():
                of = [run for group in methods.values() for run in group]
                lines = {run.name: _line(run, measure, colors) for run in of}
                there = [run for run in of if lines[run.name].xs]
                if not there:
                    continue
                name = f"health-{next(numbers)}"
                band = band_of(measure, [run.config for run in there])
                chart = svg.health([lines[run.name] for run in there], band, name, log=measure.log)
                figures.append(_figure(name, task, chart))
            if figures:
                questions.setdefault(question, []).append(Health(measure, figures))
    return questions


def _line(run: Told, measure: Measure, colors: dict[str, str]) -> svg.Line:
    points = [(row["env_steps"], y) for row in run.rows if (y := measure.of(row, run.config)) is not None]
    return svg.Line([x for x, _ in points], [y for _, y in points], colors[run.row["method"]])


def _words(text: str) -> Markup:
    """A text with `code` and **weight** as HTML."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked))


def _breaking(name: str) -> Markup:
    """A name in dots and strokes as code that breaks after them where it has to."""
    return Markup("<code>") + Markup("<wbr>").join(re.split(r"(?<=[./_])", name)) + Markup("</code>")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
