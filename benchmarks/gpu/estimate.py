"""What a plan costs on a card that nobody has asked: launches, bytes and FLOPs counted from recorded launches, and the
milliseconds that follow from a card's rates. Counts are exact; milliseconds are an *estimate*. And how many kernels an
update takes outside its plan.

    python benchmarks/gpu.py --estimate [--out benchmarks/results/gpu_estimate.json]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from unittest import mock

import torch

from gpu.kernels import count
from gpu.launches import Launch, recorded
from lsp_fast import backends
from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.kernels import imagine_heads
from lsp_fast.ops.types import PlanKey, State
from lsp_fast.planning.plan import plan

STARTS, DIMS = 2500, (78, 12)  # an update of the paper's sizes; quadruped's observations and actions


class Card(NamedTuple):
    """Rates of a card, from its vendor's tables; bandwidths are what copies reach, within a quarter."""

    tiles: str
    tflops: float  # dense bf16 products, 1e12 FLOP/s
    l2_gb_s: float  # from the L2 cache to the multiprocessors
    hbm_gb_s: float
    l2_mb: float


CARDS = {
    "A100": Card("small", 312, 4500, 1550, 40),
    "H100": Card("large", 989, 6500, 3350, 50),
    "H200": Card("large", 989, 6500, 4800, 50),
    "RTX 4090": Card("small", 165, 5000, 1000, 72),
}
LAUNCH_MS = 0.0025  # of a node in a replayed graph
REACHED = 0.7  # of a rate, where a kernel is bound by it


@dataclass(frozen=True)
class Cost:
    """Of some launches."""

    launches: int
    l2_bytes: int
    """From the L2 cache to the multiprocessors, and back: every tile's inputs and outputs."""
    hbm_bytes: int
    """From memory: of a launch's inputs and outputs together what exceeds the L2 cache, which keeps the rest from the
    launch before or for the next one."""
    multiplied: int
    """FLOPs of products, padding included."""
    ms: float
    """An estimate: each launch takes as long as the slowest of the three, at 70 % of the card's rate."""


def plan_launches(tiles: str, starts: int = STARTS) -> list[Launch]:
    """The launches of one plan of the `gpu` preset from so many states, with tiles of that kind; nothing is run."""
    config = make_config("gpu", device="cpu", backend="reference")
    agent = ImaginationAgent(*DIMS, config)
    agent.modules.to("meta")  # shapes alone
    with mock.patch.object(imagine_heads, "INTERPRETED", True):
        triton = backends.get("triton", "cpu")
    c, meta = config, {"device": "meta"}
    state = State(torch.empty(starts, c.model.stoch, **meta), torch.empty(starts, c.model.deter, **meta))
    key = torch.empty(2, dtype=torch.int64, **meta)
    p = c.planner
    noise = PlanKey(
        key, p.iterations, p.candidates, c.behavior.horizon, True, p.rollouts == "shared", p.rollouts == "mean"
    )
    with recorded() as found, mock.patch.object(imagine_heads, "card", lambda device: tiles):
        plan(state, agent.plan_weights(), noise, agent.planner.prior(state), agent.planner.rules, triton)
    return found


def cost(launches: Sequence[Launch], card: Card) -> Cost:
    """The sum over launches."""
    found = [_one(launch, card) for launch in launches]
    return Cost(
        len(found),
        sum(f.l2_bytes for f in found),
        sum(f.hbm_bytes for f in found),
        sum(f.multiplied for f in found),
        sum(f.ms for f in found),
    )


def useful_flops(starts: int = STARTS) -> int:
    """FLOPs of a plan's products without any padding."""
    c = make_config("gpu")
    agent = ImaginationAgent(*DIMS, make_config("gpu", device="cpu", backend="reference"))
    w = agent.plan_weights()
    assert w.actor is not None
    steps = [*w.actor.mlp.hidden, w.actor.mlp.out, w.prior.inp, w.prior.hidden, w.prior.out]
    a_step = (
        sum(layer.weight.numel() for layer in steps) + w.prior.gru.weight_ih.numel() + w.prior.gru.weight_hh.numel()
    )
    a_state = sum(layer.weight.numel() for head in w.heads for layer in (*head.hidden, head.out))
    rollouts = starts * c.planner.candidates * c.planner.iterations * c.behavior.horizon
    return 2 * rollouts * (a_step + a_state)


