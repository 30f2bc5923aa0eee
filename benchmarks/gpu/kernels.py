"""The kernels that a learning update gives to a GPU, outside its plan, counted without one.

Parameters and data are on the `meta` device, which has shapes and no numbers; what PyTorch dispatches for them is
counted by the rules below; Triton's launches are recorded instead of run. It is an estimate: libraries split some
products. `python benchmarks/gpu/kernels.py` prints it.
"""

from __future__ import annotations

import math
import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._functorch.config
import torch._inductor.config
from torch import Tensor
from torch._inductor import scheduler
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # what is counted is this tree
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu.launches import Launch, recorded
from lsp_fast import backends, ops
from lsp_fast.agents import ImaginationAgent
from lsp_fast.agents.behavior_update import update_behavior
from lsp_fast.backends import Backend
from lsp_fast.config import Config, make_config
from lsp_fast.kernels import imagine_heads
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.planning.planner import SkillPlan

aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm}
FREE = {
    aten.promote_types,
    aten.empty,
    aten.empty_like,
    aten.new_empty,
    aten.empty_strided,
    aten.new_empty_strided,
    aten.detach,
}
FUSED_ADAM_TENSORS = 36  # in one launch, by the size of its arguments


def launches(function: Any, arguments: tuple) -> int:
    """Kernels of one dispatched operation."""
    packet = getattr(function, "overloadpacket", function)
    if packet in FREE or function.is_view or packet is aten._unsafe_view:
        return 0
    if packet is aten.addmm and arguments[0].dim() == 2:
        return 2  # the sum is copied to where the product is added
    return 1


def optimizer_launches(tensors: int) -> int:
    """Kernels of one clipped step of fused Adam: two of the norms, six of their norm and the factor, one that scales,
    one that counts steps, and Adam's."""
    return 10 + math.ceil(tensors / FUSED_ADAM_TENSORS)


class KernelCounter(TorchDispatchMode):
    """Counts launches by operation, and by what of the code asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.by_operation: Counter[str] = Counter()
        self.by_source: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if count := launches(func, args):
            self.add(str(func.overloadpacket), count)
        return func(*args, **(kwargs or {}))

    def add(self, operation: str, count: int = 1) -> None:
        """So many kernels of one operation, here and now."""
        self.by_operation[operation] += count
        self.by_source[source()] += count

    @contextmanager
    def off(self) -> Iterator[None]:
        """Meanwhile nothing counts."""
        before = self.by_operation.copy(), self.by_source.copy()
        yield
        self.by_operation, self.by_source = before

    def append(self, launch: Launch) -> None:
        """One of Triton's."""
        self.add(f"triton.{launch.kernel}")

    @property
    def total(self) -> int:
        """All of them."""
        return self.by_operation.total()

    @property
    def products(self) -> int:
        """Calls of matrix products."""
        return sum(self.by_operation[str(packet)] for packet in PRODUCTS)


SOURCES = (
    "observe", "imagine", "mlp", "log_prob", "kl_divergence", "entropy", "lambda_return", "rollout_metrics",
    "behavior_noise", "step",
)  # fmt: skip
"""Functions of lsp_fast by which kernels are told apart; `losses` is what is in none of them."""


def source() -> str:
    """Which of SOURCES is running, or was when the gradient's operation was recorded (in anomaly mode alone)."""
    node = torch._C._current_autograd_node()
    if node is None:
        frames = [(frame.filename, frame.name) for frame in traceback.extract_stack()]
    else:
        told = "".join(node.metadata.get("traceback_", []))
        frames = re.findall(r'File "(.*)", line \d+, in (\w+)', told)
    rooms = "lsp_fast/ops", "lsp_fast/backends", "lsp_fast/learning", __file__
    names = [name for file, name in frames if any(room in file for room in rooms)]
    if "Cell" in names or (node is not None and not names):
        return "observe"
    return next((name for name in names if name in SOURCES), "losses")


