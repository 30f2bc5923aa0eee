"""Planning's inner loop in Triton under Triton's interpreter, against float64."""

import pytest

PROGRAM = """
import rollouts
import torch
from lsp_fast import ops
from lsp_fast.backends import triton
from lsp_fast.kernels import imagine_heads

size, card = {tiles}
if card:  # other tiles than so few rows get
    imagine_heads.tiles = lambda rows, kind, of: getattr(imagine_heads.TILES[card][size], kind)
poison = torch.empty
torch.empty = lambda *shape, **options: poison(*shape, **options).fill_(torch.nan)


def error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


for sizes in {cases}:
    arguments = rollouts.build(**sizes)
    floats = rollouts.to_float(arguments)
    start, prior, actor, skills, length, noise, heads = floats
    if not heads:
        assert triton.imagine_heads(*floats).shape == (0, len(noise.stoch), len(start.stoch))
        continue
    if skills is not None and actor is not None and len(start.stoch) == 17:  # a louder skill
        actor = actor._replace(skill_scale=3.0)
        arguments, floats = ((a, b, c._replace(skill_scale=3.0), *rest) for a, b, c, *rest in (arguments, floats))
    exact = ops.imagine_heads(*arguments)
    # bf16 is rounded in fp32 here, which gives what the GPU's products do.
    for precision, least in (("fp32", 2e-7), ("bf16", 0.0), ("tf32", 2e-3)):
        # tf32 is PyTorch's setting; the processor's own products do not know it.
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        precision = "bf16" if precision == "bf16" else "fp32"
        got = triton.imagine_heads(*floats, precision)
        assert got.is_contiguous() and got.dtype == torch.float32
        bound = max(2 * error(ops.imagine_heads(*floats, precision), exact), least)
        assert error(got, exact) <= bound, (sizes, precision, error(got, exact), bound)
        if actor is not None and len(start.stoch) <= 16:
            whole = triton.pack_heads(prior, actor, heads, precision, True)(start, skills, length, noise)
            assert error(whole, exact) <= bound, (sizes, precision, "whole", error(whole, exact), bound)
    torch.set_float32_matmul_precision("highest")
    # What is not finite stays in its own row.
    if len(start.stoch) > 2:
        start.stoch[1, 0] = torch.nan
        got = triton.imagine_heads(*floats)
        rest = [0, *range(2, len(start.stoch))]
        assert got[..., 1].isnan().all() and error(got[..., rest], exact[..., rest]) < 1e-5
print("equal")
"""

ODD = [
    {"rows": 1, "steps": 1},
    {"rows": 5, "units": (9, 9, 9)},
    {"rows": 16, "sampled": False, "skill": 0, "units": (20, 20, 20, 20)},
    {"rows": 17, "deter": 17, "stoch": 16, "action": 17, "units": (7,)},
    {"rows": 65, "heads": 3, "plan": 3, "steps": 7},
    {"rows": 70, "units": (70, 65, 64), "deter": 65, "steps": 2},
    {"rows": 1, "units": (144, 112, 48), "deter": 48, "steps": 2, "inner": 100},
    {"rows": 4, "actor": False, "heads": 1},
    {"rows": 3, "heads": 0},
]
FULL = [
    {"rows": 16, "stoch": 30, "deter": 200, "action": 12, "units": (400, 400, 400, 400), "steps": 2, "inner": 200},
    {"rows": 70, "stoch": 30, "deter": 200, "action": 12, "units": (400, 400), "steps": 2, "inner": 200},
]


WIDE = [
    # Tiles of 32, 64 and 128 columns with what is left of them: 16, 32, 48, 80, 96 and 112 columns, and nothing.
    {"rows": 300, "units": (144, 112, 128), "deter": 80, "steps": 2, "inner": 208},
    {"rows": 257, "units": (16, 48, 160), "deter": 112, "steps": 1, "inner": 96, "plan": 1},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cases", "tiles"),
    [(ODD, (0, "")), (FULL, (0, "")), (WIDE, (1, "small")), (WIDE, (2, "small")), (WIDE, (2, "large"))],
    ids=["odd", "full", "some", "many", "large"],
)
def test_triton_is_as_near_to_float64_as_pytorch(interpreted, cases, tiles):
    interpreted(PROGRAM.replace("{cases}", repr(cases)).replace("{tiles}", repr(tiles)))


def test_tiles_cover_a_layer_whatever_its_width():
    pytest.importorskip("triton")
    from lsp_fast.kernels import imagine_heads

    for size in range(1, 700):
        columns = imagine_heads.padded(size)
        for n in imagine_heads.WIDTHS:
            programs, last, side = imagine_heads.spread(columns, n)
            covered = (programs - 1) * n + last + side
            assert columns <= covered <= imagine_heads.outputs(size) < size + 64
            assert last in (16, 32, 64, 128) and side in (0, 16, 32, 64) and last + side <= 2 * n
    kinds = [kind for sizes in imagine_heads.TILES.values() for size in sizes for kind in size[1:]]
    assert {tile.columns for kind in kinds for tile in (kind.linear, kind.gru)} == set(imagine_heads.WIDTHS)
