"""Standard output and standard error as people have them: closed, full, of a pipe that closes, of a terminal gone."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

GONE = {errno.EIO, errno.EBADF, errno.ENXIO}
"""How a terminal that is no longer there answers: nobody is left to be told."""


class OutputLost(Exception):
    """Standard output cannot be written; `reason` is an errno."""

    def __init__(self, reason: int) -> None:
        super().__init__(os.strerror(reason))
        self.reason = reason


class Stream:
    """A text stream that cannot fail a run: what is not worth an end of the command is dropped in silence.

    Args:
        stream: which it stands for.
        matters: raise `OutputLost` where the disk is full or a pipe has closed; a terminal may go away.
    """

    def __init__(self, stream: Any, matters: bool) -> None:
        self._stream, self._matters = stream, matters

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def close(self) -> None:
        """Nothing: absl's handler would close what it took for standard error, long after the command."""

    def _drop(self, error: OSError) -> None:
        # What is still in the buffer must go somewhere, or the interpreter fails at it when it ends.
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        if self._matters and error.errno not in GONE:
            raise OutputLost(error.errno or errno.EIO) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def streams() -> Iterator[None]:
    """Within it both streams can be written, whatever they are. Those of a closed descriptor lead nowhere.

    Raises:
        OutputLost: standard output did not take all that was said; standard error never matters.
    """
    _open_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        # A locale without these letters is no reason to fail.
        Stream(_tolerant(stream) if stream is not None else open(os.devnull, "w"), matters)  # noqa: SIM115
        for stream, matters in zip(before, (True, False), strict=True)
    )
    try:
        try:
            yield
        except SystemExit:  # of --help, which has been said
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_descriptors() -> None:
    """A file that a run opens must not become its standard output: what a library prints would land in it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


def _tolerant(stream: Any) -> Any:
    with suppress(AttributeError, ValueError):
        stream.reconfigure(errors="backslashreplace")
    return stream
