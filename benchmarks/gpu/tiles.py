"""Times one layer and one step of the GRU at every tile of the kernels' table, beside cuBLAS: a step of first_hour.py.

    python benchmarks/gpu/tiles.py [--rows 40000] [--out NAME.json]

A tile is timed only where its outputs are right. They must be as near to float64 as twice PyTorch's at the same
precision, and the rounding of what is stored. What does not compile or does not fit the card is a row with its reason.
The status is 1 where that is a tile that training would take on this card.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder's own rooms
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # what is timed is this tree, installed or not

import torch
from torch import Tensor
from torch.nn import functional as F

from gpu.checks import relative_error
from gpu.table import environment
from gpu.timing import sample
from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.kernels import imagine_heads
from lsp_fast.kernels.imagine_heads import TILES, ImagineHeads, Layer, Tile, padded

DIMS = (78, 12)  # quadruped's observations and actions
BITS = {"bf16": 16, "tf32": 13}  # of fp32 that a precision does not have


@dataclass
class Row:
    """One way to compute one piece of work."""

    work: str
    precision: str
    variant: str
    tile: Tile | None
    flop: int
    taken: bool = False
    """The table has this tile for this card."""
    call: Callable[[int], Any] | None = None
    error: float | None = None
    failure: str | None = None
    seconds: list[float] = field(default_factory=list)

    def attempt(self, action: Callable[[], None]) -> None:
        """Whatever a compiler, a driver or a check raises becomes the row's reason."""
        try:
            action()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.failure, self.call, self.seconds = f"{type(error).__name__}: {lines[0]}"[:300], None, []

    def plain(self, base: float | None) -> dict[str, Any]:
        """As JSON; `base` are the seconds of the same work without our kernels."""
        seconds = statistics.median(self.seconds) if self.seconds else None
        return {
            "work": self.work,
            "precision": self.precision,
            "variant": self.variant,
            "taken": self.taken,
            "tile": None if self.tile is None else self.tile._asdict(),
            "failure": self.failure,
            "ms": seconds and seconds * 1e3,
            "spread": seconds and (max(self.seconds) - min(self.seconds)) / seconds,
            "flop_per_s": seconds and self.flop / seconds,
            "ratio": base / seconds if seconds and base else None,
            "error": self.error,
        }


class Bench:
    """The layers of an agent of a preset's sizes, with their inputs."""

    def __init__(self, preset: str, rows: int, precision: str, device: torch.device) -> None:
        self.precision, self.device = precision, device
        agent = ImaginationAgent(*DIMS, make_config(preset, device=str(device), backend="reference"))
        weights = agent.plan_weights()
        assert weights.actor is not None
        self.packed = ImagineHeads(weights.prior, weights.actor, weights.heads, precision, False)
        self.few = rows  # of them the outputs count
        self.all = padded(rows, max(max(t.linear.rows, t.gru.rows) for t in self.table()))
        self.generator = torch.Generator(device).manual_seed(5)
        self.weights = weights
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def table(self) -> list[imagine_heads.Tiles]:
        """What the table holds for many rollouts, of any card."""
        return list(dict.fromkeys(getattr(sizes[-1], self.packed.kind) for sizes in TILES.values()))

    def tiles(self, of: str) -> list[Tile]:
        """The tiles of one kind of layer."""
        return list(dict.fromkeys(getattr(chosen, of) for chosen in self.table()))

    def taken(self, of: str, tile: Tile) -> bool:
        """Whether training takes it here."""
        chosen = getattr(TILES[self.packed.card][-1], self.packed.kind)
        return getattr(chosen, of) == tile

    def random(self, *shape: int) -> Tensor:
        """fp32 numbers that this precision can hold."""
        return self.seen(torch.randn(*shape, generator=self.generator, device=self.device))

    def seen(self, x: Tensor) -> Tensor:
        """fp32 numbers as they are multiplied."""
        return imagine_heads.rounded(x, BITS[self.precision])

    def inputs(self, x: Tensor) -> Tensor:
        """As kernels read them: with rows and columns of zeros beside."""
        out = torch.zeros(
            self.all, padded(x.shape[1], imagine_heads.INPUTS), dtype=self.packed.dtype, device=self.device
        )
        out[: len(x), : x.shape[1]].copy_(x)
        return out

    def linear(self) -> list[Row]:
        """elu(x @ w^T + b) with the first square layer of the first head."""
        at = 1
        weight, bias = (t.detach() for t in self.weights.heads[0].hidden[at])
        size, k = weight.shape
        work, flop = f"{k} -> {size}, {self.few} rows", 2 * self.few * size * k
        x = self.random(self.few, k)
        exact = F.elu(F.linear(x.double(), self.seen(weight).double(), bias.double()))
        a, w, b = x.to(self.dtype), weight.to(self.dtype), bias.to(self.dtype)
        out, transposed = torch.empty(self.few, size, dtype=self.dtype, device=self.device), w.t()
        rows = [
            Row(work, self.precision, "torch.mm", None, flop, call=lambda i: torch.mm(a, transposed, out=out)),
            Row(work, self.precision, "PyTorch's layer", None, flop, call=lambda i: F.elu(F.linear(a, w, b))),
        ]
        rows[1].error = bound = relative_error(F.elu(F.linear(a, w, b)), exact)
        layer: Layer = self.packed.heads[0].hidden[at]
        given = self.inputs(x)
        for tile in self.tiles("linear"):
            chosen = self.table()[0]._replace(linear=tile)
            into = torch.empty(
                self.all, padded(len(layer.weight), imagine_heads.INPUTS), dtype=given.dtype, device=self.device
            )

            def call(_: int, into: Tensor = into, chosen: Any = chosen) -> Tensor:
                self.packed._linear(given, layer, into, chosen)
                return into

            rows.append(Row(work, self.precision, "ours", tile, flop, self.taken("linear", tile), call))
            self.check(rows[-1], lambda call=call: call(0)[: self.few, :size], exact, bound)
        return rows

    def gru(self) -> list[Row]:
        """A step of the transition's GRU."""
        w_ih, w_hh, b_ih, b_hh = (t.detach() for t in self.weights.prior.gru)
        deter, k = w_hh.shape[1], w_ih.shape[1]
        work, flop = f"GRU {k}, {deter} -> {deter}, {self.few} rows", 6 * self.few * deter * (k + deter)
        x, h = self.random(self.few, k), self.random(self.few, deter)

        def cell(dtype: torch.dtype) -> torch.nn.GRUCell:
            made = torch.nn.GRUCell(k, deter, device=self.device, dtype=dtype).requires_grad_(False)
            own = (made.weight_ih, made.weight_hh, made.bias_ih, made.bias_hh)
            for into, value in zip(own, (self.seen(w_ih), self.seen(w_hh), b_ih, b_hh), strict=True):
                into.copy_(value)
            return made

        exact = cell(torch.float64)(x.double(), h.double())
        torchs, a, b = cell(self.dtype), x.to(self.dtype), h.to(self.dtype)
        rows = [Row(work, self.precision, "torch.nn.GRUCell", None, flop, call=lambda i: torchs(a, b))]
        rows[0].error = bound = relative_error(torchs(a, b), exact)
        given, held = self.inputs(x), self.inputs(h)
        width = len(self.packed.gru_x.weight) // 3
        for tile in self.tiles("gru"):
            chosen = self.table()[0]._replace(gru=tile)
            state = torch.zeros(self.all, width, device=self.device)
            into = torch.zeros(self.all, max(width, held.shape[1]), dtype=given.dtype, device=self.device)

            def call(_: int, state: Tensor = state, into: Tensor = into, chosen: Any = chosen) -> Tensor:
                # The state drifts from call to call; what is timed does not depend on it.
                self.packed._gru(given, held, state, into, self.few, chosen)
                return into

            def once(state: Tensor = state, call: Callable[[int], Tensor] = call) -> Tensor:
                state.zero_()
                state[: self.few, :deter].copy_(h)
                return call(0)[: self.few, :deter]

            rows.append(Row(work, self.precision, "ours", tile, flop, self.taken("gru", tile), call))
            self.check(rows[-1], once, exact, bound)
        return rows

    def check(self, row: Row, outputs: Callable[[], Tensor], exact: Tensor, bound: float) -> None:
        """Run once, and compare with float64."""

        def compare() -> None:
            row.error = relative_error(outputs(), exact)
            if not row.error <= 2 * bound + 2.0 ** (BITS[self.precision] - 24):
                raise ValueError(f"relative error {row.error:.1e}, where PyTorch's is {bound:.1e}")

        row.attempt(compare)


