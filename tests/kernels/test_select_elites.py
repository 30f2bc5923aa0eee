"""The Triton choice of elites under Triton's interpreter."""

PROGRAM = """
import torch
from lsp_fast.kernels import select_elites as kernel
from lsp_fast.ops import select_elites

like, empty = torch.empty_like, torch.empty
torch.empty_like = lambda x: like(x).fill_(torch.nan)
torch.empty = lambda *shape, **options: empty(*shape, **options).fill_(-7)
generator = torch.Generator().manual_seed(0)
cases = ((1, 1, 1, 1, 1), (3, 16, 4, 1, 3), (5, 17, 5, 2, 3), (2, 6, 6, 4, 3), (2, 70, 10, 12, 5), (0, 4, 2, 1, 3))
for states, candidates, elites, length, width in cases:
    for kind in ("distinct", "ties", "wild", "all nan"):
        values = torch.randn(states, candidates, generator=generator)
        if kind != "distinct":
            values = values.round()
        if kind == "wild":
            special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0])
            drawn = torch.randint(5, values.shape, generator=generator)
            values = torch.where(values.abs() > 0.5, special[drawn], values)
        if kind == "all nan":
            values[:] = float("nan")
        plans = torch.randn(states, candidates, length, width, generator=generator)
        plans = plans.transpose(0, 3).contiguous().transpose(0, 3)
        mean, std = torch.randn(2, states, length, width, generator=generator)
        expected = select_elites(values, plans, elites, mean, std)
        actual = kernel.select_elites(values, plans, elites, mean, std)
        assert torch.equal(actual[2], expected[2]), (kind, actual[2], expected[2])
        torch.testing.assert_close(actual[:2], expected[:2])
print("equal")
"""


def test_triton_equals_the_reference_under_the_interpreter(interpreted):
    interpreted(PROGRAM)
