"""Rollouts under the policy with the actor's gradient in Triton: one cooperative launch each way, whatever the number
of steps and layers (`kernels.imagine_passes`), and plain products for what no step waits for.

No gradient flows from the actor's input into the state, so that the actor's layers are no part of the way back: that is
a chain of the transition's products alone, which ends in the gradient of what the policy's last layer said in every
step. The actor's own gradients follow from these as those of any MLP, for all steps at once.

Forward keeps for each rollout and step what backward asks for: the actor's hidden layers, the transition's two, four
numbers for each unit of the GRU (its three gates and what the third one recalls), states, actions and slopes of
deviations: 3,100 numbers, or 12 KiB, at the paper's sizes, 340 MB for 2500 rollouts of 11 steps.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from . import imagine_heads, imagine_passes, mlp

INPUTS = 32  # a step of a product
REGISTERS = {"tf32": 255, "ieee": None}
"""A thread's at most. A program has a multiprocessor to itself; left to itself the assembler spills some for tf32, and
with as many for fp32."""


class Tile(NamedTuple):
    """What a program computes at a time."""

    rows: int
    columns: int  # of a layer
    gates: int  # columns of the GRU, which keeps four sums
    sampled: int  # rows of what is sampled
    warps: int
    stages: int


FEW, EXACT = Tile(16, 32, 16, 16, 4, 3), Tile(32, 32, 16, 16, 4, 2)
MANY = {
    # Forward and backward, by `imagine_heads.card`.
    "small": (Tile(64, 64, 16, 16, 8, 2), Tile(64, 32, 16, 16, 8, 2)),
    "large": (Tile(64, 64, 32, 16, 8, 3), Tile(64, 64, 32, 16, 8, 3)),
}
"""Larger ones would spill registers. EXACT is that of fp32, whose products take more of them."""


def tile(rows: int, card: str, precision: str, back: bool) -> Tile:
    """For so many rollouts on such a card, backward or forward, in that precision of tl.dot."""
    if precision == "ieee":
        return EXACT
    return FEW if rows <= 1000 else MANY[card][back]


class Kept(NamedTuple):
    """What `forward` found, H steps of N rollouts; time comes first."""

    flat: Tensor  # all weights, rounded where products are tf32's, then all biases
    stoch: Tensor  # [H + 1, N, S], the start first
    deter: Tensor  # [H + 1, N, D]
    actions: Tensor  # [H, N, A]
    mean: Tensor
    std: Tensor
    policy_slope: Tensor  # of the deviation by its raw output, [H, N, A]
    stoch_slope: Tensor  # the same times the noise, [H, N, S]
    entering: Tensor  # elu(.) before the GRU, [H, N, .]
    gates: Tensor  # reset, update, candidate and what it recalls, [H, N, 4 D]
    leaving: Tensor  # elu(.) after it
    hidden: Tensor  # the actor's layers one after the other, each [H, N, .]


class Networks:
    """Where weights lie in `flat`, and how wide layers are.

    Args:
        prior, actor: weight tuples; the actor has a hidden layer at least.
    """

    def __init__(self, prior: Any, actor: Any) -> None:
        self.layers = [*actor.mlp.hidden, actor.mlp.out]
        gru = prior.gru
        others = [prior.inp, (gru.weight_ih, gru.bias_ih), (gru.weight_hh, gru.bias_hh), prior.hidden, prior.out]
        weights, biases = zip(*self.layers, *others, strict=True)
        self._tensors = [x.detach().reshape(-1) for x in (*weights, *biases)]
        ends = [0]
        for x in self._tensors:
            ends.append(ends[-1] + x.numel())
        at_weights, at_biases = ends[: len(weights)], ends[len(weights) : -1]
        names = "POLICY", "INP", "I", "H", "HIDDEN", "OUT"
        depth = len(self.layers) - 1
        self.weights: dict[str, Any] = {f"W_{name}": at for name, at in zip(names, at_weights[depth:], strict=True)}
        self.biases = {f"B_{name}": at for name, at in zip(names, at_biases[depth:], strict=True)}
        self.units = tuple(len(layer.weight) for layer in self.layers[:-1])
        s, d = len(prior.out.weight) // 2, gru.weight_hh.shape[1]
        a = prior.inp.weight.shape[1] - s
        self.sizes = {"S": s, "A": a, "D": d, "INP": len(prior.inp.weight), "HIDDEN": len(prior.hidden.weight)}
        self.sizes |= {"S_WIDTH": max(16, triton.next_power_of_2(s)), "A_WIDTH": max(16, triton.next_power_of_2(a))}
        self.actor: dict[str, Any] = {
            "W": tuple(at_weights[:depth]),
            "B": tuple(at_biases[:depth]),
            "UNITS": self.units,
        }
        self.actor |= {
            "W_POLICY": self.weights.pop("W_POLICY"),
            "LAYERS": depth,
            "SEEN": self.layers[0].weight.shape[1],
        }
        self.limits = actor.mean_scale, actor.init_std + math.log(-math.expm1(-actor.init_std))
        self.min_stds = prior.min_std, actor.min_std

    def flat(self) -> Tensor:
        """A copy of all of them, as they are now."""
        return torch.cat(self._tensors)

    def actor_weights(self, flat: Tensor) -> list[Tensor]:
        """The actor's matrices in such a copy."""
        at = (*self.actor["W"], self.actor["W_POLICY"])
        shapes = [layer.weight.shape for layer in self.layers]
        return [flat[i : i + shape.numel()].view(shape) for i, shape in zip(at, shapes, strict=True)]


