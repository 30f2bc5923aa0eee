"""Builds, checks and times all variants of one piece of work."""

from __future__ import annotations

import argparse
import functools
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gpu.checks import MATMUL, CheckError, judge, relative_error, snapshot
from gpu.variants import ONLY, VARIANTS, Variant, attempt, jax_expected, jax_plan, substitute
from gpu.work import WORKS, Act, Update, Work
from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.backends.cudagraph import capture
from lsp_fast.config import replace


class Bench:
    """All variants of one piece of work."""

    def __init__(self, work: Work, args: argparse.Namespace, device: torch.device) -> None:
        self.work, self.args, self.device = work, args, device
        self.eager_outputs: dict[str, Any] = {}
        self.references: dict[str, Any] = {}
        self.eager_errors: dict[str, dict[str, float]] = {}

    def run(self) -> tuple[list[Variant], int]:
        """Build and check every variant, then time those that passed; also the work's floating-point operations."""
        variants = [v for precision in self.args.precisions for v in self.of_precision(precision)]
        flops = self.count_flops()
        for variant in variants:
            self.prepare(variant)
            release(self.device)
        self.time([v for v in variants if v.failure is None])
        return variants, flops

    def of_precision(self, precision: str) -> list[Variant]:
        names = [name for name in VARIANTS if name == "eager" or name in self.args.variants]
        names = [name for name in names if self.work.name in ONLY.get(name, WORKS)]
        if self.work.name == "act":
            names.insert(1, "policy")
        return [Variant(self.work.name, name, precision) for name in names]

    def agent(self, name: str, precision: str) -> ImaginationAgent:
        backend = VARIANTS[name].backend if name in VARIANTS else "auto"
        c = self.work.config
        overrides = {
            "backend": "reference" if self.device.type == "cpu" else backend,
            "planner.precision": "bf16" if precision == "bf16" else "fp32",
            "train.matmul": "fp32" if precision == "fp32" else "tf32",
            # What is timed is captured here; `policy` is the agent's own way.
            "train.cuda_graph": name == "policy",
        }
        return ImaginationAgent(*self.work.dims, replace(c, overrides))

    def count_flops(self) -> int:
        """Of matrix products, as the eager function issues them."""
        agent = self.agent("eager", "fp32")
        with FlopCounterMode(display=False) as counter:
            self.work.timed(self.work.function(agent))(0)
        return counter.get_total_flops()

    def prepare(self, variant: Variant) -> None:
        """Build, check and measure the memory of a variant; its failure is a row, not an end."""
        torch.set_float32_matmul_precision(MATMUL[variant.precision])
        if variant.name.startswith("compile") and self.args.quick and self.work.name in ("model", "update"):
            variant.failure = "not run: --quick leaves out compiling the update, which takes minutes"
            return
        if variant.name != "eager" and variant.precision not in self.eager_errors:
            variant.failure = "not run: eager failed"
            return
        print(f"{variant.work} {variant.name} {variant.precision} ...", file=sys.stderr, flush=True)

        def build_and_check() -> None:
            cuda = self.device.type == "cuda"
            base = torch.cuda.memory_allocated() if cuda else 0
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            agent = variant.agent = self.agent(variant.name, variant.precision)
            self.work.config = agent.config
            weights = snapshot(agent)
            function = self.build(variant.name, agent)
            variant.call = function if variant.name in ("policy", "JAX") else self.work.timed(function)
            variant.call(0)
            if cuda and not variant.name.startswith("graph"):
                # A graph takes its memory while it is captured, the others whenever they run.
                torch.cuda.reset_peak_memory_stats()
                variant.call(1)
            synchronize(self.device)
            variant.peak_memory = torch.cuda.max_memory_allocated() - base if cuda else None
            self.check(variant, function, agent, weights)

        attempt(variant, build_and_check)

    def build(self, name: str, agent: ImaginationAgent) -> Callable[..., Any]:
        work = self.work
        if name == "policy":
            assert isinstance(work, Act)
            return work.policy(agent)
        if name == "JAX":
            return jax_plan(work, agent)
        if name == "graph, one kernel":
            from lsp_fast.backends import triton

            if agent.backend.name != "triton":
                raise CheckError("not run: there are no Triton kernels here")
            substitute(agent, pack_heads=functools.partial(triton.pack_heads, whole_rollout=True))
        function, way = work.function(agent), VARIANTS[name]
        if name == "eager":
            return function
        # A stream's generator is made from its name, which a compiler cannot follow: one eager call makes them all.
        work.timed(function)(0)
        torch._dynamo.config.recompile_limit = 64  # beyond its limit, compiled code silently runs eagerly
        if name == "compile parts":
            agent.model_loss = torch.compile(agent.model_loss, dynamic=False)
            compiled = {
                k: torch.compile(getattr(agent.backend, k), dynamic=False)
                for k in ("imagine", "lambda_return", "select_elites")
            }
            substitute(agent, **compiled)
            return function
        if way.mode is not None:
            return torch.compile(function, mode=None if way.mode == "default" else way.mode, dynamic=False)
        return capture(function, *(x.to(self.device) for x in work.inputs[0]), generators=agent.noise.generators)

    def check(
        self, variant: Variant, function: Callable[..., Any], agent: ImaginationAgent, weights: list[Tensor]
    ) -> None:
        work, precision = self.work, variant.precision
        if variant.name == "policy":
            assert isinstance(work, Act)
            variant.errors = work.check_policy(agent, weights)
            judge(variant.errors, precision, None)
            return
        if variant.name == "JAX":
            variant.errors = {"eager/values": relative_error(torch.as_tensor(function(0)), jax_expected(work, agent))}
            judge(variant.errors, precision, None)
            return
        eager = variant.name == "eager"
        got = work.outputs(function, agent, weights)
        if not eager:
            variant.errors = work.compare(got, self.eager_outputs[precision], "eager")
        if eager or not isinstance(work, Update):
            if precision not in self.references:
                # Float64 does not know precisions, but the noise's streams are rewound by `outputs` alone.
                self.references[precision] = work.reference(agent, weights)
            few = work.outputs_few(agent, weights) if isinstance(work, Update) else got
            variant.errors |= work.compare(few, self.references[precision], "float64")
        judge(variant.errors, precision, None if eager else self.eager_errors[precision])
        if eager:
            # Once more from the beginning: how far eager is from itself.
            again = work.compare(work.outputs(function, agent, weights), got, "eager")
            judge(again, precision, None)
            variant.errors |= again
            self.eager_outputs[precision], self.eager_errors[precision] = got, variant.errors

    def time(self, variants: list[Variant]) -> None:
        """Interleaved samples; each is the mean of enough calls to take the least time."""
        repeats: dict[int, int] = {}

        def warm_up(v: Variant, call: Callable[[int], Any]) -> None:
            for i in range(self.args.warmup):
                call(i)
            once = sample(call, 1, self.device)
            repeats[id(v)] = max(1, min(1000, math.ceil(self.args.sample_seconds / once)))

        def measure(v: Variant, call: Callable[[int], Any]) -> None:
            v.seconds.append(sample(call, repeats[id(v)], self.device))

        def check_finite(_: Variant, call: Callable[[int], Any]) -> None:
            if not all(torch.as_tensor(x).isfinite().all() for x in tree_leaves(call(0))):
                raise CheckError("became NaN or infinite while it was timed")

        for step in (warm_up, *[measure] * self.args.samples, check_finite):
            for v in variants:
                if v.call is not None:
                    torch.set_float32_matmul_precision(MATMUL[v.precision])
                    attempt(v, functools.partial(step, v, v.call))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def release(device: torch.device) -> None:
    """Give back what a variant left over, so that the next one's memory is its own."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def sample(call: Callable[[int], Any], repeats: int, device: torch.device) -> float:
    """Seconds of one call: device events around `repeats` of them (the clock on the processor)."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for i in range(repeats):
            call(i)
        return (time.perf_counter() - begin) / repeats
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for i in range(repeats):
        call(i)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def measure_peaks(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """FLOP/s of a large product of random matrices in each precision."""
    n = 8192 if device.type == "cuda" else 256
    kinds = dict.fromkeys([*args.precisions, *(["bf16"] if device.type == "cuda" else [])])
    peaks = {}
    for kind in kinds:
        torch.set_float32_matmul_precision(MATMUL.get(kind, "highest"))
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        generator = torch.Generator(device).manual_seed(3)
        a, b = (torch.randn(n, n, generator=generator, device=device).to(dtype) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=dtype)

        def product(_: int, a: Tensor = a, b: Tensor = b, out: Tensor = out) -> Tensor:
            return torch.mm(a, b, out=out)

        for i in range(3):
            product(i)
        peaks[kind] = 2 * n**3 / statistics.median(sample(product, 5, device) for _ in range(args.samples))
    release(device)
    return peaks
