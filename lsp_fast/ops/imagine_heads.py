"""Imagining without gradients for what scalar heads say of it: contract and plain PyTorch reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsp_fast.ops import layers
from lsp_fast.ops.imagine import held_skills, imagine, imagine_actions
from lsp_fast.ops.types import ActorWeights, ImagineNoise, MLPWeights, PriorWeights, State, features


@torch.no_grad()
def imagine_heads(
    start: State,
    prior: PriorWeights,
    actor: ActorWeights | None,
    skills: Tensor | None,
    skill_length: int,
    noise: ImagineNoise,
    heads: tuple[MLPWeights, ...],
    precision: str = "fp32",
) -> Tensor:
    """Imagine H steps from every start state and apply scalar heads to each imagined state: planning's inner loop.

    Args:
        start, prior, actor, skills, skill_length, noise: as `lsp_fast.ops.imagine` takes them; N start states. Without
            an actor `skills` [P, N, A] are the actions, each held `skill_length` steps, the last one to the end.
        heads: MLPs of one output on features [s, h], such as reward and value; or (in the reference alone) on
            [s, h, z], with the skill held in the state: the one that acts in it, not the one that led to it.
        precision: `fp32` computes in the tensors' own dtype. `bf16` is PyTorch's: weights, states and noise are rounded
            to bfloat16 and all is computed in it. Native backends round what matrix products multiply, and keep sums,
            states and everything elementwise in fp32.

    Returns:
        [len(heads), H, N], without gradients, in the dtype of `start`.

    Raises:
        ValueError: shapes that do not fit, an unknown precision.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision = {precision} is not one of fp32, bf16")
    dtype = start.stoch.dtype
    if precision == "bf16":
        start, prior, actor, skills, noise, heads = (as_bf16(x) for x in (start, prior, actor, skills, noise, heads))
    if actor is None:
        if skills is None:
            raise ValueError("there are neither an actor nor actions")
        actions = held_skills(skills, skill_length, len(noise.stoch))
        states = imagine_actions(start, prior, actions, noise.stoch)
    else:
        states = imagine(start, prior, actor, skills, skill_length, noise).states
    feature = features(states)  # [H, N, F]
    if not heads:
        return feature.new_zeros(0, *feature.shape[:2], dtype=dtype)

    def seen(head: MLPWeights) -> Tensor:
        width = feature.shape[-1]
        if head.input_dim == width:
            return feature
        if actor is None or skills is None or head.input_dim != width + skills.shape[-1]:
            raise ValueError(f"a head of {head.input_dim} inputs sees neither {width} features nor a skill beside them")
        held = held_skills(skills, skill_length, len(feature) + 1)[1:]  # [H, N, Z]; the start is not judged
        return torch.cat([feature, held], -1)

    return torch.stack([layers.scalar_head(seen(head), head) for head in heads]).to(dtype)


def as_bf16(x: Any) -> Any:
    """Nested tuples of tensors, each rounded to bfloat16; numbers and None stay."""
    if isinstance(x, tuple):
        parts = [as_bf16(y) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x.bfloat16() if isinstance(x, Tensor) else x
