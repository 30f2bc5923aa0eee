"""One whole training update (world model, planning, behaviour), its world model alone, and its behaviour alone: C++
beside PyTorch and JAX."""

from __future__ import annotations

from collections.abc import Iterator

from measure import Work
from operations import update_operations
from peers.kinds import UPDATE_PEERS, UPDATE_PEERS_BF16
from peers.problem import DIMS
from peers.process import Process, peer
from peers.update_problem import agent_of, compare, expected, function_of_part

from lsp_fast.config import make_config

BF16 = {
    "C++ bf16": {"backend": "cpp", "planner__precision": "bf16"},
    "C++ all bf16": {"backend": "cpp", "planner__precision": "bf16", "train__precision": "bf16"},
}
"""Of the whole update: plans in bf16; and learning, too, where the processor has an instruction for it."""
VARIANTS = {"reference": {"backend": "reference"}, "C++": {"backend": "cpp", "planner__precision": "fp32"}}
"""Of every part."""


def works(peers: bool = True) -> Iterator[Work]:
    """The cpu preset's update; and the paper's, which would plan from 2500 states, from 32 of them."""
    for preset, starts in (("cpu", 32), ("paper", 32)):
        t = make_config(preset).train
        of = "" if preset == "cpu" else f" (of {t.batch_size * t.batch_length})"
        yield work(f"update, {preset} preset, plans from {starts}{of} states", preset, starts, "update", peers)
        for part, name in (("world_model", "world model"), ("behavior", "behaviour")):
            yield work(f"update of the {name} alone, {preset} preset", preset, starts, part, peers)


def work(name: str, preset: str, starts: int, part: str, peers: bool) -> Work:
    """From one batch of random sequences; behaviour alone from given states and plans. All draw their own noise; what
    is compared before has the reference's."""
    native = agent_of(preset, starts, **VARIANTS["C++"], planner__noise="tensors")
    compare(native, function_of_part(native, part, starts), part, expected(preset, starts, part))
    variants, missing = {}, {}
    for variant, overrides in (VARIANTS | BF16 if part == "update" else VARIANTS).items():
        if "train__precision" in overrides and native.backend.bf16_learner is None:
            missing[variant] = "no instruction multiplies bf16"
            continue
        variants[variant] = function_of_part(agent_of(preset, starts, **overrides), part, starts)
    kinds = UPDATE_PEERS | UPDATE_PEERS_BF16 if part == "update" else UPDATE_PEERS
    for variant, kind in (kinds if peers else {}).items():
        if preset == "paper" and "torch.compile" in variant:
            missing[variant] = "compiling the paper's sizes takes many minutes a part"
            continue
        found = peer(kind, preset, starts, part)
        if isinstance(found, Process):
            variants[variant] = found
        else:
            missing[variant] = found
    operations = update_operations(make_config(preset, behavior__plan_states=starts), *DIMS)[part]
    mixed = [*BF16, *UPDATE_PEERS_BF16]
    return Work(name, "reference", variants, missing=missing, operations=operations, mixed=mixed)
