"""What each run was, how far it came, and in what their configurations differ."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lsp_fast.config import Config, flat, from_dict, to_dict
from lsp_fast.errors import ConfigError
from lsp_fast.reports.plot import compared
from lsp_fast.reports.report.command import go_on
from lsp_fast.reports.report.health import finite
from lsp_fast.reports.scores import Row, Run
from lsp_fast.storage import made_with
from lsp_fast.storage.metrics import read_rows


@dataclass(frozen=True)
class Told:
    """One run, or one row of a scores.json, of which there is less to say."""

    name: str
    """Of its part of the page."""
    label: str
    """For people; of runs that would be called alike with the folder."""
    source: Path
    row: Row
    values: dict[str, Any]
    """By dotted name; with this version's defaults where it can read them."""
    config: Config | None
    """None where this version cannot read it."""
    rows: list[dict[str, Any]]
    """Of metrics."""
    made_with: dict[str, str]
    """Versions and device of its newest start; nothing where they were not written."""

    @property
    def folder(self) -> Path | None:
        """None where there are only scores."""
        return self.source if self.source.is_dir() else None

    @property
    def reached(self) -> int | float:
        """Environment steps of the last row."""
        return max([*self.row["xs"], *(row["env_steps"] for row in self.rows[-1:])])

    @property
    def finished(self) -> bool:
        """Whether it has made its steps, and the evaluation after them."""
        total = self.values.get("env_steps")
        return type(total) is int and self.row["xs"][-1] >= total

    @property
    def last(self) -> float | None:
        """Return of the last evaluation; None where it was not finite."""
        return finite(self.row["ys"][-1])

    @property
    def best(self) -> float | None:
        """Largest return of an evaluation."""
        return max((y for y in self.row["ys"] if finite(y) is not None), default=None)

    @property
    def command(self) -> str | None:
        """That goes on with it; None where that cannot be told."""
        return go_on(self.config, self.source) if self.config is not None and self.folder is not None else None

    @property
    def facts(self) -> dict[str, str]:
        """What is known of it, by what it is called."""
        total = self.values.get("env_steps")
        steps = f"{self.reached:,}" + (f" of {total:,}" if type(total) is int else "")
        found = {
            "algorithm": str(self.values.get("algorithm", "")),
            "called": str(self.row["method"]) if self.row["method"] != self.values.get("algorithm") else "",
            "preset": str(self.values.get("preset", "")),
            "environment steps": steps,
            "updates": f"{self._newest('updates'):,.0f}" if self._newest("updates") is not None else "",
            "last return": _number(self.last),
            "best return": _number(self.best),
            "time, at least": _duration(self._seconds()),
            "updates per second": _number(self._newest("updates_per_second")),
            "device": str(self.made_with.get("device", self.values.get("device", ""))),
            "backend": str(self.values.get("backend", "")),
            "transferred from": str(self.values.get("transfer.source", "")),
            **{name: text for name, text in self.made_with.items() if name != "device"},
        }
        return {name: text for name, text in found.items() if text}

    def _newest(self, name: str) -> float | None:
        return next((row[name] for row in reversed(self.rows) if finite(row.get(name)) is not None), None)

    def _seconds(self) -> float | None:
        """Of all starts, each of which counts from 0; of one that stopped before the next one's first row, none."""
        found = [row["seconds"] for row in self.rows if finite(row.get("seconds")) is not None]
        return sum(before for before, after in pairwise([*found, -1]) if after < before) if found else None


def told(runs: Sequence[Run]) -> list[Told]:
    """What there is to say of each run; runs that differ in nothing that orders them stay as they come."""
    found = []
    labels = [f"{run.row['task']} {run.row['method']}, seed {run.row['seed']}" for run in runs]
    for number, run in enumerate(runs):
        values, config, rows, versions = dict(run.config or {}), None, [], {}
        if run.config is not None:
            rows, versions = read_rows(run.source / "metrics.jsonl"), made_with.read(run.source)
            try:
                config = from_dict(json.loads((run.source / "config.json").read_text()))
                values = flat(to_dict(config))
            except (ConfigError, OSError, ValueError):
                config = None  # of another version: what can be said without it is said
        label = labels[number] if labels.count(labels[number]) == 1 else f"{labels[number]} ({run.source})"
        found.append(Told(f"run-{number}", label, run.source, run.row, values, config, rows, versions))
    return found


class Column(NamedTuple):
    """Runs that share all values but those that tell seeds and tasks apart."""

    methods: str
    tasks: str
    runs: str


class Differences(NamedTuple):
    """Only what differs."""

    columns: list[Column]
    values: dict[str, list[tuple[str, bool]]]
    """Each value's text in each column, and whether it is another one than most runs'."""


def differences_of(runs: Sequence[Told]) -> Differences:
    """In what the runs differ, those that share everything side by side in one column."""
    groups: dict[str, list[Told]] = defaultdict(list)
    for run in runs:
        if run.values:
            groups[json.dumps(_told_apart(run), sort_keys=True)].append(run)
    values = [_told_apart(group[0]) for group in groups.values()]
    counts = [len(group) for group in groups.values()]
    table = {}
    for name in dict.fromkeys(name for of in values for name in of):
        texts = [_value(of[name]) if name in of else "–" for of in values]
        if len(set(texts)) > 1:
            most = Counter({text: 0 for text in texts})
            for text, count in zip(texts, counts, strict=True):
                most[text] += count
            usual = most.most_common(1)[0][0]
            table[name] = [(text, text != usual) for text in texts]
    return Differences([_column(group) for group in groups.values()], table)


def _told_apart(run: Told) -> dict[str, Any]:
    return {name: value for name, value in compared(run.values).items() if name != "task"}


def _column(group: Sequence[Told]) -> Column:
    methods = dict.fromkeys(str(run.row["method"]) for run in group)
    tasks = dict.fromkeys(str(run.row["task"]) for run in group)
    seeds = dict.fromkeys(str(run.row["seed"]) for run in group)
    return Column(", ".join(methods), ", ".join(tasks), f"seed{'s' * (len(seeds) != 1)} {', '.join(seeds)}")


def grouped(runs: Sequence[Told]) -> dict[str, dict[str, list[Told]]]:
    """By task and by method, as they are ordered."""
    tasks = groupby(runs, lambda run: str(run.row["task"]))
    return {
        task: {name: list(group) for name, group in groupby(of, lambda run: str(run.row["method"]))}
        for task, of in tasks
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) and value else json.dumps(value)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{max(minutes, 1)} min"