class StandInNoise:
    """Numbers that nobody looks at."""

    def normal(self, stream: str, *shape: int) -> Tensor:
        """As `Noise.normal`; drawing them is a kernel."""
        return torch.randn(shape, device="meta")

    def words(self, stream: str, count: int) -> Tensor:
        """As `Noise.words`; a kernel, too."""
        return torch.randint(2**32, (count,), device="meta")


def count(config: Config, observation: int, action_dim: int, backend: str = "reference") -> dict[str, KernelCounter]:
    """Launches of one update's parts, `world model` and `behavior`, gradients, clipping and Adam included.

    Args:
        backend: what learns, `reference` or `triton`.
    """
    with mock.patch.object(imagine_heads, "INTERPRETED", True):  # it is to be had without a card
        chosen = backends.get(backend, "cpu")
    agent = ImaginationAgent(observation, action_dim, config)
    agent.modules.to("meta")
    agent.learner = chosen
    observe = agent.model_loss.keywords["backend"].observe if config.train.observe != "auto" else chosen.observe
    agent.model_loss.keywords["backend"] = chosen._replace(observe=observe)
    agent.noise = StandInNoise()  # pyright: ignore[reportAttributeAccessIssue]
    agent.planner.distribution = lambda start, *_, **__: SkillPlan(  # a plan is counted elsewhere
        *(torch.empty(len(start.stoch), *config.plan_shape(action_dim), device="meta") for _ in range(4))
    )
    agent.noise = StandInNoise()  # pyright: ignore[reportAttributeAccessIssue]
    agent.planner.distribution = lambda start, *_, **__: SkillPlan(  # a plan is counted elsewhere
        *(torch.empty(len(start.stoch), *config.plan_shape(action_dim), device="meta") for _ in range(4))
    )
    counters = {"world model": KernelCounter(), "behavior": KernelCounter()}
    b, length = config.train.batch_size, config.train.batch_length
    floats = (torch.empty(b, length, *size, device="meta") for size in ((observation,), (action_dim,), (), ()))
    batch = SequenceBatch(*floats, torch.empty(b, length, dtype=torch.bool, device="meta"))
    with counters["world model"] as counter, _as_on_a_gpu(agent, chosen, counter):
        latent = torch.randn(length, b, config.model.stoch, device="meta")
        model = agent.model_loss(batch, latent)
        agent.optimizers["world_model"].step(model.loss)
    if agent.actor is not None:
        start = type(model.states)(*(x.detach().flatten(0, 1) for x in model.states))
        live = torch.ones(len(start.stoch), device="meta") if config.predicts_terminations else None
        with counters["behavior"] as counter, _as_on_a_gpu(agent, chosen, counter):
            update_behavior(agent, start, live, batch, diagnose=False, balance=False)
    return counters


