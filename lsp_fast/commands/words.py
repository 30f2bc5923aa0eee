"""What several commands share: texts as folders' names, NAME=VALUE, warnings."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from lsp_fast.errors import LspFastError


def folder_name(text: str) -> str:
    """A text as the name of a folder: `gym:Pendulum-v1` has a colon, which not every file system knows."""
    return re.sub(r"[^\w.-]", "-", text)


def agent_of(logdir: Path | None, pretrained: str | None) -> Path:
    """Where the agent lies that a command is asked for: a run's folder, or `pretrained:NAME`.

    Raises:
        LspFastError: not exactly one of the two is named, or there is no such pretrained agent.
    """
    if (logdir is None) == (pretrained is None):
        raise LspFastError("name one agent: --logdir FOLDER of a run, or --pretrained NAME")
    if pretrained is None:
        assert logdir is not None
        return logdir
    from lsp_fast.storage import pretrained as all_of_them

    all_of_them.describe(pretrained)
    return Path(f"{all_of_them.PREFIX}{pretrained}")


def folder_for(source: Path, what: str) -> Path:
    """Where what is made of an agent goes by default: into its run's folder, or runs/NAME-WHAT of a pretrained one."""
    from lsp_fast.storage.pretrained import name_of

    name = name_of(source)
    return source / what if name is None else Path("runs") / f"{name}-{what}"


def assignments(option: str, given: Iterable[Iterable[str]]) -> dict[str, Any]:
    """NAME=VALUE as a dictionary, of all times that the option is there; a value that is not JSON (true, 8, 0.1) is
    text.

    Raises:
        LspFastError: a text without a name or a value, or a name that is there twice.
    """
    values: dict[str, Any] = {}
    for text in chain.from_iterable(given):
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise LspFastError(f"{option} {text}: must be NAME=VALUE")
        if name in values:
            raise LspFastError(f"{option} {text}: {name} is there twice; name it once")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def planner_values(given: Iterable[Iterable[str]]) -> dict[str, Any]:
    """`--set planner.NAME=VALUE` as a trained agent's values of the planner, by NAME.

    Raises:
        LspFastError: as `assignments`, or a value that is not the planner's.
    """
    values: dict[str, Any] = {}
    for name, value in assignments("--set", given).items():
        table, _, of_planner = name.partition(".")
        if table != "planner" or not of_planner:
            raise LspFastError(f"--set {name}: of a trained agent only planner.… can be changed, as planner.replan")
        values[of_planner] = value
    return values


def warn(warnings: Iterable[str]) -> None:
    """Say on standard error what a user should know of a result."""
    for warning in warnings:
        print(f"lsp-fast: warning: {warning}", file=sys.stderr)
