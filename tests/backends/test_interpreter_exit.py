"""Native work that is still going on when the interpreter ends: the process ends all the same, and says nothing."""

import os
import subprocess
import sys

import pytest

from lsp_fast.backends import cpp
from lsp_fast.errors import BackendUnavailable

try:
    cpp.load()
except BackendUnavailable as error:
    pytest.skip(str(error).splitlines()[0], allow_module_level=True)

# Threads that call into the extension without pause, of every way in; and a global whose end takes a while, in which
# the interpreter, that is finalising by then, does not hold its lock: every call under way ends within it.
CODE = """
import sys, threading, time, types
import torch
from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import cpp
from lsp_fast.config import make_config
from lsp_fast.ops.types import ImagineNoise, Normal, PlanKey, PlanRules, State

torch.set_num_threads(1)
torch.set_grad_enabled(False)
agent = ImaginationAgent(5, 2, make_config("smoke", device="cpu", backend="cpp"))
weights = agent.plan_weights()
stoch, deter, hidden = 6, 16, torch.zeros
start, key = State(torch.zeros(3, stoch), torch.zeros(3, deter)), torch.tensor([1, 2])
prior, rules = Normal(torch.zeros(3, 1, 3), torch.ones(3, 1, 3)), PlanRules(2, 10, 0.99, 0.95)
noise = ImagineNoise(torch.zeros(4, 3, stoch), None)
big, plans = torch.ones(50, 1000), torch.zeros(200, 16, 1, 3)

@torch.enable_grad()
def backward():
    cpp.lambda_return(big.clone().requires_grad_(), big, big, big[0], 0.95).sum().backward()

calls = {
    "plan": lambda: cpp.plan(start, weights, PlanKey(key, 2, 6, 10, True, False), prior, rules),
    "imagine_heads": lambda: cpp.imagine_heads(start, weights.prior, weights.actor, torch.zeros(1, 3, 3), 10, noise,
                                               weights.heads),
    "lambda_return": lambda: cpp.lambda_return(big, big, big, big[0], 0.95),
    "lambda_return_backward": lambda: backward(),
    "select_elites": lambda: cpp.select_elites(torch.zeros(200, 16), plans, 4, plans[:, 0], plans[:, 0]),
    "normals": lambda: cpp.normals(key, 0, 0, 20, 50, 50),
    "peak": lambda: cpp.load().peak("fp32", 1),
}
# The extension's own call alone, with its arrays: PyTorch's operations around it have the same trouble, and no guard.
native, taken = cpp.load(), []
cpp.load = lambda: types.SimpleNamespace(**{
    name: lambda *arguments, function=function: (taken.append((function, arguments)), function(*arguments))[1]
    for name, function in vars(native).items() if callable(function)
})
calls[sys.argv[1]]()
function, arguments = taken[-1]

def work():
    while True:
        function(*arguments)

class Late:
    def __del__(self, sleep=time.sleep):
        sleep(0.3)

late = Late()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
"""


WAYS = ["plan", "imagine_heads", "lambda_return", "lambda_return_backward", "select_elites", "normals", "peak"]


@pytest.mark.parametrize("way", WAYS)
def test_calls_that_end_while_the_interpreter_does_are_left_behind(way):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE, way], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
