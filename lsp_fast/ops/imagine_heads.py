"""Imagining without gradients for what scalar heads say of it: contract and plain PyTorch reference."""

from __future__ import annotations

import torch
from torch import Tensor

from lsp_fast.ops import layers
from lsp_fast.ops.imagine import check_imagine, imagine
from lsp_fast.ops.types import ActorWeights, ImagineNoise, MLPWeights, PriorWeights, State, features


@torch.no_grad()
def imagine_heads(
    start: State,
    prior: PriorWeights,
    actor: ActorWeights,
    skills: Tensor | None,
    skill_length: int,
    noise: ImagineNoise,
    heads: tuple[MLPWeights, ...],
) -> Tensor:
    """Imagine H steps from every start state and apply scalar heads to each imagined state: planning's inner loop.

    Args:
        start, prior, actor, skills, skill_length, noise: as `lsp_fast.ops.imagine` takes them; N start states.
        heads: MLPs of one output on features [s, h], such as reward and value.

    Returns:
        [len(heads), H, N], without gradients.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_imagine(start, prior, actor, skills, skill_length, noise)
    feature = features(imagine(start, prior, actor, skills, skill_length, noise).states)  # [H, N, F]
    return torch.stack([layers.scalar_head(feature, head) for head in heads])
