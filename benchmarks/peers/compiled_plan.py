"""A plan by torch.compile: an iteration's rollouts and their value are one graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsp_fast import backends
from lsp_fast.ops.types import ImagineNoise
from lsp_fast.planning.cem import cem
from lsp_fast.planning.plan import score_plans


class Score(nn.Module):
    """`score_plans` with the weights as its parameters, which freezing needs."""

    def __init__(self, problem) -> None:
        super().__init__()
        self.rules = problem.rules
        self.parts = nn.ParameterList()
        self.layout = self._register(problem.weights)

    def _register(self, x):
        if isinstance(x, Tensor):
            self.parts.append(nn.Parameter(x, requires_grad=False))
            return len(self.parts) - 1
        if isinstance(x, tuple):
            return type(x), [self._register(y) for y in x]
        return float(x) if x is not None else None

    def _weights(self, layout):
        if isinstance(layout, int):
            return self.parts[layout]
        if isinstance(layout, tuple):
            kind, parts = layout
            built = [self._weights(y) for y in parts]
            return kind(*built) if hasattr(kind, "_fields") else tuple(built)
        return layout

    def forward(self, start, plans: Tensor, stoch: Tensor, action: Tensor | None) -> Tensor:
        weights = self._weights(self.layout)
        return score_plans(start, plans, weights, ImagineNoise(stoch, action), self.rules, backends.REFERENCE)


def build(problem, tuned: bool):
    """A function of no arguments that plans; `tuned` freezes the weights and tries what max-autotune has."""
    score = Score(problem)
    compiled = torch.compile(score, dynamic=False, **({"mode": "max-autotune"} if tuned else {}))

    @torch.no_grad()
    def run() -> Tensor:
        noise, rules = problem.noise, problem.rules
        result = cem(
            lambda plans, i: compiled(
                problem.start, plans, noise.stoch[i], None if noise.action is None else noise.action[i]
            ),
            *problem.prior,
            noise.candidates,
            rules.num_elites,
            floor=rules.floor,
            clip=rules.clip,
        )
        return result.values

    if not tuned:
        return run
    import torch._inductor.config as inductor

    def frozen() -> Tensor:
        with inductor.patch(freezing=True):
            return run()

    return frozen
