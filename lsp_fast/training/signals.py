"""Signals that ask a run to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ALWAYS = (signal.SIGINT, signal.SIGTERM)
"""Of people, and of schedulers."""
UNLESS_TAKEN = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Of a terminal that goes away, of schedulers that warn (Slurm's --signal, Grid Engine), of a limit on processor time.

`nohup` ignores the first, and submitit has an answer of its own to one of those between; both keep their way."""


class Stop:
    """Whether a signal has asked, and which ones did."""

    def __init__(self) -> None:
        self.asked = False
        self.signals: set[int] = set()


_in_force: Stop | None = None


@contextmanager
def stop_on_signal(*also: int) -> Iterator[Stop]:
    """Ctrl-C asks the loop to end after the step under way, so that it can checkpoint; a second one quits at once.

    So do the other signals above, but none of them quits as a second one: a terminal that goes away sends SIGHUP twice,
    and a scheduler SIGTERM after its warning, while the checkpoint is still being written.

    Within another one it is the same: a job listens from its beginning, and the training in it hears what came before.

    Args:
        also: signals to take even from who answers them now.
    """
    global _in_force
    if _in_force is not None:
        yield _in_force
        return
    stop = Stop()

    def ask(signum: int, frame: Any) -> None:
        if stop.asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True
        stop.signals.add(signum)

    free = (number for number in UNLESS_TAKEN if number not in also and signal.getsignal(number) is signal.SIG_DFL)
    signals = [*ALWAYS, *also, *free]
    try:
        before = [signal.signal(number, ask) for number in signals]
    except ValueError:  # not in the main thread, which alone may set handlers
        yield stop
        return
    _in_force = stop
    try:
        yield stop
    finally:
        _in_force = None
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
