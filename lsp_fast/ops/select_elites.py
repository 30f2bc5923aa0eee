"""Choosing a population's best and refitting its distribution: contract and plain PyTorch reference."""

from __future__ import annotations

import torch
from torch import Tensor


def select_elites(
    values: Tensor, plans: Tensor, num_elites: int, mean: Tensor, std: Tensor, floor: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the best plans of every state and refit a diagonal normal to them (SPEC section 4).

    Args:
        values: [N, G], what each candidate is worth. Ties go to the lower index; infinities are ordinary values; a NaN
            is never an elite. With fewer than M candidates that are not NaN those there are count.
        plans: [N, G, P, Z], the candidates.
        num_elites: M, 1 <= M <= G.
        mean, std: [N, P, Z], the distribution so far, kept where a state has no elite.
        floor: added to the population variance under the root.

    Returns:
        mean, std: [N, P, Z]; indices: [N, M] int64, best first, -1 where absent.

    Raises:
        ValueError: shapes that do not fit, or M out of range.
    """
    check_select_elites(values, plans, num_elites, mean, std)
    is_number = ~values.isnan()  # [N, G]
    # A stable sort on (is a number, value), least significant key first, keeps the lower index first among equals.
    order = values.nan_to_num(0.0, torch.inf, -torch.inf).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, is_number.gather(1, order).to(torch.uint8).argsort(dim=1, descending=True, stable=True))
    indices = order[:, :num_elites]  # [N, M]
    present = is_number.gather(1, indices)  # [N, M]
    elites = plans.gather(1, indices[:, :, None, None].expand(-1, -1, *plans.shape[2:]))  # [N, M, P, Z]
    mask = present[:, :, None, None]
    count = present.sum(1).clamp(min=1)[:, None, None]
    new_mean = torch.where(mask, elites, 0).sum(1) / count
    new_var = torch.where(mask, (elites - new_mean[:, None]) ** 2, 0).sum(1) / count
    any_elite = present.any(1)[:, None, None]
    return (
        torch.where(any_elite, new_mean, mean),
        torch.where(any_elite, (new_var + floor).sqrt(), std),
        torch.where(present, indices, -1),
    )


def check_select_elites(values: Tensor, plans: Tensor, num_elites: int, mean: Tensor, std: Tensor) -> None:
    """Raise ValueError unless the shapes are those of the contract."""
    if values.dim() != 2 or plans.dim() != 4 or plans.shape[:2] != values.shape:
        raise ValueError(
            f"select_elites needs values [N, G] and plans [N, G, P, Z], not {tuple(values.shape)} and "
            f"{tuple(plans.shape)}"
        )
    wanted = (plans.shape[0], *plans.shape[2:])
    if tuple(mean.shape) != wanted or tuple(std.shape) != wanted:
        raise ValueError(
            f"select_elites needs mean and std of shape {wanted}, not {tuple(mean.shape)} and {tuple(std.shape)}"
        )
    if not 1 <= num_elites <= values.shape[1]:
        raise ValueError(f"num_elites = {num_elites}: must lie in 1 .. {values.shape[1]}, the number of candidates")
