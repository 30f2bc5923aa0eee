"""Memory that an update frees is there for the next one."""

import subprocess
import sys

import pytest

from lsp_fast import machine
from lsp_fast.config import make_config
from lsp_fast.training.loop import train

COUNT = """
import resource, torch
from lsp_fast import machine
machine.keep_memory()
def update():
    return sum(x.sum() for x in [torch.zeros(1 << 20) for _ in range(4)])
for _ in range(5):
    update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    update()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc's")
def test_memory_that_was_freed_is_not_taken_from_the_system_again():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 * 4 * 1024 / 20  # of the pages that 20 updates touch


def test_training_keeps_memory(monkeypatch, tmp_path):
    class Called(Exception):
        pass

    def called():
        raise Called

    monkeypatch.setattr(machine, "keep_memory", called)
    with pytest.raises(Called):
        train(make_config("smoke"), tmp_path / "run", progress=False)
