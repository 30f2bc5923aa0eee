"""Which peers there are, and what each one runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lsp_fast.backends import REFERENCE
from lsp_fast.planning.plan import plan
from peers.problem import problem

PEERS = {
    "eager, MKL's fast path": "eager_mkl",
    "torch.compile": "compile",
    "torch.compile, tuned": "compile_tuned",
    "JAX": "jax",
    "eager bf16": "eager_bf16",
    "torch.compile bf16": "compile_bf16",
    "JAX bf16": "jax_bf16",
}
"""Of plans: their names in the table, and their kinds."""
UPDATE_PEERS = {"torch.compile": "compile_update", "JAX": "jax_update"}
UPDATE_PEERS_BF16 = {"torch.compile bf16": "compile_update_bf16", "JAX bf16": "jax_update_bf16"}
"""Of updates; these plan in bf16."""


def function_of(kind: str, preset: str, starts: int | str, what: str = "lsp") -> Callable[[], Any]:
    """What a process of its own runs for `kind`: a plan, which returns the values [I, N, G] as a tensor or an array, or
    an update, which is compared with the reference's before it is handed out.

    Args:
        what: the algorithm that plans, or the part of an update.
    """
    if "update" in kind:
        return update_function_of(kind, preset, int(starts), what)
    return plan_function_of(kind, preset, int(starts), what)


def update_function_of(kind: str, preset: str, starts: int, part: str) -> Callable[[], Any]:
    """A part of an update."""
    precision = "bf16" if kind.endswith("bf16") else "fp32"
    if kind.startswith("jax"):
        from peers import jax_update as peer
    else:
        from peers import compiled_update as peer

    return peer.build(preset, starts, part, precision)


def plan_function_of(kind: str, preset: str, starts: int, algorithm: str) -> Callable[[], Any]:
    """A plan."""
    p = problem(preset, starts, algorithm)
    if kind.startswith("jax"):
        from peers import jax_plan

        return jax_plan.build(p, "bf16" if kind.endswith("bf16") else "fp32")
    if kind.endswith("bf16"):
        p = p.bf16()
    if kind.startswith("eager"):
        return lambda: plan(p.start, p.weights, p.noise, p.prior, p.rules, REFERENCE).values
    from peers import compiled_plan

    return compiled_plan.build(p, tuned=kind.endswith("tuned"))
