"""The cross-entropy method for many independent states at once (SPEC section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lsp_fast.ops import select_elites as reference_select_elites


class CEMResult(NamedTuple):
    """The last distribution, and every iteration's candidates' values and elites (best first, -1 where absent)."""

    mean: Tensor  # [N, P, Z]
    std: Tensor  # [N, P, Z]
    values: Tensor  # [I, N, G]
    elites: Tensor  # [I, N, M] int64


def cem(
    score: Callable[[Tensor, int], Tensor],
    mean: Tensor,
    std: Tensor,
    noise: Tensor,
    num_elites: int,
    *,
    floor: float = 1e-6,
    std_min: float = 0.0,
    clip: float | None = None,
    select_elites: Callable[..., tuple[Tensor, Tensor, Tensor]] = reference_select_elites,
) -> CEMResult:
    """Refine a diagonal normal over plans towards those that score highest, for every state on its own.

    Args:
        score: (plans [N, G, P, Z], iteration) -> values [N, G].
        mean, std: [N, P, Z], the distribution to start from.
        noise: [I, N, G, P, Z] standard normal; I iterations of G candidates.
        num_elites: M.
        floor: added to the elites' variance.
        std_min: least standard deviation that an iteration ends with; 0 sets none.
        clip: bound of every coordinate of a candidate, applied before scoring and refitting; None leaves it open.
        select_elites: the backend's.
    """
    values, elites = [], []
    for iteration in range(noise.shape[0]):
        plans = mean[:, None] + std[:, None] * noise[iteration]
        if clip is not None:
            plans = plans.clamp(-clip, clip)
        value = score(plans, iteration)
        mean, std, chosen = select_elites(value, plans, num_elites, mean, std, floor)
        if std_min:
            std = std.clamp(min=std_min)
        values.append(value)
        elites.append(chosen)
    return CEMResult(mean, std, torch.stack(values), torch.stack(elites))
