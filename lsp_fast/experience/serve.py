"""The process that `lsp_fast.experience.workers` starts: it makes, steps and closes environments on one thread."""

from __future__ import annotations

import os
import pickle
import select
import signal
import threading
import time
import traceback
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from lsp_fast import terminal
from lsp_fast.errors import LspFastError

GRACE = 5.0
"""Seconds that environments have to be closed once the trainer is gone."""
ASKING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Signals that ask a run to end. Some reach every process of a job, and the trainer still needs this one to checkpoint.
"""
SAID = ("env_steps", "success", "root", "target")
"""What of a step's `info` the driver and `relabel` read. An environment's own may be large, or no data at all."""
ATTRIBUTES = ("observation_space", "action_space", "max_env_steps", "name", "observed", "observes")


def serve(descriptor: int) -> None:
    """Answer requests until the other end is closed, by `Workers.close` or by the end of its process.

    Args:
        descriptor: of a `multiprocessing.Pipe`. It brings lists of (ticket, environment's number, call, arguments). For
            each of them (ticket, whether it succeeded, what it gave or how it failed, warnings) goes back at once.
    """
    os.set_inheritable(descriptor, False)  # what an environment starts would keep it open
    for name in ASKING:
        # Not SIG_IGN, which the processes that an environment starts would inherit.
        signal.signal(getattr(signal, name), lambda *_: None)
    threading.Thread(target=_watch, args=(descriptor,), daemon=True).start()
    connection, environments = Connection(descriptor), {}
    said: list[tuple[str, str]] = []
    warnings.showwarning = lambda message, category, *_, **__: said.append((str(message), category.__name__))
    try:
        with suppress(EOFError, OSError, terminal.OutputLost), terminal.streams():
            while True:
                for ticket, *request in connection.recv():
                    answer = ticket, *_answer(environments, *request), tuple(said)
                    said.clear()
                    connection.send(answer)
    finally:
        for env in environments.values():
            with suppress(Exception):  # nobody is left to be told
                env.close()


def _answer(environments: dict[int, Any], number: int, call: str, given: dict[str, Any]) -> tuple[bool, Any]:
    """Whether a request succeeded, and what it gave or how it failed: (whether it is ours, message, traceback)."""
    from lsp_fast.envs.answers import told  # brings gymnasium, which is to come after the signals are settled

    try:
        if call == "make":
            environments[number] = env = _make(**given)
            attributes = {name: getattr(env, name) for name in ATTRIBUTES if hasattr(env, name)}
            return True, {**attributes, "entries": getattr(env.unwrapped, "entries", None)}
        if call == "close":
            environments.pop(number).close()
            return True, None
        *outcome, info = getattr(environments[number], call)(**given)
        return True, (*outcome, {name: info[name] for name in SAID if name in info})
    except BaseException as error:  # SystemExit, too, ends nothing but the episode
        ours = isinstance(error, LspFastError)
        return False, (ours, str(error) if ours else told(error), traceback.format_exc())


def _make(registered: bytes | None, **options: Any) -> Any:
    """An environment; `registered` is the pickled entry of the trainer's own registry that it may need."""
    import gymnasium

    from lsp_fast import envs

    if registered is not None:
        spec = pickle.loads(registered).fn
        gymnasium.registry.setdefault(spec.id, spec)
    return envs.make(**options)


def _watch(descriptor: int) -> None:
    """End this process a while after the other end is closed, whatever an environment is at."""
    poll = select.poll()
    poll.register(descriptor, 0)  # the end of the other side is always told
    poll.poll()
    time.sleep(GRACE)
    os._exit(1)