def _one(launch: Launch, card: Card) -> Cost:
    a = launch.arguments
    programs = 1
    for n in launch.grid:
        programs *= n
    if launch.kernel not in ("linear", "gru", "sample"):
        # What it reads and writes, once.
        size = sum(x.numel() * x.element_size() for x in launch.tensors.values())
        return _timed(size, max(size - int(card.l2_mb * 1e6), 0), 0, card)
    rows, element = a["M"], a["x"].element_size()
    height = launch.grid[-1] * rows
    if launch.kernel == "sample":
        columns, passes, k = 2 * a["WIDTH"], 1, a["K"]
        seen, weights, written = k, columns * k, a["WIDTH"] * element + 4 * a["width"]  # and the noise
    else:
        passes = launch.grid[0]
        covered = (passes - 1) * a["N"] + a["LAST"] + a["SIDE"]
        if launch.kernel == "gru":
            # A tile beside the last one of the GRU reads its inputs by itself.
            beside = a["SIDE"] > 0 and a["LAST"] + a["SIDE"] != a["N"]
            k, columns, passes = a["K_X"] + a["K_H"], 3 * covered, passes + beside
            written = covered * (element + 8)  # the state in fp32 is read and written
        else:
            k, columns = a["K"], covered
            written = 4 * passes if a["HEAD"] else covered * element
        seen, weights = k, columns * k
    l2 = height * passes * seen * element + launch.grid[-1] * weights * element + height * written
    # Programs of one row of tiles follow one another, so that inputs come from memory once at most.
    hbm = max(height * (seen * element + written) - int(card.l2_mb * 1e6), 0)
    return _timed(l2, hbm, 2 * height * columns * k, card)


def _timed(l2: int, hbm: int, multiplied: int, card: Card) -> Cost:
    seconds = max(l2 / (card.l2_gb_s * 1e9), hbm / (card.hbm_gb_s * 1e9), multiplied / (card.tflops * 1e12)) / REACHED
    return Cost(1, l2, hbm, multiplied, 1e3 * seconds + LAUNCH_MS)


BARS = {"l2_gb": 80.0, "hbm_gb_an_iteration": 3.5, "multiplied_by_useful": 1.15}
"""For 2500 starts on a card of compute capability 9.0."""
BEFORE = {"l2_gb": 170.0, "hbm_gb_an_iteration": 11.5, "multiplied_by_useful": 1.33}
"""As an expert counted before there were these tiles."""


UPDATE_BAR = 900
"""Kernels of an update outside its plan, at most."""
UPDATES = {
    "PyTorch": ("reference", "steps"),
    "PyTorch, `--train.observe scan`": ("reference", "scan"),
    "Triton, `--train.observe steps`": ("triton", "steps"),
    "Triton": ("triton", "auto"),
}
"""Who learns, by backend and `train.observe`; the last is what training takes."""


def update_kernels() -> dict[str, dict[str, int]]:
    """Kernels of an update outside its plan at the paper's sizes, by part."""
    found = {}
    for name, (backend, observe) in UPDATES.items():
        config = make_config("paper", device="cpu", backend="reference", train__observe=observe)
        parts = {part: counter.total for part, counter in count(config, 17, 6, backend).items()}
        found[name] = {**parts, "together": sum(parts.values())}
    return found


def report() -> dict[str, Any]:
    """For every card: counts, and the estimated milliseconds."""
    iterations, useful = make_config("gpu").planner.iterations, useful_flops()
    cards = {}
    for name, card in CARDS.items():
        found = cost(plan_launches(card.tiles), card)
        cards[name] = {
            **asdict(found),
            "l2_gb": found.l2_bytes / 1e9,
            "hbm_gb_an_iteration": found.hbm_bytes / iterations / 1e9,
            "multiplied_by_useful": found.multiplied / useful,
        }
    update = {"bar": UPDATE_BAR, "kernels": update_kernels()}
    return {
        "what": "estimate", "starts": STARTS, "useful_flop": useful, "bars": BARS, "before": BEFORE, "cards": cards,
        "update": update,
    }  # fmt: skip


def text(found: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"estimate, no card was asked: a bf16 plan from {found['starts']} states, {found['useful_flop'] / 1e12:.2f} "
        "useful TFLOP",
        f"{'':10} {'launches':>8} {'L2 GB':>7} {'HBM GB/it':>9} {'x useful':>8} {'est. ms':>8}",
    ]
    for name in ("before", "bars"):
        row = found[name]
        lines.append(
            f"{name:10} {'':8} {row['l2_gb']:7.1f} {row['hbm_gb_an_iteration']:9.2f} {row['multiplied_by_useful']:8.2f}"
        )
    for name, row in found["cards"].items():
        lines.append(
            f"{name:10} {row['launches']:8} {row['l2_gb']:7.1f} {row['hbm_gb_an_iteration']:9.2f} "
            f"{row['multiplied_by_useful']:8.3f} {row['ms']:8.1f}"
        )
    lines += ["", f"kernels of an update outside its plan, {found['update']['bar']} at most:"]
    lines += [f"{name:32} {row['together']:5}" for name, row in found["update"]["kernels"].items()]
    return "\n".join(lines)
