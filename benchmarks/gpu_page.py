"""The tables about GPUs in README and docs/speed.md, from what `make gpu` measured and from counts; no figure is kept
here. `speed_page.py` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
NOT_YET = "not yet"


class Line(NamedTuple):
    """A line of the table: what it is, whose step measures it, and how it is told."""

    says: str
    step: str
    tell: Callable[[dict[str, Any]], str]
    first: bool = False
    """README has it, too."""
    estimated: bool = False
    """gpu_estimate.json has its milliseconds."""


def variant(work: str, *names: str) -> Callable[[dict[str, Any]], str]:
    """Tells rows of benchmarks/gpu.py, the first of which is what training runs."""

    def tell(found: dict[str, Any]) -> str:
        rows = {row["variant"]: row for row in found["rows"] if row["work"] == work and row["precision"] == "bf16"}
        told = []
        for name in names:
            if (row := rows.get(name)) is None:
                continue
            if row["ms"] is None:
                told.append(f"{name}: fails, {plain(row['failure'])}")
                continue
            ratio, share = row["ratio_to_eager"], row["share_of_peak"]
            than = f", {ratio:.1f} × eager" if ratio else ""
            told.append(f"{name}: {row['ms']:.3g} ms{than}" + (f", {share:.0%} of peak" if share else ""))
        return "; ".join(told) or NOT_YET

    return tell


def tiles(found: dict[str, Any]) -> str:
    """The best tile of each kind of layer."""
    told, works = [], dict.fromkeys((row["work"], row["precision"]) for row in found["rows"])
    for work, precision in works:
        ours = [
            row
            for row in found["rows"]
            if (row["work"], row["precision"], row["variant"]) == (work, precision, "ours") and row["ratio"]
        ]
        best = max((row["ratio"] for row in ours), default=None)
        told.append(f"{precision} {work}: " + (f"{best:.2f} ×" if best else "no tile is right"))
    return "; ".join(told)


def resumed(found: dict[str, Any]) -> str:
    if found["wrong"]:
        return "no: " + plain("; ".join(found["wrong"]))
    return "yes, from {} to {} environment steps".format(*found["env_steps"])


def learned(found: dict[str, Any]) -> str:
    if not found.get("scores"):
        return f"no evaluation yet, at {found.get('env_steps', 0)} environment steps"
    score = found["scores"][0]
    return f"{found['task']}: {score['ys'][-1]:.0f} at {score['xs'][-1]} environment steps"


def passed(found: dict[str, Any]) -> str:
    return f"{found['passed']} passed, {found['failed']} failed"


def steps_a_second(found: dict[str, Any]) -> str:
    rates = found["env_steps_per_second"]
    return f"{rates['overlap']:.0f}; {rates['one after the other']:.0f} without `train.overlap`"


LINES = (
    Line("tests that need a card", "tests", passed),
    Line("a plan from 2500 states, in bf16", "kernels", variant("plan", "graph", "graph of PyTorch"), True, True),
    Line("acting, a step that plans", "kernels", variant("act", "policy", "graph", "graph, one kernel"), True),
    Line("one layer at its best tile, beside cuBLAS", "tiles", tiles),
    Line("a run that is stopped goes on", "resume", resumed),
    Line("environment steps a second, end to end", "end_to_end", steps_a_second, True),
    Line("a whole update", "update", variant("update", "graph", "graph of PyTorch"), True),
    Line("return of a first run", "learn", learned),
)


def plain(text: str) -> str:
    """A reason as it may stand in a cell."""
    return " ".join(text.replace("|", "/").split())[:120]


def read(results: Path, name: str) -> dict[str, Any] | None:
    """A JSON of `results`; None where there is none."""
    path = results / name
    return json.loads(path.read_text()) if path.exists() else None


def measured(to_results: str, results: Path | None = None, lines: Sequence[Line] = LINES) -> str:
    """What `make gpu` found, a line each.

    Args:
        to_results: from the page to the folder of results, for links.
        results: that folder.
    """
    results = results or RESULTS
    estimate, cards, told = read(results, "gpu_estimate.json"), [], []
    for line in lines:
        name = f"gpu_{line.step}.json"
        record = read(results, name)
        if record is not None:
            cards.append((record["environment"]["device"], record["environment"]["torch"], record["date"][:10]))
            cell = f"{outcome(line, record)} ([JSON]({to_results}/{name}))"
        elif line.estimated and estimate is not None:
            cell = NOT_YET + "; *estimate* " + milliseconds(estimate)
        else:
            cell = NOT_YET
        told.append([line.says, cell])
    return table(["at the paper's sizes", "measured"], told) + "\n\n" + caption(cards)


def outcome(line: Line, record: dict[str, Any]) -> str:
    """What a step found, or how it ended."""
    ended = {"ok": "", "failed": "the step failed"}.get(record["status"], "the step ran over its limit")
    try:
        told = line.tell(record["found"])
    except (KeyError, TypeError, IndexError):  # it ended before it knew this
        return ended or "nothing"
    return f"{told} ({ended})" if ended else told


def milliseconds(estimate: dict[str, Any]) -> str:
    return ", ".join(f"{row['ms']:.0f} ms on {name}" for name, row in estimate["cards"].items())


def caption(cards: Sequence[tuple[str, str, str]]) -> str:
    """On what the figures were measured."""
    if not cards:
        return (
            "No card has been at hand. `make gpu` measures these, and `python benchmarks/speed_page.py` fills them in."
        )
    told = "; ".join(f"{card}, torch {torch}, {date}" for card, torch, date in dict.fromkeys(cards))
    return f"Measured by `make gpu` on {told}."


def estimates(results: Path | None = None) -> str:
    """What a plan asks of each card, by count."""
    found = read(results or RESULTS, "gpu_estimate.json")
    if found is None:
        return "No *estimate* is stored."
    head = ["card", "launches", "L2 → SM, GB", "HBM, GB an iteration", "multiplied / useful", "ms a plan"]
    lines = []
    for says, row, mark in (
        ("before these tiles", found["before"], "*estimate {}*"),
        ("the bar, for H100 and H200", found["bars"], "{}"),
    ):
        counts = (f"{row['l2_gb']:.0f}", f"{row['hbm_gb_an_iteration']:.1f}", f"{row['multiplied_by_useful']:.2f}")
        lines.append([says, "", *map(mark.format, counts), ""])
    for name, row in found["cards"].items():
        counts = [f"{row['l2_gb']:.0f}", f"{row['hbm_gb_an_iteration']:.1f}", f"{row['multiplied_by_useful']:.2f}"]
        told = [f"*estimate {count}*" for count in (*counts, f"{row['ms']:.0f}")]
        lines.append([name, str(row["launches"]), *told])
    return "\n".join(
        (
            f"What a plan from {found['starts']} states in bf16 asks of a card; {found['useful_flop'] / 1e12:.2f} "
            "TFLOP of its products are useful.",
            "Every figure is an *estimate*. Launches are recorded, and bytes and products are counted from them.",
            "Milliseconds follow from a card's rates. `python benchmarks/gpu.py --estimate` prints them.",
            "",
            table(head, lines),
            "",
            *update(found["update"]),
        )
    )


def update(found: dict[str, Any]) -> list[str]:
    """Kernels of an update outside its plan."""
    lines = [
        [name, *(f"*estimate {row[part]}*" for part in ("world model", "behavior", "together"))]
        for name, row in found["kernels"].items()
    ]
    return [
        f"Kernels that an update starts outside its plan, counted at the paper's sizes; the bar is {found['bar']}.",
        "",
        table(["who learns", "world model", "behaviour", "together"], lines),
    ]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))
