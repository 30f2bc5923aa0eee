"""The Triton returns under Triton's interpreter."""

PROGRAM = """
import torch
from lsp_fast.kernels import lambda_return as kernel
from lsp_fast.ops import lambda_return
from lsp_fast.ops.lambda_return import from_kernels

poison = torch.empty_like
torch.empty_like = lambda x: poison(x).fill_(torch.nan)
native = from_kernels(kernel.forward, kernel.backward)
torch.manual_seed(0)
for shape in ((1, 1), (2, 5), (9, 300), (4, 3, 7), (3, 0)):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        # Neither the inputs nor the gradient that comes back are contiguous.
        inputs = [torch.randn(*shape, 2, dtype=dtype)[..., 0].requires_grad_() for _ in range(3)]
        inputs.append(torch.randn(*shape[1:], 2, dtype=dtype)[..., 0].requires_grad_())
        expected, actual = lambda_return(*inputs, 0.95), native(*inputs, 0.95)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
        grad = torch.randn(*shape, 2, dtype=dtype)[..., 1]
        wanted = torch.autograd.grad(expected, inputs, grad, materialize_grads=True)
        for a, b in zip(torch.autograd.grad(actual, inputs, grad), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
print("equal")
"""


def test_triton_equals_the_reference_under_the_interpreter(interpreted):
    interpreted(PROGRAM)