def programs(device: torch.device) -> int:
    """How many can run at once: one on each multiprocessor does. The interpreter runs one after another, of which only
    a single one never waits."""
    if imagine_heads.INTERPRETED:
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def _launch(
    kernel: Any, networks: Networks, rows: int, device: torch.device, arguments: tuple, **constants: Any
) -> None:  # fmt: skip
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    back = kernel is imagine_passes.backward
    m, n, gates, sampled, warps, stages = tile(rows, imagine_heads.card(device), precision, back)
    widest = max(*networks.units, *(networks.sizes[name] for name in ("INP", "HIDDEN", "D")))
    grid = min(programs(device), triton.cdiv(rows, m) * triton.cdiv(widest, n))
    options = {} if imagine_heads.INTERPRETED else {"launch_cooperative_grid": True}
    kernel[(grid,)](
        *arguments, **networks.weights, **networks.sizes, **constants, M=m, N=n, GATES=gates, SAMPLED=sampled,
        BLOCK_K=INPUTS, PRECISION=precision,
        num_warps=warps, num_stages=stages, maxnreg=REGISTERS[precision], enable_fp_fusion=True, **options,
    )  # fmt: skip


def forward(
    networks: Networks, stoch: Tensor, deter: Tensor, skills: Tensor | None, skill_length: int,
    noise: Tensor, action_noise: Tensor | None,
) -> Kept:  # fmt: skip
    """Roll out. Arguments are those of `lsp_fast.ops.imagine`, float32, checked by the caller."""
    (steps, n), device, sizes = noise.shape[:2], stoch.device, networks.sizes
    s, a, d = sizes["S"], sizes["A"], sizes["D"]

    def empty(*width: int) -> Tensor:
        return torch.empty(steps, n, *width, device=device)

    stochs, deters = torch.empty(steps + 1, n, s, device=device), torch.empty(steps + 1, n, d, device=device)
    stochs[0].copy_(stoch)
    deters[0].copy_(deter)
    first = networks.layers[0]
    held, periods, period, stride = first.bias, 1, 0, 0
    if skills is not None:
        # The skill's share of the actor's first layer is the same as long as the skill is held.
        held = F.linear(skills, first.weight[:, s + d :], first.bias)
        periods, (period, stride) = len(skills), held.stride()[:2]
    kept = Kept(
        networks.flat(), stochs, deters, *(empty(a) for _ in range(4)), empty(s), empty(sizes["INP"]), empty(4 * d),
        empty(sizes["HIDDEN"]), torch.empty(steps * n * sum(networks.units), device=device),
    )  # fmt: skip
    _launch(
        imagine_passes.forward, networks, n, device,
        (
            kept.flat, held.detach(), period, stride, skill_length, periods, stochs, deters, noise.contiguous(),
            None if action_noise is None else action_noise.contiguous(), kept.hidden, kept.entering, kept.gates,
            kept.leaving, kept.stoch_slope, kept.actions, kept.mean, kept.std, kept.policy_slope,
            torch.zeros(1, dtype=torch.int32, device=device), steps, n, *networks.min_stds, *networks.limits,
        ),
        **networks.actor, **networks.biases,
    )  # fmt: skip
    return kept


def backward(
    networks: Networks, kept: Kept, gradients: tuple[Tensor | None, ...], skills: Tensor | None, skill_length: int,
    action_noise: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the actor's weights and biases in turns, from those of stoch, deter, actions, mean and std
    [H, N, .], where there are some."""
    (steps, n, a), device, sizes = kept.actions.shape, kept.flat.device, networks.sizes
    s, d = sizes["S"], sizes["D"]

    def empty(width: int) -> Tensor:
        return torch.empty(n, width, device=device)

    d_policy = torch.empty(steps * n, 2 * a, device=device)
    given = [None if g is None else _rows(g) for g in gradients]
    _launch(
        imagine_passes.backward, networks, n, device,
        (
            kept.flat, *(part for g in given for part in (g, 0 if g is None else g.stride(0))), kept.deter,
            None if action_noise is None else action_noise.contiguous(), kept.entering, kept.gates, kept.leaving,
            kept.stoch_slope, kept.actions, kept.mean, kept.policy_slope, empty(sizes["HIDDEN"]), empty(4 * d),
            empty(sizes["INP"]), empty(s), empty(d), d_policy, torch.zeros(1, dtype=torch.int32, device=device),
            steps, n, networks.limits[0],
        ),
    )  # fmt: skip
    seen = [kept.stoch[:-1], kept.deter[:-1]]
    if skills is not None:
        # One by one: indexing with a list would copy the list to the device.
        seen.append(torch.stack([skills[min(t // skill_length, len(skills) - 1)] for t in range(steps)]))
    x = torch.cat(seen, -1).flatten(0, 1)
    hidden = [y.view(steps * n, -1) for y in kept.hidden.split([steps * n * u for u in networks.units])]
    return mlp.backward(d_policy, x, hidden, networks.actor_weights(kept.flat), True, False, True)[1]


def _rows(g: Tensor) -> Tensor:
    """[H, N, .] as [H N, .] whose numbers follow one another."""
    flat = g.reshape(-1, g.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()
