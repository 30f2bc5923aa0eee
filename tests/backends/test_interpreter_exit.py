"""Native work that is still going on when the interpreter ends: the process ends all the same, and says nothing."""

import functools
import os
import pickle
import subprocess
import sys

import pytest
import torch

from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import cpp
from lsp_fast.config import make_config
from lsp_fast.errors import BackendUnavailable
from lsp_fast.ops.types import ImagineNoise, Normal, PlanKey, PlanRules, State

try:
    NATIVE = cpp.load()
except BackendUnavailable as error:
    pytest.skip(str(error).splitlines()[0], allow_module_level=True)

# The extension alone, with arrays that are made here: PyTorch's operations have the same trouble, and no guard. What a
# module holds is let go of while the interpreter finalises; here that takes a while, the lock is free meanwhile, and
# every call under way ends. It is a module of its own, as a thread keeps the one whose function it runs.
PROLOGUE = """
import os, pickle, sys, threading, time, types
import numpy as np
from lsp_fast import _native

with open(sys.argv[1], "rb") as file:
    calls = pickle.load(file)

class Late:
    def __del__(self, sleep=time.sleep, write=os.write):
        sleep(0.3)
        write(1, b"end")

sys.modules["late"] = types.ModuleType("late")
sys.modules["late"].late = Late()
"""

# Arrays that a call makes for itself and lets go of in the end: a thread that Python has ended must not.
HELD = """
class Held(np.ndarray):
    def __del__(self, finalizing=sys.is_finalizing, write=os.write):
        if finalizing():
            write(1, b"let go of without the lock")

class Fresh:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        held = Held(self.array.shape, self.array.dtype)
        held[...] = self.array
        return held
"""

# Threads that call without pause. At the end the main thread lets them, or keeps the lock until they all wait for it.
CALLS = """
function, arguments = getattr(_native, sys.argv[2]), calls[sys.argv[2]]
if isinstance(arguments[0], np.ndarray):
    arguments = Fresh(arguments[0]), *arguments[1:]

def work():
    while True:
        function(*arguments)

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
if sys.argv[3] == "waiting":
    sys.setswitchinterval(10)
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass
"""

# A thread that ends in Python's code, which the extension has called.
CODE_IN_PYTHON = """
class Slow:
    def __array__(self, dtype=None, copy=None, sleep=time.sleep):
        sleep(0.2)

arguments = Fresh(np.zeros((1, 2))), Slow(), 1, None, None
threading.Thread(target=_native.select_elites, args=arguments, daemon=True).start()
time.sleep(0.1)
"""

# Finalising is done by a thread, which may call too.
CALLS_OF_A_FINALISER = """
_native.lambda_return(*calls["lambda_return"])  # what the first call imports cannot be imported later

class Last:
    def __del__(self, calls=[(getattr(_native, name), arguments) for name, arguments in calls.items()], write=os.write):
        for function, arguments in calls:
            function(*arguments)
            write(1, b".")

last = Last()
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """A file of the extension's functions by name, and arguments for each that keep it busy for about a millisecond."""
    taken = {}

    class Recorder:
        def __getattr__(self, name):
            def call(*arguments):
                taken[name] = arguments
                return getattr(NATIVE, name)(*arguments)

            return call

    agent = ImaginationAgent(5, 2, make_config("smoke", device="cpu", backend="cpp"))
    weights = agent.planner.weights()
    start, key = State(torch.zeros(3, 6), torch.zeros(3, 16)), torch.tensor([1, 2])
    prior, rules = Normal(torch.zeros(3, 1, 3), torch.ones(3, 1, 3)), PlanRules(2, 10, 0.99, 0.95)
    big, plans = torch.ones(50, 1000), torch.zeros(200, 16, 1, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpp, "load", functools.cache(Recorder))
        with torch.no_grad():
            cpp.plan(start, weights, PlanKey(key, 2, 6, 10, True, False), prior, rules)
            noise = ImagineNoise(torch.zeros(4, 3, 6), None)
            cpp.imagine_heads(start, weights.prior, weights.actor, torch.zeros(1, 3, 3), 10, noise, weights.heads)
            cpp.select_elites(torch.zeros(200, 16), plans, 4, plans[:, 0], plans[:, 0])
            cpp.normals(key, 0, 0, 20, 50, 50)
        cpp.lambda_return(big.clone().requires_grad_(), big, big, big[0], 0.95).sum().backward()
        cpp.load().peak("fp32", 1)
    path = tmp_path_factory.mktemp("exit") / "calls.pickle"
    path.write_bytes(pickle.dumps(taken))
    return path


def outcome(code, *arguments):
    """(exit status, what it said) of a process that runs PROLOGUE and this."""
    command = [sys.executable, "-c", PROLOGUE + code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=30
    )
    return done.returncode, done.stdout


WAYS = [
    "imagine_heads",
    "lambda_return",
    "lambda_return_backward",
    "peak",
    "philox_normals",
    "plan",
    "select_elites",
]


@pytest.mark.parametrize("state", ["waiting", "working"])
@pytest.mark.parametrize("way", WAYS)
def test_calls_that_end_while_the_interpreter_does_are_left_behind(calls, way, state):
    assert outcome(HELD + CALLS, calls, way, state) == (0, "end")


def test_a_thread_that_ends_in_pythons_code_is_left_behind(calls):
    assert outcome(HELD + CODE_IN_PYTHON, calls) == (0, "end")


def test_a_finaliser_may_call_too(calls):
    assert outcome(CALLS_OF_A_FINALISER, calls) == (0, "end" + "." * len(WAYS))


def test_an_interpreter_beside_the_main_one_is_refused():
    # pybind11 would wait there for ever.
    pytest.importorskip("_xxsubinterpreters", reason="the module has another name from Python 3.13 on")
    program = """
import sys, _xxsubinterpreters as interpreters
path = sys.path
try:
    interpreters.run_string(interpreters.create(), f"import sys; sys.path = {path!r}; import lsp_fast._native")
except interpreters.RunFailedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "main interpreter alone" in done.stdout, done.stderr
