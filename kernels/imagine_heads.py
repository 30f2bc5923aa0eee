"""Planning's inner loop in Triton: rollouts of the world model under the policy, and heads on every imagined state.

A state and what surrounds it lie in one row [action, stoch, deter, skill], each part padded to 16 numbers, so that the
input of the transition, of the actor and of the heads is a window of the row and nothing is ever concatenated. There is
such a row for every rollout and step: the heads, which are 43 % of the arithmetic, see all steps at once afterwards.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import layers
from .layers import INPUTS
from .rollout import ROWS, rollout

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FEW_INPUTS = 16  # what few inputs of a layer are padded to: half a step of a product


class Tile(NamedTuple):
    """How much of a product a program computes, in steps of INPUTS, with how many warps and pipeline stages."""

    rows: int
    columns: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """Of a linear layer, of the GRU, which keeps four sums, and of a layer that is sampled from, all in one tile."""

    linear: Tile
    gru: Tile
    sample: Tile


class Size(NamedTuple):
    """Tiles for up to so many rollouts, by what products multiply (ieee is fp32)."""

    rows: float
    bf16: Tiles
    tf32: Tiles
    ieee: Tiles


# For a few rollouts many small programs, for many large ones, which read less.
_FEW = Size(
    64,
    Tiles(Tile(16, 32, 4, 6), Tile(16, 32, 4, 4), Tile(16, 0, 4, 6)),
    Tiles(Tile(16, 32, 4, 4), Tile(16, 32, 4, 3), Tile(16, 0, 4, 4)),
    Tiles(Tile(16, 32, 4, 3), Tile(16, 32, 4, 2), Tile(16, 0, 4, 3)),
)
_SOME = Size(
    2000,
    Tiles(Tile(32, 32, 4, 5), Tile(32, 32, 4, 4), Tile(32, 0, 4, 5)),
    Tiles(Tile(32, 32, 4, 4), Tile(32, 32, 4, 3), Tile(32, 0, 4, 3)),
    Tiles(Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 0, 4, 2)),
)
_MANY = Size(
    math.inf,
    Tiles(Tile(128, 64, 4, 4), Tile(64, 32, 4, 4), Tile(128, 0, 4, 4)),
    Tiles(Tile(128, 64, 4, 3), Tile(64, 32, 4, 3), Tile(128, 0, 4, 3)),
    Tiles(Tile(64, 32, 4, 2), Tile(32, 32, 4, 2), Tile(64, 0, 4, 2)),
)
_LARGE = _MANY._replace(
    bf16=Tiles(Tile(256, 128, 8, 4), Tile(128, 64, 8, 4), Tile(256, 0, 8, 4)),
    tf32=Tiles(Tile(256, 64, 8, 3), Tile(64, 32, 4, 3), Tile(128, 0, 4, 3)),
)
TILES = {
    "small": (_FEW, _SOME, _MANY),  # the 99 KiB of shared memory that the smallest cards have
    # Compute capability 9.0 and 10.0: 227 KiB, and products that read both factors from there.
    "large": (_FEW, _SOME, _LARGE),
}
WIDTHS = (32, 64, 128)  # columns of any tile above


def card(device: torch.device) -> str:
    """The row of TILES for a device."""
    return "large" if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10) else "small"


def tiles(rows: int, kind: str, of: str = "small") -> Tiles:
    """For so many rollouts on such a card."""
    return getattr(next(size for size in TILES[of] if rows <= size.rows), kind)


class Spread(NamedTuple):
    """How a layer's outputs are dealt out: programs of N columns, but the last of `last` and `side` more."""

    programs: int
    last: int
    side: int


def spread(columns: int, n: int) -> Spread:
    """Tiles of n columns and powers of two that cover `columns`, a multiple of 16."""
    full, rest = divmod(columns, n)
    if not rest:
        return Spread(full, n, 0)
    wide = 1 << (rest.bit_length() - 1)
    beside = triton.next_power_of_2(rest - wide) if rest > wide else 0
    if wide + beside == n:
        return Spread(full + 1, n, 0)
    # So little beside a whole tile is no reason for reading all inputs once more.
    return Spread(full, n, wide) if full and not beside else Spread(full + 1, wide, beside)


