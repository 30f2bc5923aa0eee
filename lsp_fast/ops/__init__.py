"""The operations on the hot path as pure functions: signature, shapes, rules, and a plain PyTorch reference each."""

from lsp_fast.ops.adam import adam
from lsp_fast.ops.imagine import imagine
from lsp_fast.ops.imagine_heads import imagine_heads
from lsp_fast.ops.lambda_return import lambda_return
from lsp_fast.ops.mlp import mlp
from lsp_fast.ops.observe import observe, observe_scan
from lsp_fast.ops.select_elites import select_elites

__all__ = ["adam", "imagine", "imagine_heads", "lambda_return", "mlp", "observe", "observe_scan", "select_elites"]
