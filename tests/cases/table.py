"""The table of troubles: what is typed, what is told, the exit status, and what is left behind.

Its pages lie in `pages/`, one a kind of trouble, each with a list ROWS; `test_cases` runs every row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

SHORT = "--preset smoke --device cpu --backend reference --env-steps 1000"
"""A training of a second, for `{short}` in a row's command. It ends with an evaluation and makes no update."""


class Row(NamedTuple):
    """One trouble. Its command runs in an empty folder, where `tests/cases/troubles.py` can be imported."""

    trouble: str
    command: str
    """After `lsp-fast`."""
    status: int
    tells: Sequence[str] = ()
    """Words that are told, on either stream; line breaks are spaces."""
    spares: Sequence[str] = ("Traceback",)
    """Words that are not."""
    leaves: Sequence[str] | None = None
    """What lies in the folder afterwards beside what `before` put there; None: whatever; `()`: nothing."""
    before: Callable[..., object] | None = None
    """Makes the trouble: files, runs, environment variables. It takes pytest's monkeypatch."""
    after: Callable[[], object] | None = None
    """What else must be true then."""
    alone: bool = False
    """In an interpreter of its own, for what is decided when one starts."""
    slow: bool = False
    """Left to `make test-slow`."""
