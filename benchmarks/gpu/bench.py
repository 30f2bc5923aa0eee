"""One piece of work from beginning to end: every variant is built, checked, and timed in turns with the others."""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gpu.checks import CheckError, judge, relative_error, snapshot
from gpu.timing import release, sample, synchronize
from gpu.variants import MATMUL, Variant, build, jax_expected, make_agent, variants_of
from gpu.work import Act, Update, Work
from lsp_fast.agents.imagination import ImaginationAgent


class Bench:
    """All variants of one piece of work."""

    def __init__(self, work: Work, args: argparse.Namespace, device: torch.device) -> None:
        self.work, self.args, self.device = work, args, device
        self.eager_outputs: dict[str, Any] = {}
        self.references: dict[str, Any] = {}
        self.eager_errors: dict[str, dict[str, float]] = {}

    def run(self) -> tuple[list[Variant], int]:
        """Build and check every variant, then time those that passed; also the work's floating-point operations."""
        variants = [
            v for precision in self.args.precisions for v in variants_of(self.work, precision, self.args.variants)
        ]
        flops = self.count_flops()
        for variant in variants:
            self.prepare(variant)
            release(self.device)
        self.time([v for v in variants if v.failure is None])
        return variants, flops

    def count_flops(self) -> int:
        """Of matrix products, as the eager function issues them."""
        agent = make_agent(self.work, "eager", "fp32")
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
            agent = variant.agent = make_agent(self.work, variant.name, variant.precision)
            self.work.config = agent.config
            weights = snapshot(agent)
            function = build(self.work, variant.name, agent)
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


def attempt(variant: Variant, action: Callable[[], None]) -> None:
    """Run a part of a variant's measurement; whatever a compiler or a driver raises becomes the variant's row."""
    try:
        action()
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        kind = "" if isinstance(error, CheckError) else f"{type(error).__name__}: "
        variant.failure = (kind + first)[:300]
        variant.call, variant.agent, variant.seconds = None, None, []