def time_in_turns(rows: Sequence[Row], samples: int, repeats: int, device: torch.device) -> None:
    """Fill in the seconds of those that are right."""
    for i in range(samples + 1):
        for row in rows:
            if row.call is not None and row.failure is None:

                def once(row: Row = row, warm: bool = i == 0) -> None:
                    assert row.call is not None
                    seconds = sample(row.call, repeats, device)
                    if not warm:
                        row.seconds.append(seconds)

                row.attempt(once)


def text(rows: Sequence[dict[str, Any]]) -> str:
    """A line a row; the tiles that training takes here have a star."""
    lines = [f"{'work':34} {'prec':5} {'variant':40} {'ms':>8} {'TFLOP/s':>8} {'x torch':>8} {'error':>8}"]
    for r in rows:
        tile = "" if r["tile"] is None else " " + " x ".join(map(str, r["tile"].values()))
        start = f"{r['work']:34} {r['precision']:5} {r['variant'] + tile + ' *' * r['taken']:40}"
        if r["ms"] is None:
            lines.append(f"{start} {r['failure']}")
            continue
        error = "-" if r["error"] is None else f"{r['error']:.1e}"
        lines.append(f"{start} {r['ms']:8.3f} {r['flop_per_s'] / 1e12:8.2f} {r['ratio']:8.2f} {error:>8}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000, help="2500 starts times 16 candidates")
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "tf32"), default=("bf16", "tf32"))
    parser.add_argument("--preset", default="gpu")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries this under the interpreter"
    )
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=20, help="calls of a sample")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu/tiles.py needs a CUDA GPU, and PyTorch sees none here.", file=sys.stderr)
        return 2
    if args.device == "cpu" and not imagine_heads.INTERPRETED:
        print("benchmarks/gpu/tiles.py: --device cpu needs TRITON_INTERPRET=1 in the environment.", file=sys.stderr)
        return 2
    device, found = torch.device(args.device), []
    about = environment(device)
    for precision in args.precisions:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        bench = Bench(args.preset, args.rows, precision, device)
        for work in (bench.linear, bench.gru):
            rows = work()
            time_in_turns(rows, args.samples, args.repeats, device)
            base = statistics.median(rows[0].seconds) if rows[0].seconds else None
            found += [row.plain(base) for row in rows]
            if args.out:  # what is known survives whatever comes next
                args.out.write_text(json.dumps({"environment": about, "rows": found}, indent=1) + "\n")
    print(text(found))
    return int(any(row["failure"] for row in found if row["taken"] or row["variant"] != "ours"))


if __name__ == "__main__":
    sys.exit(main())
