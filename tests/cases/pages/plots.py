"""What is drawn: files that are none, runs that are young or damaged, figures that have no place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cases import made
from cases.table import Row

POINTS = [(10, 1.0), (20, 2.0)]
PLOT = "plot good"


def scores(**changed: Any) -> str:
    return json.dumps([{"task": "cheetah_run", "method": "m", "seed": 0, "xs": [10, 20], "ys": [1.0, 2.0], **changed}])


def beside(name: str, content: str | None = None) -> Any:
    """A good run, and a file or an empty folder beside it."""

    def before(_: Any) -> None:
        made.run("good", POINTS)
        if content is None:
            Path(name).mkdir()
        else:
            made.put(name, content)

    return before


def with_run(name: str, *points: tuple[int, Any], **values: Any) -> Any:
    """A good run, and another one."""

    def before(_: Any) -> None:
        made.run("good", POINTS)
        made.run(name, points, **values)

    return before


NO_SCORES = "is not a list of scores"
FILES = {
    "broken JSON": (scores()[:20], "is not JSON"),
    "an empty file": ("", "is not JSON"),
    "a text": ("notes", "is not JSON"),
    "brackets without end": ("[" * 100_000, "is not JSON"),
    "another object": ('{"task": 1}', NO_SCORES),
    "steps that are no number": (scores(xs=["10", 20]), NO_SCORES),
    "steps without end": (scores(xs=[10, float("inf")]), NO_SCORES),
    "steps beyond a float": (scores(xs=[10, 10**400]), NO_SCORES),
    "returns beyond a float": (scores(ys=[1.0, 1.7e308]), NO_SCORES),
    "returns of truth": (scores(ys=[1.0, True]), NO_SCORES),
    "more steps than returns": (scores(ys=[1.0]), NO_SCORES),
    "no evaluations": (scores(xs=[], ys=[]), "holds no evaluations"),
}
DRAWN = {
    "returns that were not finite": scores(ys=[None, 2.0]),
    "returns of another program that were not finite": scores(ys=[float("nan"), 2.0]),
    "steps out of order": scores(xs=[20, 10]),
    "steps below zero": scores(xs=[-20, -10]),
    "a name between dollars": scores(task="$x^$", method=r"$\bad{$"),
    "a name that begins with an underscore": scores(method="_mine"),
    "a seed that is a text": scores(seed="first"),
}
PLACES = {
    "a figure in a folder that is not there": ("there/x.png", "there does not exist; make it or name another"),
    "a figure below a file": ("file/x.png", "file is not a folder; name another file"),
    "a figure that is a folder": ("folder.png", "cannot write folder.png: Is a directory"),
    "a figure of an unknown format": ("x.doc", "its suffix must be one of .jpg"),
    "a figure without a format": ("x", "its suffix must be one of .jpg"),
}


def places(_: Any) -> None:
    made.run("good", POINTS)
    made.put("file", "x")
    Path("folder.png").mkdir()


def _drawn(trouble: str, beside: str, **more: Any) -> Row:
    """A figure of the good run comes about all the same."""
    return Row(trouble, f"{PLOT} {beside} --out x.png", 0, leaves=["x.png"], **more)


ROWS = [
    *(
        Row(
            f"scores: {name}",
            "plot s.json --out x.png",
            2,
            tells=["lsp-fast: s.json ", words],
            leaves=(),
            before=beside("s.json", content),
        )
        for name, (content, words) in FILES.items()
    ),
    *(
        _drawn(
            f"scores among others: {name}",
            "s.json",
            tells=["warning: left out: s.json ", words],
            before=beside("s.json", content),
        )
        for name, (content, words) in FILES.items()
    ),
    *(
        Row(
            f"references: {name}",
            f"{PLOT} --reference s.json --out x.png",
            2,
            tells=["lsp-fast: s.json ", words],
            before=beside("s.json", content),
            leaves=(),
        )
        for name, (content, words) in FILES.items()
        if name != "no evaluations"
    ),
    *(
        Row(
            f"scores: {name}",
            "plot s.json --out x.png",
            0,
            tells=["figure x.png"],
            before=beside("s.json", content),
            spares=["Traceback", "Warning"],
            leaves=["x.png"],
        )
        for name, content in DRAWN.items()
    ),
    *(
        Row(name, f"plot good --out {out}", 2, tells=["lsp-fast: ", words], before=places, leaves=())
        for name, (out, words) in PLACES.items()
    ),
    Row("nothing to draw", "plot --out x.png", 2, tells=["nothing to draw; name a run's folder"], leaves=()),
    Row(
        "a path that is not there",
        f"{PLOT} nowhere --out x.png",
        2,
        tells=["nowhere does not exist"],
        leaves=(),
        before=beside("folder"),
    ),
    Row(
        "an empty folder",
        "plot folder --out x.png",
        2,
        tells=["folder holds no run"],
        leaves=(),
        before=beside("folder"),
    ),
    _drawn("an empty folder among others", "folder", tells=["warning: left out: folder"], before=beside("folder")),
    _drawn(
        "a run that is young, among others",
        "young",
        tells=["warning: left out: young has no evaluations yet; let the run go on"],
        before=with_run("young"),
    ),
    Row(
        "an evaluation that is a text",
        "plot odd --out x.png",
        2,
        leaves=(),
        tells=["odd/metrics.jsonl: the eval/return 'a' at 10 environment steps is no number", "leave the run out"],
        before=with_run("odd", (10, "a")),
    ),
    _drawn(
        "an evaluation that is a text, among others",
        "odd",
        tells=["warning: left out: odd/metrics.jsonl"],
        before=with_run("odd", (10, "a")),
    ),
    _drawn(
        "one run twice",
        "good ./good",
        spares=["warning", "Traceback"],
        before=beside("folder"),
        tells=["cheetah_run lsp 1 20"],
    ),
    _drawn("a copy of a run", "copy", tells=["warning", "seed 0 is there 2 times"], before=with_run("copy", *POINTS)),
    _drawn(
        "runs of different tasks",
        "hop",
        tells=["cheetah_run", "hopper_hop", "all tasks"],
        before=with_run("hop", *POINTS, task="hopper_hop"),
    ),
    _drawn(
        "runs of different values",
        "other",
        tells=["differ in more than the seed: skill.beta: 0.1 in good"],
        before=with_run("other", *POINTS, seed=1, skill__beta=0.3),
    ),
    _drawn(
        "references of other tasks",
        "--reference s.json",
        tells=["warning: the references have none of these tasks"],
        before=beside("s.json", scores(task="hopper_hop")),
    ),
    _drawn(
        "references in two options",
        "--reference s.json --reference s.json",
        tells=["m of s.json (reference)"],
        before=beside("s.json", scores()),
    ),
    Row(
        "a reference that is not there",
        f"{PLOT} --reference s.json --out x.png",
        2,
        tells=["s.json cannot be read"],
        leaves=(),
        before=beside("folder"),
    ),
    Row(
        "a reference that is a folder",
        f"{PLOT} --reference folder --out x.png",
        2,
        leaves=(),
        tells=["folder cannot be read: Is a directory"],
        before=beside("folder"),
    ),
]
# Other pages have such troubles, too.
ROWS = [row._replace(trouble=f"plot: {row.trouble}") for row in ROWS]
