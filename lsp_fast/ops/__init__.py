"""The operations on the hot path as pure functions: signature, shapes, rules, and a plain PyTorch reference each."""

from lsp_fast.ops.imagine import imagine
from lsp_fast.ops.lambda_return import lambda_return
from lsp_fast.ops.select_elites import select_elites

__all__ = ["imagine", "lambda_return", "select_elites"]
