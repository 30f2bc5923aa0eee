"""A whole plan (CEM over skills), learning and acting: C++ beside PyTorch and JAX, in fp32 and in bf16."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from measure import Work
from peers.kinds import PEERS
from peers.problem import problem
from peers.process import Process, peer

from lsp_fast import backends
from lsp_fast.config import make_config
from lsp_fast.ops.types import PlanKey
from lsp_fast.planning.plan import plan


def works() -> Iterator[Work]:
    """Plans from 32 start states (learning, with sampled actions) and from one (acting in evaluation)."""
    for preset, starts in (("cpu", 32), ("cpu", 1), ("paper", 32), ("paper", 1)):
        yield plans(preset, starts)


def plans(preset: str, starts: int, algorithm: str = "lsp") -> Work:
    """The noise is drawn beforehand, but for the variant that draws its own."""
    p = problem(preset, starts, algorithm)
    cpp = backends.get("cpp")
    arguments = (p.start, p.weights, p.noise, p.prior)
    bf16 = p.rules._replace(precision="bf16")
    key = PlanKey(torch.tensor([1, 2]), *p.noise.candidates.shape[:3:2], p.noise.stoch.shape[1], starts > 1, False)
    variants = {
        "eager": partial(plan, *arguments, p.rules, backends.REFERENCE),
        "C++": partial(plan, *arguments, p.rules, cpp),
        "C++ bf16": partial(plan, *arguments, bf16, cpp),
        "C++ bf16, its own noise": partial(plan, p.start, p.weights, key, p.prior, bf16, cpp),
    }
    first = variants["eager"]().values[0]  # later ones follow the elites
    scale = first.abs().max()
    for name in ("C++", "C++ bf16"):
        error = (variants[name]().values[0] - first).abs().max() / scale
        assert error < (0.02 if "bf16" in name else 1e-4), f"{name} is off by {error}"
    missing: dict[str, str] = {}
    for name, kind in PEERS.items():
        found = peer(kind, preset, starts, algorithm)
        if isinstance(found, Process):
            error = (torch.tensor(found.values) - first).abs().max() / scale
            assert error < (0.1 if "bf16" in name else 1e-4), f"{name} is off by {error}"
            variants[name] = found
        else:
            missing[name] = found
    c, whose = make_config(preset, algorithm), "" if algorithm == "lsp" else f"{algorithm}, "
    cem = c.planner
    return Work(
        f"plan, {whose}{preset} preset, {starts} x {cem.candidates} x {c.behavior.horizon} x {cem.iterations}",
        "eager",
        variants,
        missing=missing,
        operations=p.operations,
    )
