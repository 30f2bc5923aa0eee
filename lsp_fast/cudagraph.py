"""A function of tensors as a CUDA graph: captured once, replayed without launch overhead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lsp_fast.errors import LspFastError

WARMUP = 3


def capture(
    function: Callable[..., Any], *inputs: Tensor, generators: Callable[[], Iterable[torch.Generator]] = tuple
) -> Callable[..., Any]:
    """Capture `function(*inputs)` on the inputs' GPU and return a callable that replays it.

    The function must not read a tensor's value on the host nor make tensors from values there, and must leave every
    tensor that it keeps (parameters, optimiser state) in its storage; so must whoever loads a checkpoint later, and the
    generators must stay the same objects. Before the capture it is called WARMUP times for real, so that an update has
    then made as many steps. The callable copies its arguments into the captured inputs; what it returns is overwritten
    by the next call.

    Args:
        function: of tensors, returning tensors (nested in tuples or dictionaries).
        inputs: examples; later calls must have the same shapes and dtypes.
        generators: the random generators that the function draws on, asked for after the warm-up. Registering them
            lets every replay go on in their streams, instead of repeating the captured numbers.

    Raises:
        LspFastError: there is no GPU, or an input is not on one.
    """
    if not torch.cuda.is_available() or not all(x.is_cuda for x in inputs):
        raise LspFastError("a CUDA graph needs its inputs on a GPU; use --device cuda on a machine with one")
    static = [x.clone() for x in inputs]
    # Streams are the current device's, which need not be the inputs'; that of the capture must be named, or it would be
    # that of the process's first capture.
    with torch.cuda.device(static[0].device if static else torch.cuda.current_device()):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                function(*static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        for generator in generators():
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=side):
            outputs = function(*static)
    # A graph holds addresses: what the function holds on to must live as long as the callable.
    kept = function, graph

    def replay(*arguments: Tensor) -> Any:
        for i, (old, new) in enumerate(zip(static, arguments, strict=True)):
            if old.shape != new.shape or old.dtype != new.dtype:
                raise ValueError(
                    f"argument {i} of a captured graph must be {old.dtype} {list(old.shape)}, "
                    f"not {new.dtype} {list(new.shape)}"
                )
            old.copy_(new)
        kept[1].replay()
        return outputs

    return replay
