"""A function of tensors as a CUDA graph: captured once, replayed without launch overhead."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lsp_fast.errors import LspFastError, first_line

WARMUP = 3


def capture(
    function: Callable[..., Any],
    *inputs: Tensor,
    generators: Callable[[], Iterable[torch.Generator]] = tuple,
    warmup: int = WARMUP,
) -> Callable[..., Any]:
    """Capture `function(*inputs)` on the inputs' GPU and return a callable that replays it.

    The function must not read a tensor's value on the host nor make tensors from values there, and must leave every
    tensor that it keeps (parameters, optimiser state) in its storage; so must whoever loads a checkpoint later, and the
    generators must stay the same objects. Before the capture it is called `warmup` times for real, so that an update
    has then made as many steps. The callable copies its arguments into the captured inputs; what it returns is
    overwritten by the next call.

    Args:
        function: of tensors, returning tensors (nested in tuples or dictionaries).
        inputs: examples; later calls must have the same shapes and dtypes.
        generators: the random generators that the function draws on, asked for after the warm-up. Registering them
            lets every replay go on in their streams, instead of repeating the captured numbers.
        warmup: calls that create what only a first call creates; 0 where there have been some.

    Raises:
        LspFastError: there is no GPU, or an input is not on one.
    """
    if not torch.cuda.is_available() or not on_a_gpu(*inputs):
        raise LspFastError("a CUDA graph needs its inputs on a GPU; use --device cuda on a machine with one")
    static = [x.clone() for x in inputs]
    # Streams are the current device's, which need not be the inputs'; that of the capture must be named, or it would be
    # that of the process's first capture.
    with torch.cuda.device(static[0].device if static else torch.cuda.current_device()):
        side = torch.cuda.Stream()
        for _ in range(warmup):
            _on(side, function, *static)
        graph = torch.cuda.CUDAGraph()
        drawn_on = list(generators())
        before = [generator.clone_state() for generator in drawn_on]
        _register(graph, drawn_on)
        try:
            # The outer one comes back to the current stream also where a capture fails.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, stream=side):
                outputs = function(*static)
        except BaseException:
            # A generator would go on believing that it is being captured, and refuse to draw.
            for generator, state in zip(drawn_on, before, strict=True):
                generator.graphsafe_set_state(state)
            raise
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


def _register(graph: Any, generators: Iterable[torch.Generator]) -> None:
    """Let replays go on in the generators' streams; later versions of PyTorch do so by themselves and warn."""
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        for generator in generators:
            graph.register_generator_state(generator)


def on_a_gpu(*tensors: Tensor) -> bool:
    """Whether all of them lie on one."""
    return all(x.is_cuda for x in tensors)


def _on(stream: torch.cuda.Stream, function: Callable[..., Any], *arguments: Tensor) -> Any:
    """Call a function on another stream, in order with the current one on both sides."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = function(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    return result


class Graphed:
    """A function that replays itself: captured for the shapes of its arguments when it has been called with them
    WARMUP times, each call being one execution; eager before that, on other devices, and where a capture fails, which
    is said once.

    Args:
        function: as `capture` takes it.
        name: what it does, for the message.
        generators: as `capture` takes them.
        enabled: False never captures.
        scalars: the function returns 0-d tensors by names; replays keep them in one tensor, in fp32.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        generators: Callable[[], Iterable[torch.Generator]] = tuple,
        enabled: bool = True,
        scalars: bool = False,
    ) -> None:
        self.function, self.name, self.generators, self.enabled = function, name, generators, enabled
        self.scalars = scalars
        self._names: list[str] = []
        self._calls: dict[tuple, int] = {}
        self._replays: dict[tuple, Callable[..., Any]] = {}

    def __call__(self, *arguments: Tensor) -> Any:
        """What the function returns; the caller may keep it."""
        if not self.enabled or not on_a_gpu(*arguments):
            return self.function(*arguments)
        kind = tuple((x.shape, x.dtype) for x in arguments)
        replay = self._replays.get(kind)
        if replay is None:
            calls = self._calls[kind] = self._calls.get(kind, 0) + 1
            if calls <= WARMUP:
                return self.function(*arguments)
            try:
                function = self._stacked if self.scalars else self.function
                replay = capture(function, *arguments, generators=self.generators, warmup=0)
            except Exception as error:
                self.enabled = False
                # What ends a capture complains in its turn; what went wrong came before it.
                cause = error.__context__ or error
                warnings.warn(
                    f"{self.name} goes on without a CUDA graph: {first_line(cause)} (should memory then grow, start "
                    "again with --train.no-cuda-graph)",
                    stacklevel=2,
                )
                return self.function(*arguments)
            self._replays[kind] = replay
        # The next replay overwrites what this one returns.
        if self.scalars:
            found = replay(*arguments).clone().unbind()
            return dict(zip(self._names, found, strict=True))
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, replay(*arguments))

    def _stacked(self, *arguments: Tensor) -> Tensor:
        """The function's scalars as one tensor: copying each by itself would take as many kernels."""
        found = self.function(*arguments)
        self._names = list(found)
        return torch.stack([value.float() for value in found.values()])
