"""Functions of tensors as files: ONNX, or programs of torch.export."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lsp_fast import extras
from lsp_fast.export.functions import Function

OPSET = 20
"""ONNX's, which ONNX Runtime knows from 1.17 on."""
IR_VERSION = 9
"""Of the files, which that one reads; PyTorch writes a later one, and nothing of it is needed."""


def to_torch(function: Function) -> bytes:
    """What `torch.export.load` reads."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(_traced(function), buffer)
    return buffer.getvalue()


def check_onnx() -> None:
    """Raise LspFastError unless the libraries are there."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        extras.load(module, "export", "--format onnx")


def to_onnx(function: Function) -> bytes:
    """An ONNX model with the function's names, without what only its makers read.

    Raises:
        LspFastError: the libraries that make it are not there.
    """
    check_onnx()
    from onnx_ir.passes import common
    from onnxscript import optimizer

    with _quiet():
        program = torch.onnx.export(
            _traced(function),
            (),
            dynamo=True,
            verbose=False,
            # PyTorch's own pass looks for a hundred patterns in thousands of nodes, for a minute; what ONNX Runtime
            # does not do itself when it loads are the few below.
            optimize=False,
            external_data=False,
            opset_version=OPSET,
            input_names=[x.name for x in function.inputs],
            output_names=[*function.outputs],
            custom_translation_table=_translations(),
        )
        assert program is not None
        model = program.model
        optimizer.inline(model)
        optimizer.fold_constants(model)
        for each in (
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),
            common.RemoveUnusedOpsetsPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.DeduplicateInitializersPass(),
            common.CommonSubexpressionEliminationPass(),
            common.ClearMetadataAndDocStringPass(),
        ):
            each(model)
        model.ir_version = IR_VERSION
        return program.model_proto.SerializeToString()


def _traced(function: Function) -> Any:
    """The function as torch.export sees it."""
    with torch.no_grad():
        return torch.export.export(function.module.requires_grad_(False), function.example, strict=False)


def _translations() -> dict[Any, Any]:
    """What PyTorch's exporter does not know."""
    # Its types are of what a script's text says, not of what it computes.
    op: Any = importlib.import_module("onnxscript").opset20

    def stable_sort(self, *, stable=True, dim=-1, descending=False):
        # ONNX gives ties to the lower index, as a stable sort does. Few runtimes sort uint8; float32 holds all numbers
        # that are sorted here.
        length = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        values, indices = op.TopK(op.Cast(self, to=1), length, axis=dim, largest=int(descending), sorted=1)
        return op.CastLike(values, self), indices

    def prod(inp, dims, *, output_dtype=None):
        return op.ReduceProd(inp, op.Constant(value_ints=list(dims)), keepdims=0)

    return {torch.ops.aten.sort.stable: stable_sort, torch.ops.prims.prod.default: prod}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporters say to their own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
