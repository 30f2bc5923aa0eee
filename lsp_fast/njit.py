"""Functions that numba compiles, and keeps for the next process where it finds a place for that."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba


def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit(cache=True, **options)`, on a machine without a writable cache too: there it compiles every time."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            kept = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no place: neither beside the source, nor in the user's home
            return numba.njit(**options)(function)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return kept(*arguments)
            except OSError:
                # The place is full, or was taken away. It compiled before it tried to write, and runs nothing sooner.
                return kept(*arguments)

        return call

    return decorate
