"""A peer in a process of its own, as the one who times it sees it; `peers.serve` is what runs there."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

BENCHMARKS = Path(__file__).resolve().parents[1]


class Process:
    """A peer in a process of its own, which sleeps until it is timed.

    Raises:
        RuntimeError: the peer cannot be had, with its reason.
    """

    def __init__(self, kind: str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "peers.serve", kind, str(torch.get_num_threads()), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=BENCHMARKS,
            env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), **(environment or {})},
        )
        atexit.register(self.process.kill)
        self.values: list = self._answer("values")

    def _answer(self, name: str):
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline() or '{"error": "it ended without an answer"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer[name]

    def seconds(self, repeats: int) -> float:
        """Seconds that so many calls take there."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{repeats}\n")
        self.process.stdin.flush()
        return self._answer("seconds")

    def __call__(self) -> None:
        self.seconds(1)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def peer(kind: str, *arguments: object) -> Process | str:
    """The peer of that kind, or why it cannot be had."""
    environment = {}
    if kind == "eager_mkl":
        library = mkl_shim()
        if library is None:
            return "no C compiler"
        environment["LD_PRELOAD"] = str(library)
    try:
        return Process(kind, *arguments, environment=environment)
    except RuntimeError as error:
        return str(error)


@functools.cache
def mkl_shim() -> Path | None:
    """A library that, loaded before MKL, makes it take its fast path on processors that are not Intel's, too."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "shim.c").write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    library = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "shim.c"], check=True)
    return library
