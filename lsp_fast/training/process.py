"""One of the processes that train an agent together: `lsp_fast.training.together.launch` starts it.

What becomes of the run it writes to a file of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # of prctl.h


def end_with(parent: int) -> None:
    """Have this process asked to end where the command that started it is killed: nobody else would. It comes before
    the slow imports, and where there is no such command any more nothing is begun."""
    with suppress(AttributeError):  # Linux has it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


def main(given: str, folder: str) -> int:
    """
    Args:
        given: JSON, as `launch` gives it.
        folder: where this process says its number, and what became of the run.

    Returns:
        1 where the run failed: torchrun's agent then ends the others.
    """
    import json
    from pathlib import Path

    from lsp_fast import processes
    from lsp_fast.config import from_dict
    from lsp_fast.errors import LspFastError
    from lsp_fast.files import write_text
    from lsp_fast.training.loop import train
    from lsp_fast.training.signals import stop_on_signal
    from lsp_fast.training.together import to_answer

    values, place, rank = json.loads(given), Path(folder), processes.invited_rank()
    with stop_on_signal():  # training listens itself, later
        try:
            (place / f"{os.getpid()}.pid").touch()
        except FileNotFoundError:  # the command is gone
            return 1
        try:
            result = train(
                from_dict(values["config"]), values["logdir"], progress=values["progress"], profile=values["profile"]
            )
            answer = to_answer(result) if rank == 0 else None
        except LspFastError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        if answer is not None:
            write_text(place / f"{rank:04d}.json", json.dumps(answer))
    return 1 if answer is not None and "error" in answer else 0


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.exit(main(*sys.argv[2:]))
