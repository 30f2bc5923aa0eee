"""When a function becomes a CUDA graph; the graph itself is a GPU's matter (tests/test_gpu.py)."""

import contextlib
import warnings

import pytest
import torch

from lsp_fast.backends import cudagraph
from lsp_fast.backends.cudagraph import WARMUP, Graphed
from lsp_fast.errors import LspFastError


@pytest.fixture
def pretend(monkeypatch):
    """Tensors count as a GPU's, and a capture as done; what is captured is counted."""
    captured = []

    def capture(function, *inputs, generators, warmup):
        assert warmup == 0 and generators() is not None
        captured.append([x.shape for x in inputs])
        output = function(*inputs)["sum"].clone()

        def replay(*arguments):
            output.copy_(function(*arguments)["sum"])
            return {"sum": output}

        return replay

    monkeypatch.setattr(cudagraph, "on_a_gpu", lambda *tensors: True)
    monkeypatch.setattr(cudagraph, "capture", capture)
    return captured


def total(x, y):
    return {"sum": x.sum() + y.sum()}


def test_a_capture_needs_a_gpu():
    with pytest.raises(LspFastError, match="on a GPU"):
        cudagraph.capture(total, torch.ones(2), torch.ones(3))


def test_on_a_cpu_nothing_is_captured(monkeypatch):
    monkeypatch.setattr(cudagraph, "capture", None)
    graphed = Graphed(total, "adding")
    assert [graphed(torch.ones(2), torch.ones(3))["sum"].item() for _ in range(WARMUP + 2)] == [5.0] * (WARMUP + 2)


def test_every_shape_is_captured_once_after_its_warm_up(pretend):
    calls = []

    def function(x, y):
        calls.append(len(x))
        return total(x, y)

    graphed = Graphed(function, "adding")
    results = [graphed(torch.full((n,), float(i)), torch.zeros(1))["sum"] for i in range(6) for n in (2, 3)]
    assert pretend == [[(2,), (1,)], [(3,), (1,)]]
    # What was returned earlier is not overwritten by a later replay.
    assert [r.item() for r in results] == [float(i * n) for i in range(6) for n in (2, 3)]


def test_what_cannot_be_captured_goes_on_and_says_so_once(pretend, monkeypatch):
    def capture(*arguments, **options):
        raise RuntimeError("\noperation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(cudagraph, "capture", capture)
    graphed = Graphed(total, "adding")
    with pytest.warns(UserWarning, match="adding goes on without a CUDA graph: operation not permitted") as warned:
        results = [graphed(torch.ones(2), torch.ones(1))["sum"].item() for _ in range(WARMUP + 4)]
    assert results == [3.0] * (WARMUP + 4) and len(warned) == 1


def test_it_can_be_switched_off(pretend):
    graphed = Graphed(total, "adding", enabled=False)
    for _ in range(WARMUP + 2):
        graphed(torch.ones(2), torch.ones(1))
    assert pretend == []


class Generator:
    """Remembers what a capture asks of it."""

    def __init__(self):
        self.state, self.restored = "before", []

    def clone_state(self):
        return self.state

    def graphsafe_set_state(self, state):
        self.restored.append(state)


def test_a_failed_capture_leaves_generators_as_they_were_and_tells_the_cause(monkeypatch):
    generator, registered = Generator(), []

    class Graph:
        def register_generator_state(self, generator):
            warnings.warn("deprecated: registered by itself", FutureWarning, stacklevel=2)
            registered.append(generator)

    class Capturing:
        def __init__(self, graph, stream):
            pass

        def __enter__(self):
            generator.state = "capturing"

        def __exit__(self, *error):
            raise RuntimeError("capture_end: the capture was invalidated")

    def function(x):
        if generator.state == "capturing":
            raise ValueError("a host read")
        return {"sum": x.sum()}

    nothing = contextlib.nullcontext
    monkeypatch.setattr(cudagraph, "on_a_gpu", lambda *tensors: True)
    for name in ("device", "Stream", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: nothing())
    for name, fake in {"is_available": lambda: True, "CUDAGraph": Graph, "graph": Capturing}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    graphed = Graphed(function, "adding", lambda: [generator])
    with pytest.warns(UserWarning) as warned:
        for _ in range(WARMUP + 1):
            generator.state = "before"
            with contextlib.suppress(ValueError):  # the pretended generator does not notice that it is restored
                graphed(torch.ones(2))
    assert [str(w.message).split(" (")[0] for w in warned] == ["adding goes on without a CUDA graph: a host read"]
    assert registered == [generator] and generator.restored == ["before"]


def test_scalars_are_copied_together(monkeypatch):
    monkeypatch.setattr(cudagraph, "on_a_gpu", lambda *tensors: True)
    captured = []

    def capture(function, *inputs, generators, warmup):
        captured.append(function(*inputs).shape)
        return lambda *arguments: function(*arguments)

    monkeypatch.setattr(cudagraph, "capture", capture)
    graphed = Graphed(
        lambda x: {"sum": x.sum(), "most": x.amax(), "many": x.numel() + x.sum() * 0}, "adding", scalars=True
    )
    rows = [graphed(torch.tensor([1.0, float(i)])) for i in range(WARMUP + 2)]
    assert captured == [(3,)]
    assert [{k: v.item() for k, v in row.items()} for row in rows] == [
        {"sum": 1.0 + i, "most": float(max(1, i)), "many": 2.0} for i in range(WARMUP + 2)
    ]
