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
"""Their names in the table, and their kinds."""


def function_of(kind: str, preset: str, starts: int | str, algorithm: str = "lsp") -> Callable[[], Any]:
    """What a process of its own runs for `kind`: it returns the values [I, N, G] as a tensor or an array."""
    p = problem(preset, int(starts), algorithm)
    if kind.startswith("jax"):
        from peers import jax_plan

        return jax_plan.build(p, "bf16" if kind.endswith("bf16") else "fp32")
    if kind.endswith("bf16"):
        p = p.bf16()
    if kind.startswith("eager"):
        return lambda: plan(p.start, p.weights, p.noise, p.prior, p.rules, REFERENCE).values
    from peers import compiled_plan

    return compiled_plan.build(p, tuned=kind.endswith("tuned"))
