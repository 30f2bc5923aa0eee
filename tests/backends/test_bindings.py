"""What the C++ extension does with arguments that are not what it takes."""

import subprocess
import sys

import numpy as np
import pytest
from rollouts import build, to_float

from lsp_fast.backends import cpp


@pytest.mark.parametrize("wrong", [None, "0.1"])
def test_a_number_that_is_none_is_named(wrong):
    start, prior, actor, skills, length, noise, heads = to_float(build())
    with pytest.raises(ValueError, match=r"prior\.min_std must be a number"):
        cpp.imagine_heads(start, prior._replace(min_std=wrong), actor, skills, length, noise, heads)
    with pytest.raises(ValueError, match=r"actor\.mean_scale must be a number"):
        cpp.imagine_heads(start, prior, actor._replace(mean_scale=wrong), skills, length, noise, heads)


def test_an_array_that_begins_anywhere_is_copied():
    values = np.arange(24, dtype=np.float32).reshape(2, 12)
    odd = np.frombuffer(b"\0" + values.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(2, 12)
    assert not odd.flags.aligned
    plans = np.random.default_rng(0).normal(size=(2, 12, 1, 1)).astype(np.float32)
    mean = np.zeros((2, 1, 1), np.float32)
    got, want = (cpp.load().select_elites(x, plans, 3, mean, mean + 1, 1e-6) for x in (odd, values))
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


LIMITED = """
import resource, sys, torch
from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import cpp
from lsp_fast.config import make_config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
cpp.load().limit_threads(16)
torch.set_num_threads(16)
agent = ImaginationAgent(5, 2, make_config("paper", device="cpu", backend="cpp"))
start = State(torch.zeros(400, 30), torch.zeros(400, 200))
noise = agent.planner.draw(Noise(0), "x", 400, sample=True)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
try:
    agent.planner.search(start, noise)
    print("planned")
except MemoryError:
    print("refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("megabytes", "allowed"), [(0, {"refused"}), (6, {"refused", "planned"}), (512, {"planned"})])
def test_memory_that_ends_is_an_error_and_not_the_processs_end(megabytes, allowed):
    # A thread's own allocation that failed would end the process.
    done = subprocess.run([sys.executable, "-c", LIMITED, str(megabytes)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in allowed
