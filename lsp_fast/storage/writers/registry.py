"""Writers by name: ours, and those that installed packages bring by the entry-point group `lsp_fast.log`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points

from lsp_fast.errors import ConfigError, first_line
from lsp_fast.storage.writers import mlflow, wandb
from lsp_fast.storage.writers.base import LogWriter, RunStart
from lsp_fast.storage.writers.mlflow import Mlflow
from lsp_fast.storage.writers.tensorboard import TensorBoard
from lsp_fast.storage.writers.wandb import Wandb

GROUP = "lsp_fast.log"
OpenWriter = Callable[[RunStart], LogWriter]
OURS: dict[str, OpenWriter] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}
LIBRARIES = {"wandb": wandb.library, "mlflow": mlflow.library}


def names() -> list[str]:
    """What `--log` takes here."""
    return list(dict.fromkeys([*OURS, *sorted(_installed())]))


def find(name: str) -> OpenWriter:
    """What opens the writer of that name.

    Raises:
        ConfigError: there is none of that name, or what an installed package says of it cannot be imported.
        LspFastError: its library is not installed; the error has the command.
    """
    if name in LIBRARIES:
        LIBRARIES[name]()
    if name in OURS:
        return OURS[name]
    if (point := _installed().get(name)) is None:
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        always = "; metrics.jsonl, scores.json and pictures are written anyway" if not near else ""
        raise ConfigError(f"log = {name!r}: there is no such writer; {hint}{always}")
    try:
        return point.load()
    except Exception as error:  # a module may raise anything
        raise ConfigError(
            f"log = {name!r}: its entry point {point.value} cannot be loaded ({type(error).__name__}: "
            f"{first_line(error)}); mend or remove the package that brings it"
        ) from error


def check(wanted: Iterable[str]) -> None:
    """Refuse a name that nothing can be opened by. Nothing is written.

    Raises: `find`'s.
    """
    for name in wanted:
        find(name)


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
