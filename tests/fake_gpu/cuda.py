"""What `torch.cuda` answers about the GPU that is not there, and its autocast."""

import contextlib
from types import SimpleNamespace
from typing import ClassVar
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from .device import CUDA, Capture, FakeGPU, FakeTensor, Generator, Stream, where

LOW = {"linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "__matmul__", "conv2d", "conv_transpose2d", "gru_cell"}
FULL = {"exp", "log", "log1p", "pow", "softplus", "sum", "prod", "norm", "rsqrt", "reciprocal", "expm1"}


class Autocast(TorchFunctionMode):
    """What autocast does on a GPU: products in bfloat16, sums and exponentials in float32."""

    entered: ClassVar = []
    """Whether each of those that are on, one in the other, is enabled."""

    def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        super().__init__()
        assert device_type == "cuda"
        self.dtype, self.enabled = dtype, enabled

    def __enter__(self):
        self.entered.append(self.enabled)
        return super().__enter__() if self.enabled else self

    def __exit__(self, *error):
        self.entered.pop()
        return super().__exit__(*error) if self.enabled else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in LOW or name in FULL:
            dtype = self.dtype if name in LOW else torch.float32

            def cast(x):
                return x.to(dtype) if isinstance(x, FakeTensor) and x.is_floating_point() else x

            args, kwargs = tree_map(cast, args), tree_map(cast, kwargs)
        elif name in ("cat", "stack"):
            widest = max((x.dtype for x in args[0]), key=lambda dtype: dtype.itemsize)
            args = ([x.to(widest) for x in args[0]], *args[1:])
        return func(*args, **kwargs)


class Event:
    """A moment of a stream."""

    def __init__(self, gpu):
        self.gpu, self.moment = gpu, {}

    def record(self, stream=None):
        stream = stream or self.gpu.stream
        self.moment = {**stream.waited, stream: self.gpu.clock}

    def wait(self, stream=None):
        (stream or self.gpu.stream).wait_event(self)

    def query(self):
        return True

    def synchronize(self):
        self.gpu.tell("host read", "Event.synchronize")


class Current(contextlib.nullcontext):
    """torch.cuda.device, which PyTorch takes for a class."""

    def __init__(self, device):
        super().__init__()
        _index(device)


def _index(device):
    if device is None or isinstance(device, int):
        return device or 0
    # PyTorch's own rule and message.
    return torch.cuda._utils._get_device_index(device)


@contextlib.contextmanager
def fake_gpu():
    """A GPU for a while: gives its FakeGPU."""
    gpu = FakeGPU()
    default = gpu.stream

    class CUDAGraph:
        def __init__(self, **_):
            self.generators, self.recorded = [], None

        def register_generator_state(self, generator):
            self.generators.append(generator)

        def pool(self):
            return 0, 0

        def replay(self):
            gpu.replays += 1
            self.recorded.replay()

    @contextlib.contextmanager
    def graph(graph, stream=None, **_):
        gpu.capture = Capture(graph.generators)
        try:
            yield
            graph.recorded, gpu.captures = gpu.capture, gpu.captures + 1
        finally:
            gpu.capture.end()
            gpu.capture = None

    def synchronize(device=None):
        gpu.tell("host read", "torch.cuda.synchronize")

    def set_device(device):
        assert _index(device) == 0

    def new_stream(device=None, **_):
        _index(device)
        return Stream(gpu)

    @contextlib.contextmanager
    def on(stream):
        before, gpu.stream = gpu.stream, stream or gpu.stream
        try:
            yield
        finally:
            gpu.stream = before

    on_cpu = torch.is_autocast_enabled

    def is_autocast_enabled(device_type="cuda"):
        return bool(Autocast.entered and Autocast.entered[-1]) if device_type == "cuda" else on_cpu(device_type)

    to = torch.Tensor.to

    def to_device(self, *args, **kwargs):
        # C++ looks for the current GPU by itself.
        for x in (*args, kwargs.get("device")):
            if x == "cuda" or (isinstance(x, torch.device) and x.type == "cuda" and x.index is None):
                gpu.refuse(f"device {x} is not {CUDA}: Tensor.to in {where()}")
        return to(self, *args, **kwargs)

    group = torch._C._group_tensors_by_device_and_dtype

    def grouped(tensors, with_indices=False):
        # C++ sees them on meta.
        found = group(tensors, with_indices)
        return {(CUDA if device.type == "meta" else device, dtype): rest for (device, dtype), rest in found.items()}

    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": set_device,
        "device": Current,
        "stream": on,
        "current_stream": lambda device=None: (_index(device), gpu.stream)[1],
        "default_stream": lambda device=None: (_index(device), default)[1],
        "Stream": new_stream,
        "Event": lambda **_: Event(gpu),
        "graph": graph,
        "CUDAGraph": CUDAGraph,
        "is_current_stream_capturing": lambda: gpu.capture is not None,
        "synchronize": synchronize,
        "mem_get_info": lambda device=None: (80 << 30, 80 << 30),
        "max_memory_allocated": lambda device=None: 1 << 20,
        "memory_allocated": lambda device=None: 1 << 20,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "pretended GPU",
        "get_device_properties": lambda device=None: SimpleNamespace(
            name="pretended GPU", total_memory=80 << 30, major=9, minor=0, multi_processor_count=132
        ),
        "is_bf16_supported": lambda *_: True,
        "_lazy_init": lambda: None,
    }
    lifted = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(torch.Tensor, "to", to_device))
        stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", is_autocast_enabled))
        stack.enter_context(mock.patch.object(torch, "autocast", _autocast(torch.autocast)))
        stack.enter_context(mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", grouped))
        # Else torch.as_tensor(..., device="cuda:0") asks C++ for a GPU.
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.enter_context(gpu)
        yield gpu


def _autocast(real):
    def autocast(device_type, *args, **kwargs):
        return (Autocast if device_type == "cuda" else real)(device_type, *args, **kwargs)

    return autocast
