"""What a card is asked of learning's operations (`tests/test_gpu.py`), tried under Triton's interpreter."""

import pytest

PROGRAM = """
import learning_checks as checks
import torch
for precision in ("highest", "high"):
    torch.set_float32_matmul_precision(precision)
    for name in {names}:
        for size in checks.SMALL[name] if name in checks.SMALL else [()]:
            check = getattr(checks, "check_" + name)
            check("cpu", size) if size != () else check("cpu")
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("names", [["mlp", "densities", "adam", "not_a_number"], ["imagine"]], ids=" ".join)
def test_the_checks_pass(interpreted, names):
    interpreted(PROGRAM.replace("{names}", repr(names)))
