"""Philox in Triton under Triton's interpreter."""

import pytest

PROGRAM = """
import torch
from lsp_fast.kernels import philox as kernel
from lsp_fast.ops import philox

poison = torch.empty
torch.empty = lambda *shape, **options: poison(*shape, **options).fill_(torch.nan)
for key in ([0, 0], [0xA4093822, 0x299F31D0], [2**32 - 1, 2**32 - 1]):
    for shape in ((1, 1, 1), (2, 17, 5), (3, 40, 33), (1, 33, 64), (0, 3, 4), (2, 0, 3)):
        for stream, first_step in ((0, 0), (2, 7), (2**31, 2**31 + 5)):
            arguments = torch.tensor(key), stream, first_step, *shape
            assert torch.equal(kernel.normals(*arguments), philox.normals(*arguments)), arguments
print("equal")
"""


@pytest.mark.slow
def test_triton_draws_the_same_bits_under_the_interpreter(interpreted):
    interpreted(PROGRAM)
