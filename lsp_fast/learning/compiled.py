"""The losses' forward and backward, compiled by PyTorch (`train.compile`): fewer kernels for the same operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lsp_fast.backends import REFERENCE
from lsp_fast.errors import BackendUnavailable, first_line
from lsp_fast.learning.behavior import Parts, imagined, predictor_loss
from lsp_fast.learning.value_loss import value_loss

BACKEND = "inductor"
"""PyTorch's compiler; tests put one here that only traces."""
RECOMPILE_LIMIT = 64
"""Kinds of arguments that one function is compiled for; beyond PyTorch's own limit it would silently run eagerly."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled when it is first called, and again for every other shape of its arguments.

    It must be traceable as a whole. What cannot be is an error at its first call, not a slower function.
    """
    fast = torch.compile(function, dynamic=False, fullgraph=True, backend=BACKEND)

    def call(*arguments: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
            return fast(*arguments)

    return call


def behavior_parts() -> Parts:
    """The behaviour's losses, compiled. The reference computes: native operations are opaque to a compiler."""

    def whole(start, skills, skill_policy, models, noise, config, _, live, diagnose, paid):
        return imagined(start, skills, skill_policy, models, noise, config, REFERENCE, live, diagnose, paid)

    def plain(function):
        return compiled(lambda *arguments: function(*arguments, REFERENCE))

    value, predictor = plain(value_loss), plain(predictor_loss)
    return Parts(compiled(whole), lambda *x: value(*x[:-1]), lambda *x: predictor(*x[:-1]))


def check_compiler(device: torch.device) -> None:
    """Raise BackendUnavailable where PyTorch cannot compile for that device."""
    try:
        x = torch.ones(2, device=device, requires_grad=True)
        compiled(lambda x: (2 * x).exp().sum())(x).backward()
    except Exception as error:  # whatever a compiler, or the search for one, raises
        raise BackendUnavailable(
            f"train.compile: PyTorch cannot compile for {device}: {first_line(error)}; install a C++ compiler and "
            "Python's headers (Debian: g++, python3-dev), or start with --train.no-compile"
        ) from error
