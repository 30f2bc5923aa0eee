"""Memory that an update frees is there for the next one."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from lsp_fast import machine
if sys.argv[1] == "kept":
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
    faults = {
        how: int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "given back")
    }
    if faults["given back"] < 20 * 4 * 512:
        pytest.skip("the system gives huge pages: there is little to save")
    assert faults["kept"] < faults["given back"] / 20
