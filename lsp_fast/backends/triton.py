"""The Triton kernels of planning behind the contracts of `lsp_fast.ops`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lsp_fast.kernels.imagine_heads import ImagineHeads
from lsp_fast.ops.imagine import check_imagine, check_imagine_actions
from lsp_fast.ops.types import ActorWeights, ImagineNoise, MLPWeights, PriorWeights, State, feature_dim


@torch.no_grad()
def pack_heads(
    prior: PriorWeights,
    actor: ActorWeights | None,
    heads: tuple[MLPWeights, ...],
    precision: str = "fp32",
    whole_rollout: bool = False,
) -> Callable[..., Tensor]:
    """`lsp_fast.ops.imagine_heads` of these weights: they are copied once, for the calls until they change. `pack` of
    what is returned copies them anew, into the same memory, so that a captured graph sees it.

    In `fp32` products are those of PyTorch: with torch.set_float32_matmul_precision("high") they multiply tf32. In
    `bf16` what is multiplied is rounded; sums, the deterministic state and everything elementwise stay in fp32.

    Args:
        whole_rollout: roll out at most 16 states in one kernel.

    Returns:
        imagine_heads(start, skills, skill_length, noise) -> [len(heads), H, N] float32.

    Raises:
        ValueError: an unknown precision, a head on more than features; from the function returned, shapes that do
            not fit.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision = {precision} is not one of fp32, bf16")
    for head in heads:
        if (width := head.input_dim) != feature_dim(prior):
            raise ValueError(
                f"a head of {width} inputs: the Triton kernels know heads on {feature_dim(prior)} features"
            )
    if precision == "fp32" and torch.get_float32_matmul_precision() != "highest":
        precision = "tf32"
    packed = ImagineHeads(prior, actor, heads, precision, whole_rollout)

    @torch.no_grad()
    def imagine_heads(start: State, skills: Tensor | None, skill_length: int, noise: ImagineNoise) -> Tensor:
        if actor is None:
            if skills is None:
                raise ValueError("there are neither an actor nor actions")
            check_imagine_actions(start, prior, skills, noise.stoch)
        else:
            check_imagine(start, prior, actor, skills, skill_length, noise)
        seen = skills if actor is None or skills is None else actor.scaled(skills)
        return packed(*start, seen, skill_length, noise.stoch, noise.action)

    imagine_heads.pack = packed.pack  # pyright: ignore[reportFunctionMemberAccess]
    return imagine_heads


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
    """`lsp_fast.ops.imagine_heads` in Triton; see `pack_heads`."""
    return pack_heads(prior, actor, heads, precision)(start, skills, skill_length, noise)
