"""One of the processes that train an agent together: `lsp_fast.training.together.launch` starts it.

What becomes of the run is written to a file, once: by the first process, or by the first that fails.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from lsp_fast import processes
from lsp_fast.config import from_dict
from lsp_fast.errors import LspFastError
from lsp_fast.files import write_text
from lsp_fast.training.loop import train
from lsp_fast.training.signals import stop_on_signal
from lsp_fast.training.together import TOLD, told

PR_SET_PDEATHSIG = 1  # of prctl.h


def main(given: str, folder: str) -> None:
    """
    Args:
        given: JSON, as `launch` gives it.
        folder: where this process says its number, and what became of the run.
    """
    values, place = json.loads(given), Path(folder)
    with stop_on_signal():  # training listens itself, later
        with suppress(AttributeError):  # Linux tells when the command is killed: nobody else would end this process
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        (place / f"{os.getpid()}.pid").touch()
        try:
            result = train(
                from_dict(values["config"]), values["logdir"], progress=values["progress"], profile=values["profile"]
            )
            said = told(result) if processes.invited_rank() == 0 else None
        except LspFastError as error:
            said = {"error": type(error).__name__, "message": str(error)} if processes.tells() else None
        if said is not None:
            write_text(place / TOLD, json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
