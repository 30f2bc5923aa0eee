"""Planning's rollouts: C++ beside eager PyTorch on the same work, one run, samples taken in turns.

python benchmarks/bench_imagine_heads.py [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from learning import machine

from lsp_fast import native, ops
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.ops.types import ImagineNoise, State


def measure(preset: str, starts: int, threads: int, samples: int = 7) -> dict:
    """Milliseconds of one iteration's rollouts from `starts` states, after a check that both agree."""
    torch.set_num_threads(threads)
    agent = ImaginationAgent(17, 6, make_config(preset, device="cpu", backend="reference"))
    c, w = agent.config, agent.plan_weights()
    rows, steps = starts * c.planner.candidates, c.behavior.horizon
    start = State(torch.randn(rows, c.model.stoch), torch.randn(rows, c.model.deter).tanh())
    noise = ImagineNoise(torch.randn(steps, rows, c.model.stoch), torch.randn(steps, rows, 6))
    arguments = (start, w.prior, w.actor, torch.randn(1, rows, 3), c.skill.length, noise, (w.reward, w.value))
    variants = {"eager": ops.imagine_heads, "cpp": native.imagine_heads}
    torch.testing.assert_close(variants["cpp"](*arguments), variants["eager"](*arguments), rtol=1e-3, atol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(samples):
        for name, function in variants.items():
            began = time.perf_counter()
            function(*arguments)
            times[name].append(1e3 * (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in times.items()}
    layers = [w.prior.inp, w.prior.hidden, w.prior.out, *w.actor.mlp.hidden, w.actor.mlp.out]
    layers += [layer for head in (w.reward, w.value) for layer in (*head.hidden, head.out)]
    multiply_adds = sum(layer.weight.numel() for layer in layers)
    multiply_adds += w.prior.gru.weight_ih.numel() + w.prior.gru.weight_hh.numel()
    gflop = 2e-9 * multiply_adds * rows * steps
    return {
        "preset": preset,
        "starts": starts,
        "threads": threads,
        **{f"{name}_ms": round(value, 3) for name, value in medians.items()},
        "ratio": round(medians["eager"] / medians["cpp"], 2),
        "cpp_gflop_per_s": round(1e3 * gflop / medians["cpp"], 1),
        "samples": samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [measure(p, n, t) for p, n in (("cpu", 32), ("cpu", 1), ("paper", 32), ("paper", 1)) for t in (1, 2)]
    print(f"{'preset':8}{'starts':>7}{'threads':>8}{'eager ms':>10}{'C++ ms':>9}{'ratio':>7}{'GFLOP/s':>9}")
    for r in rows:
        print(
            f"{r['preset']:8}{r['starts']:7}{r['threads']:8}{r['eager_ms']:10.2f}{r['cpp_ms']:9.2f}{r['ratio']:7.2f}"
            f"{r['cpp_gflop_per_s']:9.1f}"
        )
    if options.out:
        options.out.write_text(json.dumps({**machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
