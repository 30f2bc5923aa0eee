"""Runs one peer in a process of its own and times it when asked: `python -m peers.serve KIND THREADS ARGUMENTS...`.

It reads a number of repeats a line and answers with seconds; its first line is the values that a plan computes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    kind, threads, *arguments = sys.argv[1:]
    # JAX makes as many threads as it has cores.
    if hasattr(os, "sched_setaffinity") and kind.startswith("jax"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    try:
        import numpy as np
        import torch

        torch.set_num_threads(int(threads))
        from lsp_fast import machine
        from peers.kinds import function_of

        machine.keep_memory()

        run = function_of(kind, *arguments)
        values = run()
        # An update gives its metrics: it has been compared there.
        first = [] if isinstance(values, dict) else values[0]
        first = first.float().numpy() if isinstance(first, torch.Tensor) else np.asarray(first, np.float32)
    except Exception as error:  # whatever it is, it becomes the reason in the table
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}) + "\n")
        return
    answers.write(json.dumps({"values": first.tolist()}) + "\n")
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            run()
        answers.write(json.dumps({"seconds": time.perf_counter() - began}) + "\n")


if __name__ == "__main__":
    main()
