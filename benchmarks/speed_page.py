"""Writes the tables of docs/speed.md, and README's of a GPU, from results/*.json: `python benchmarks/speed_page.py`.

A table whose files are not there is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu_page

ROOT = Path(__file__).parents[1]
RESULTS = [
    ROOT / "benchmarks" / "results" / f"{what}_{threads}.json"
    for what in ("cpu", "planet", "update")
    for threads in ("1_thread", "2_threads")
]
BEGIN, END = "<!-- written by benchmarks/speed_page.py -->\n", "<!-- end -->\n"
GPU_BEGIN, GPU_END = "<!-- GPU: written by benchmarks/speed_page.py -->\n", "<!-- end of GPU -->\n"

Row = dict[str, Any]


def tables() -> str:
    """The part of the page between the marks."""
    runs = {path: shown(path) for path in RESULTS if path.exists()}
    rows = [{**row, "threads": run["threads"]} for run in runs.values() for row in run["rows"]]
    plans, updates, update_parts, others, environments = [], [], [], [], []
    for row in rows:
        kinds = {"plan": plans, "update": updates, "imagine_heads": []}
        first = row["work"].split(",")[0]
        if first.startswith("update of"):
            update_parts.append(row)
        else:
            kinds.get(first, environments if "environment" in row["work"] else others).append(row)
    fp32 = {"reference": "reference ms", "torch.compile": "torch.compile", "JAX": "JAX", "C++": "**C++**"}
    parts = [
        "Medians of samples taken in turns in one run, as ratios to the first column (above 1 is faster).",
        ratios(
            plans,
            "plan (states × candidates × steps × iterations)",
            {
                "eager": "eager PyTorch ms",
                "eager, MKL's fast path": "eager, MKL's fast path",
                "torch.compile": "torch.compile",
                "torch.compile, tuned": "tuned",
                "JAX": "JAX",
                "C++": "**C++**",
            },
            peak="C++",
        ),
        "The same beside PyTorch and JAX in bf16, still as ratios to eager PyTorch in fp32:",
        ratios(
            plans,
            "plan in bf16",
            {
                "eager": "eager fp32 ms",
                "eager bf16": "eager bf16",
                "torch.compile bf16": "torch.compile bf16",
                "JAX bf16": "JAX bf16",
                "C++ bf16": "**C++ bf16**",
                "C++ bf16, its own noise": "and its own noise",
            },
            peak="C++ bf16",
        ),
        ratios(
            updates,
            "whole training update",
            fp32,
            peak="C++",
        ),
        ratios(
            updates,
            "update with plans in bf16",
            {
                "reference": "reference fp32 ms",
                "torch.compile bf16": "torch.compile",
                "JAX bf16": "JAX",
                "C++ bf16": "**C++**",
                "C++ all bf16": "**and learning, too**",
            },
        ),
        ratios(update_parts, "part of an update", fp32, peak="C++"),
        ratios(
            others,
            "small operations",
            {"eager": "eager PyTorch ms", "torch.compile": "torch.compile", "C++": "**C++**"},
            also={"torch.randn": "eager", "C++ Philox": "C++"},
        ),
        ratios(
            [row for row in environments if row["threads"] == rows[0]["threads"]],  # these say their own
            "environments, per control step",
            {
                "dm_control": "dm_control ms",
                "EnvPool": "EnvPool",
                "mj_step alone": "MuJoCo alone",
                "direct": "**ours**",
            },
            threads=False,
        ),
        caption(runs),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(path: Path) -> Row:
    """What a file tells; of updates only `update_*.json` does."""
    run = json.loads(path.read_text())
    if not path.name.startswith("update"):
        run["rows"] = [row for row in run["rows"] if not row["work"].startswith("update")]
    return run


def ratios(
    rows: Sequence[Row],
    title: str,
    columns: dict[str, str],
    peak: str | None = None,
    also: dict[str, str] | None = None,
    threads: bool = True,
) -> str:
    """A table with a line for every piece of work and number of threads; the first column is in milliseconds. Empty
    where there are no rows."""
    if not rows:
        return ""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        variant, _, own = row["variant"].partition(", ") if not threads else (row["variant"], "", "")
        number = int(own.split()[0]) if own else row["threads"]
        variant = (also or {}).get(variant, variant)
        work = row["work"].removeprefix("plan, ").removeprefix("update, ").removeprefix("update of the ")
        found.setdefault((work, number), {})[variant] = row
    first = next(iter(columns))
    for (work, _), line in found.items():  # the baseline of several threads is the one of the same work
        if first not in line:
            line[first] = next(other[first] for (name, _), other in found.items() if name == work and first in other)
    if not threads:
        found = {key: line for key, line in found.items() if len(line) > 1}
    head = [title, "threads", *columns.values()] + (["of peak"] if peak else [])
    lines = [head, ["---"] * len(head)]
    # In the order of the first file, a work's threads one below the other.
    works = list(dict.fromkeys(work for work, _ in found))
    for work, number in sorted(found, key=lambda key: (works.index(key[0]), key[1])):
        line = found[work, number]
        cells = [work, str(number), *(cell(line.get(name), name == first) for name in columns)]
        if peak:
            share = line[peak]["peak"] if peak in line else None
            cells.append("–" if share is None else f"{share:.0%}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def cell(row: Row | None, milliseconds: bool) -> str:
    """A median in milliseconds, a ratio, or a dash."""
    if row is None or row["ms"] is None:
        return "–"
    if milliseconds:
        return f"{row['ms']:.3g}" if row["ms"] < 100 else f"{row['ms']:.0f}"
    return f"{row['ratio']:.1f} ×"


def caption(runs: Mapping[Path, Row]) -> str:
    """How, where, when and with what."""
    commands: dict[str, list[str]] = {}  # of each machine and day
    for path, run in runs.items():
        versions = ", ".join(f"{name} {run[name]}" for name in ("torch", "jax", "envpool") if run.get(name))
        about = f"on {run['processor']}, {run['date']}, {versions}"
        commands.setdefault(about, []).append(f"`{run['command']}` ([JSON](../benchmarks/results/{path.name}))")
    spread = [row["spread"] for run in runs.values() for row in run["rows"] if row["spread"] is not None]
    few = sorted(spread)[len(spread) // 2]
    printed = "; ".join(f"{', '.join(several)}, {about}" for about, several in commands.items())
    return (
        f"Printed, after `make bench` has installed the peers, by {printed}. The machine is shared: half of the "
        f"spreads (slowest − fastest sample) / median are below {few:.0%}, the largest is {max(spread):.0%}."
    )


def pages() -> dict[Path, list[tuple[str, str, str]]]:
    """For every page its parts: the marks around them, and what is to stand between."""
    speed = gpu_page.measured("../benchmarks/results") + "\n\n" + gpu_page.estimates() + "\n"
    few = gpu_page.measured("benchmarks/results", lines=[line for line in gpu_page.LINES if line.first])
    return {
        ROOT / "docs" / "speed.md": [(BEGIN, END, tables()), (GPU_BEGIN, GPU_END, speed)],
        ROOT / "README.md": [(GPU_BEGIN, GPU_END, few + "\n")],
    }


def filled(text: str, parts: Iterable[tuple[str, str, str]]) -> str:
    """A page with its parts written anew."""
    for begin, end, part in parts:
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}{part}{end}{after}"
    return text


def main() -> None:
    for page, parts in pages().items():
        page.write_text(filled(page.read_text(), parts))


if __name__ == "__main__":
    main()