@contextmanager
def _as_on_a_gpu(agent: ImaginationAgent, backend: Backend, counter: KernelCounter) -> Iterator[None]:
    """What PyTorch does in other kernels there than for `meta`: the GRU's cell and optimisers. Triton's launches are
    recorded."""

    class Cell(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, from_input: Tensor, from_state: Tensor, state: Tensor, *biases: Tensor) -> Tensor:
            ctx.save_for_backward(from_input, state, *biases)
            counter.add("aten._thnn_fused_gru_cell")
            return torch.empty_like(state)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            gates, state, *biases = ctx.saved_tensors
            summed = sum(ctx.needs_input_grad[3:])  # of biases
            counter.add("aten._thnn_fused_gru_cell_backward", 1 + summed)
            like = (gates, gates, state, *biases)
            return tuple(torch.empty_like(x) for x in like)

    def gru_cell(x: Tensor, state: Tensor, w_i: Tensor, w_h: Tensor, b_i: Tensor, b_h: Tensor) -> Tensor:
        return Cell.apply(x @ w_i.T, state @ w_h.T, state, b_i, b_h)  # pyright: ignore[reportReturnType]

    def step(name: str):
        parameters = list(agent.modules[name].parameters())
        native = backend.adam(torch.optim.Adam(parameters, capturable=True, fused=True), 1.0)
        if backend.adam is not ops.adam:
            with counter.off():
                native([torch.empty_like(p) for p in parameters])  # makes the state

        def step(loss: Tensor) -> Tensor:
            gradients = torch.autograd.grad(loss, parameters)
            if backend.adam is ops.adam:
                counter.add("optimizer", optimizer_launches(len(parameters)))
                return loss.detach()
            return native(gradients)

        return step

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "gru_cell", gru_cell))
        # Autocast does not know that device.
        stack.enter_context(mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        stack.enter_context(recorded(counter))
        for name, optimizer in agent.optimizers.items():
            stack.enter_context(mock.patch.object(optimizer, "step", step(name)))
        yield


class CompilerCounter:
    """Counts what torch.compile's Inductor would call, by its schedule for a processor; nothing is compiled, and what
    functions return has shapes and no meaning."""

    def __init__(self) -> None:
        self.products = self.fused = self.others = 0

    @property
    def total(self) -> int:
        """All calls."""
        return self.products + self.fused + self.others

    def add(self, graph: Any) -> None:
        """One graph, scheduled."""
        for node in graph.scheduler.nodes:
            if not isinstance(node, scheduler.ExternKernelSchedulerNode):
                self.fused += not isinstance(node, scheduler.NopKernelSchedulerNode)
                continue
            name = str(getattr(node.node, "python_kernel_name", ""))
            if any(x in name for x in ("mm", "linear")):
                # For a GPU Inductor leaves a sum that a product is added to to the next elementwise kernel.
                self.products += 1
            else:
                self.others += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What is compiled meanwhile counts here."""

        def instead(graph: Any) -> Any:
            graph.codegen()  # schedules; nothing is compiled before the code is loaded
            self.add(graph)
            given = [isinstance(x, Tensor) or x.maybe_get_size() is not None for x in graph.graph_outputs]
            made = [
                (tuple(map(int, x.get_size())), tuple(map(int, x.get_stride())), x.get_dtype()) if has else None
                for x, has in zip(graph.graph_outputs, given, strict=True)
            ]

            def call(arguments: list) -> tuple[Tensor | None, ...]:
                arguments.clear()
                return tuple(None if m is None else torch.empty_strided(m[0], m[1], dtype=m[2]).zero_() for m in made)

            return SimpleNamespace(call=call, __file__="", runner=None)

        with (
            mock.patch.object(GraphLowering, "compile_to_module", instead),
            torch._inductor.config.patch(fx_graph_cache=False),
            torch._functorch.config.patch(enable_autograd_cache=False),
        ):
            torch._dynamo.reset()
            yield
            torch._dynamo.reset()


def main() -> None:
    """Print the paper's sizes' counts."""
    if "--by-source" in sys.argv:
        return print_sources()
    for backend, observe in (("reference", "steps"), ("reference", "scan"), ("triton", "auto")):
        config = make_config("paper", device="cpu", backend="reference", train__observe=observe)
        counters = count(config, 17, 6, backend)
        parts = ", ".join(f"{name} {c.total} ({c.products} products)" for name, c in counters.items())
        print(f"{backend}, {observe}: {sum(c.total for c in counters.values())} kernels an update (estimate): {parts}")


def print_sources() -> None:
    """Print which functions of the code the kernels come from."""
    config = make_config("paper", device="cpu", backend="reference")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is slow
        for backend in ("reference", "triton"):
            with torch.autograd.detect_anomaly(check_nan=False):
                counters = count(config, 17, 6, backend)
            for name, counter in counters.items():
                print(f"{backend}, {name}: " + ", ".join(f"{k} {n}" for k, n in counter.by_source.most_common()))


if __name__ == "__main__":
    main()
