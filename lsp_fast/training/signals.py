"""Signals that ask a run to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether a signal has asked."""

    asked = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Ctrl-C asks the loop to end after the step under way, so that it can checkpoint; a second one quits at once.

    So do SIGTERM, which clusters send, and SIGHUP of a terminal that goes away (unless it is ignored: nohup).
    """
    stop = Stop()
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)

    def ask(signum: int, frame: Any) -> None:
        stop.asked = True
        for number in signals:
            signal.signal(number, signal.default_int_handler)

    try:
        before = [signal.signal(number, ask) for number in signals]
    except ValueError:  # not in the main thread, which alone may set handlers
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
