"""Triton's launches, recorded instead of run: what a plan asks of a GPU can be counted on a machine without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from unittest import mock

from torch import Tensor

from lsp_fast.kernels import (
    adam,
    densities,
    imagine_heads,
    imagine_passes,
    lambda_return,
    layers,
    mlp,
    normal,
    observe,
    philox,
    rollout,
    select_elites,
)

LAUNCHED = [
    (layers, "linear"),
    (layers, "gru"),
    (layers, "sample"),
    (rollout, "_rollout"),
    (select_elites, "_select"),
    (lambda_return, "_forward"),
    (lambda_return, "_backward"),
    (philox, "_normals"),
    (imagine_passes, "forward"),
    (imagine_passes, "backward"),
    (adam, "_norm"),
    (adam, "_step"),
    (mlp, "_bias_elu"),
    (mlp, "_before_elu"),
    *((densities, f"_{name}{way}") for name in ("log_prob", "kl", "entropy") for way in ("", "_backward")),
    (observe, "_forward"),
    (observe, "_backward"),
    (normal, "_forward"),
    (normal, "_backward"),
]
"""Every kernel that is launched, by where its name is looked up."""
OPTIONS = {"num_warps", "num_stages", "launch_cooperative_grid", "enable_fp_fusion", "maxnreg"}


class Launch(NamedTuple):
    """One launch."""

    kernel: str
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    """By name; tensors as they are."""
    options: dict[str, Any]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The arguments that are tensors."""
        return {name: x for name, x in self.arguments.items() if isinstance(x, Tensor)}


class Takes(Protocol):
    """Whoever launches are told to; a list does."""

    def append(self, launch: Launch, /) -> None:
        """One more."""
        ...


class Recorder:
    """Stands in for a kernel."""

    def __init__(self, kernel: Any, into: Takes) -> None:
        self.kernel, self.into = kernel, into

    def __getitem__(self, grid: Any) -> Any:
        grid = grid if isinstance(grid, tuple) else (grid,)

        def launch(*arguments: Any, **named: Any) -> None:
            options = {k: named.pop(k) for k in OPTIONS & named.keys()}
            given = dict(zip(self.kernel.arg_names, arguments, strict=False)) | named
            missing = set(self.kernel.arg_names) - given.keys()
            if missing or len(given) != len(self.kernel.arg_names):
                raise TypeError(f"{self.kernel.fn.__name__} lacks {missing or 'nothing, but has one argument twice'}")
            self.into.append(Launch(self.kernel.fn.__name__.lstrip("_"), grid, given, options))

        return launch


@contextmanager
def recorded(into: Takes | None = None) -> Iterator[list[Launch]]:
    """The launches made meanwhile; none of them is run, so that outputs are what their memory held.

    Args:
        into: is told of them instead of the list.
    """
    found: list[Launch] = []
    into = found if into is None else into
    with mock.patch.object(imagine_heads, "INTERPRETED", False):
        patches = [mock.patch.object(where, name, Recorder(getattr(where, name), into)) for where, name in LAUNCHED]
        for patch in patches:
            patch.start()
        try:
            yield found
        finally:
            for patch in patches:
                patch.stop()