def outputs(size: int) -> int:
    """Columns that a layer of so many outputs is kept with: whatever its tiles, they lie within."""
    columns = padded(size)
    found = ((spread(columns, n), n) for n in WIDTHS)
    return max((s.programs - 1) * n + s.last + s.side for s, n in found)


def rounded(x: Tensor, bits: int) -> Tensor:
    """fp32 numbers without their last bits, to the nearest, ties to even; with 0 bits as they are."""
    if not bits:
        return x
    word = x.float().view(torch.int32)
    word = word + ((1 << (bits - 1)) - 1) + ((word >> bits) & 1)
    return torch.where(x.isnan(), x, ((word >> bits) << bits).view(torch.float32))


def padded(size: int, to: int = 16) -> int:
    return -(-size // to) * to


class Layer(NamedTuple):
    """A linear layer as kernels read it."""

    weight: Tensor  # [blocks * lines, K], padded
    bias: Tensor  # [blocks * lines] fp32
    columns: int  # of a block, its outputs in whole sixteens


class Head(NamedTuple):
    """An MLP with one output."""

    hidden: tuple[Layer, ...]
    out: Tensor  # [columns] fp32, the last layer's weights
    bias: Tensor  # [1] fp32


class Part(NamedTuple):
    """Inputs of a layer that follow one another."""

    first: int
    size: int
    to: int
    """Where they lie in what the layer is read from."""


class Widths(NamedTuple):
    """Numbers of each part of a row."""

    action: int
    stoch: int
    deter: int
    skill: int

    def begin(self, part: str) -> int:
        """The column where a part begins."""
        return sum(padded(self[i]) for i in range(self._fields.index(part)))

    @property
    def row(self) -> int:
        """Numbers in a row: a window of whole blocks fits from wherever a part begins."""
        inputs = padded(self.begin("skill") + padded(self.skill) - self.begin("stoch"), INPUTS)
        transition = padded(self.begin("deter"), FEW_INPUTS)
        return max(self.begin("stoch") + inputs, self.begin("deter") + padded(self.deter, INPUTS), transition)


class Packer:
    """Copies weights into padded zeros, all of them at once in the end."""

    def __init__(self, precision: str, device: torch.device) -> None:
        bf16 = precision == "bf16"
        self.dtype = torch.bfloat16 if bf16 and not INTERPRETED else torch.float32
        self.round = 13 if precision == "tf32" else 16 if bf16 and INTERPRETED else 0
        self.device = device
        self._into: list[Tensor] = []
        self._what: list[tuple[Tensor, int]] = []  # and how many bits are rounded away

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def put(self, into: Tensor, what: Tensor, bits: int = 0) -> None:
        self._into.append(into)
        self._what.append((what.detach(), bits))

    def layer(
        self, weight: Tensor, bias: Tensor, parts: Sequence[Part] = (), blocks: int = 1, lines: int = 0,
        step: int = INPUTS, into: Layer | None = None,
    ) -> Layer:  # fmt: skip
        """A layer of the network as kernels read it.

        Args:
            parts: of the input, and where they lie in what it is read from; by default it lies there as it is.
            blocks: the outputs are so many blocks of one size, each of `lines` rows with its padding; by default so
                many as any tiles need.
            step: inputs are padded to its multiples.
            into: zeros to use.
        """
        parts = parts or [Part(0, weight.shape[1], 0)]
        size = len(weight) // blocks
        rows, k = lines or outputs(size), padded(max(part.to + part.size for part in parts), step)
        if into is None:
            weights = self.zeros(blocks * rows, k, dtype=self.dtype)
            into = Layer(weights, self.zeros(blocks * rows), padded(size))
        for block in range(blocks):
            there, here = slice(block * size, (block + 1) * size), slice(block * rows, block * rows + size)
            self.put(into.bias[here], bias[there])
            for first, n, to in parts:
                # What is multiplied is rounded, also where it is kept in fp32; biases are not.
                self.put(into.weight[here, to : to + n], weight[there, first : first + n], self.round)
        return into

    def hidden(self, mlp: Any, parts: Sequence[Part]) -> tuple[Layer, ...]:
        """An MLP's hidden layers; those after the first lie in one tensor where their widths are equal."""
        if not mlp.hidden:
            raise ValueError("the Triton kernels need networks with at least one hidden layer")
        first, *rest = mlp.hidden
        packed = [self.layer(*first, parts)]
        stack: list[Layer | None] = [None] * len(rest)
        if len({layer.weight.shape for layer in rest}) == 1:
            rows, k = outputs(rest[0].weight.shape[0]), padded(rest[0].weight.shape[1], INPUTS)
            weights, biases = self.zeros(len(rest), rows, k, dtype=self.dtype), self.zeros(len(rest), rows)
            stack = [Layer(*pair, padded(len(rest[0].weight))) for pair in zip(weights, biases, strict=True)]
        return (*packed, *(self.layer(*layer, into=into) for layer, into in zip(rest, stack, strict=True)))

    def head(self, mlp: Any, parts: Sequence[Part]) -> Head:
        """An MLP with one output."""
        out, bias = self.zeros(outputs(mlp.out.weight.shape[1])), self.zeros(1)
        self.put(out[: mlp.out.weight.shape[1]], mlp.out.weight[0])
        self.put(bias, mlp.out.bias)
        return Head(self.hidden(mlp, parts), out, bias)

    def fill(self) -> None:
        """Copy what was put, as it is now."""
        torch._foreach_copy_(self._into, [rounded(what, bits) for what, bits in self._what])


class ImagineHeads:
    """`lsp_fast.ops.imagine_heads` with its weights packed, for as many calls as these weights are good for.

    `pack` takes them anew, into the same memory.

    Args:
        prior, actor, heads: weight tuples; without an actor rollouts follow given actions.
        precision: fp32, tf32 or bf16: what products multiply.
        whole: take `kernels.rollout`, one kernel for all layers of all steps, where there are few rollouts.
    """

    def __init__(self, prior: Any, actor: Any | None, heads: tuple[Any, ...], precision: str, whole: bool) -> None:
        stoch = len(prior.out.weight) // 2
        action, deter = prior.inp.weight.shape[1] - stoch, prior.gru.weight_hh.shape[1]
        skill = 0 if actor is None else actor.mlp.hidden[0].weight.shape[1] - stoch - deter
        self.widths = w = Widths(action, stoch, deter, skill)
        self.kind = "ieee" if precision == "fp32" else precision
        self.dot = "tf32" if precision == "tf32" else "ieee"
        packer = Packer(precision, prior.inp.weight.device)
        self.card = card(packer.device)
        self.dtype, self.round, self.interpreted = packer.dtype, packer.round, INTERPRETED
        base = w.begin("stoch")
        feature = [Part(0, stoch, 0), Part(stoch, deter, w.begin("deter") - base)]
        with_skill = [*feature, Part(stoch + deter, skill, w.begin("skill") - base)] if skill else feature
        # The transition's input is [stoch, action]; in a row they lie the other way round.
        # There are few of them: whole steps would be a third of padding.
        self.inp = packer.layer(*prior.inp, [Part(0, stoch, base), Part(stoch, action, 0)], step=FEW_INPUTS)
        weight_ih, weight_hh, bias_ih, bias_hh = prior.gru
        self.gru_x = packer.layer(weight_ih, bias_ih, blocks=3)
        self.gru_h = packer.layer(weight_hh, bias_hh, blocks=3)
        self.hidden = packer.layer(*prior.hidden)
        self.out = packer.layer(*prior.out, blocks=2, lines=max(16, triton.next_power_of_2(stoch)))
        self.min_std = prior.min_std
        self.actor = self.policy = None
        if actor is not None:
            self.actor = packer.hidden(actor.mlp, with_skill)
            self.policy = packer.layer(*actor.mlp.out, blocks=2, lines=max(16, triton.next_power_of_2(action)))
            # A zero output gives the initial deviation: log(e^s - 1) is what softplus makes s of.
            self.limits = actor.min_std, actor.mean_scale, actor.init_std + math.log(-math.expm1(-actor.init_std))
        self.heads = tuple(packer.head(head, feature) for head in heads)
        self.pack = packer.fill
        self.pack()
        # One kernel for a whole rollout reads the actor's later layers from one tensor.
        self.whole = whole and actor is not None and len({len(layer.weight) for layer in self.actor or ()}) == 1

    def __call__(
        self,
        stoch: Tensor,
        deter: Tensor,
        skills: Tensor | None,
        skill_length: int,
        noise: Tensor,
        action: Tensor | None,
    ) -> Tensor:
        """Outputs [heads, H, N] fp32; arguments as in `lsp_fast.ops.imagine_heads`, checked by the caller."""
        (steps, n), w = noise.shape[:2], self.widths
        chosen = tiles(n, self.kind, self.card)
        rows = padded(n, max(tile.rows for tile in chosen))
        x = torch.zeros(steps + 1, rows, w.row, dtype=self.dtype, device=stoch.device)
        h = torch.zeros(rows, len(self.gru_x.weight) // 3, device=stoch.device)

        def part(name: str) -> Tensor:
            begin = w.begin(name)
            return x[:, :n, begin : begin + w[w._fields.index(name)]]

        def put(where: Tensor, what: Tensor) -> None:
            where.copy_(rounded(what, self.round))

        put(part("stoch")[0], stoch)
        put(part("deter")[0], deter)
        h[:n, : w.deter].copy_(deter)
        if skills is not None:
            to = part("skill" if self.actor is not None else "action")
            for p in range(min(len(skills), -(-steps // skill_length))):
                end = steps if p == len(skills) - 1 else min((p + 1) * skill_length, steps)
                put(to[p * skill_length : end], skills[p])
        noise, action = noise.contiguous(), None if action is None else action.contiguous()
        if self.whole and rows == ROWS:
            rollout(self, x, h, noise, action, n)
        else:
            self._rollout(x, h, noise, action, n, chosen)
        return self._apply_heads(x[1:], n, chosen)

    def _rollout(self, x: Tensor, h: Tensor, noise: Tensor, action: Tensor | None, n: int, chosen: Tiles) -> None:
        """Fill the rows of every step from those of the start, a kernel a layer."""
        steps, w = len(noise), self.widths
        a, b = self._free(2, x.shape[1], (self.inp, self.hidden, *(self.actor or ())))
        for t in range(steps):
            now, then = x[t], x[t + 1]
            if self.actor is not None:
                given, free = now[:, w.begin("stoch") :], (a, b)
                for layer in self.actor:
                    self._linear(given, layer, free[0], chosen)
                    given, free = free[0], free[::-1]
                drawn = None if action is None else action[t]
                self._sample(given, self.policy, drawn, now, n, w.action, self.limits, chosen)
            self._linear(now, self.inp, a, chosen)
            self._gru(a, now[:, w.begin("deter") :], h, then[:, w.begin("deter") :], n, chosen)
            self._linear(then[:, w.begin("deter") :], self.hidden, a, chosen)
            limits = (self.min_std, 1.0, 0.0)
            self._sample(a, self.out, noise[t], then[:, w.begin("stoch") :], n, w.stoch, limits, chosen, policy=False)

    def _free(self, count: int, rows: int, layers: Sequence[Layer]) -> Tensor:
        """Room for what layers give to one another: [count, rows, .]. What no tile writes must be finite."""
        width = max(padded(len(layer.weight), INPUTS) for layer in layers)
        free = torch.empty(count, rows, width, dtype=self.dtype, device=layers[0].weight.device)
        free[:, :, min(layer.columns for layer in layers) :].zero_()
        return free

    def _apply_heads(self, x: Tensor, n: int, chosen: Tiles) -> Tensor:
        """[H, rows, row] -> [heads, H, n]."""
        (steps, rows), w = x.shape[:2], self.widths
        feature = x.flatten(0, 1)[:, w.begin("stoch") :]
        if not self.heads:
            return torch.zeros(0, steps, n, device=x.device)
        depth = max(len(head.hidden) for head in self.heads) - 1
        free = self._free(min(depth, 2), steps * rows, [layer for head in self.heads for layer in head.hidden])
        said = []
        for head in self.heads:
            given = feature
            for i, layer in enumerate(head.hidden):
                if i == len(head.hidden) - 1:
                    tiles_of_columns = spread(layer.columns, chosen.linear.columns).programs
                    partial = torch.empty(tiles_of_columns, steps * rows, device=x.device)
                    self._linear(given, layer, partial, chosen, head)
                    said.append(partial.sum(0))
                else:
                    self._linear(given, layer, free[i % 2], chosen)
                    given = free[i % 2]
        return torch.stack(said).view(len(said), steps, rows)[:, :, :n].contiguous()

    def _linear(self, x: Tensor, layer: Layer, out: Tensor, chosen: Tiles, head: Head | None = None) -> None:
        tile, k = chosen.linear, layer.weight.shape[1]
        programs, last, side = spread(layer.columns, tile.columns)
        out_of_head = (layer.bias, layer.bias, layer.bias) if head is None else (head.out, head.bias, out)
        layers.linear[programs, len(x) // tile.rows](
            x, x.stride(0), layer.weight, layer.bias, out, out.stride(0), *out_of_head, len(x),
            K=k, M=tile.rows, N=tile.columns, LAST=last, SIDE=side, BLOCK_K=math.gcd(k, INPUTS),
            HEAD=head is not None, PRECISION=self.dot, ROUND=self.round, num_warps=tile.warps, num_stages=tile.stages,
            enable_fp_fusion=True,
        )  # fmt: skip

    def _gru(self, x: Tensor, h: Tensor, state: Tensor, out: Tensor, n: int, chosen: Tiles) -> None:
        tile, columns = chosen.gru, len(self.gru_x.weight) // 3
        programs, last, side = spread(self.gru_x.columns, tile.columns)
        layers.gru[programs, -(-n // tile.rows)](
            x, x.stride(0), h, h.stride(0), self.gru_x.weight, self.gru_h.weight, self.gru_x.bias, self.gru_h.bias,
            state, state.stride(0), out, out.stride(0), columns, self.widths.deter,
            K_X=self.gru_x.weight.shape[1], K_H=self.gru_h.weight.shape[1], M=tile.rows, N=tile.columns,
            LAST=last, SIDE=side, BLOCK_K=INPUTS, PRECISION=self.dot, ROUND=self.round,
            num_warps=tile.warps, num_stages=tile.stages,
            enable_fp_fusion=True,
        )  # fmt: skip

    def _sample(
        self, x: Tensor, layer: Layer, noise: Tensor | None, out: Tensor, n: int, width: int,
        limits: tuple[float, float, float], chosen: Tiles, policy: bool = True,
    ) -> None:  # fmt: skip
        tile, (doubled, k) = chosen.sample, layer.weight.shape
        layers.sample[(-(-n // tile.rows),)](
            x, x.stride(0), layer.weight, layer.bias, layer.bias if noise is None else noise, out, out.stride(0),
            n, width, *limits, K=k, M=tile.rows, WIDTH=doubled // 2, BLOCK_K=INPUTS, POLICY=policy,
            NOISE=noise is not None, PRECISION=self.dot, ROUND=self.round,
            num_warps=tile.warps, num_stages=tile.stages,
            enable_fp_fusion=True,
        )  # fmt: skip
