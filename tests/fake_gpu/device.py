"""A GPU that is not there: its tensors claim `cuda:0`, hold real numbers on the CPU, and obey a GPU's rules.

PyTorch's own FakeTensorMode holds no numbers, and ends a process of a CPU build at its first gradient. Here numbers
flow, so that a run trains, saves and loads. While the mode is on, every operation comes through it:

- what real PyTorch refuses is refused: operands on two devices (0-d ones on the CPU only where a kernel takes them as
  numbers), whatever would wait for the host inside a capture, a generator that a capture does not know;
- what is a race on a GPU is refused: what another stream has just made, read without a wait for it;
- what it allows but a fast path must not do is an `Event`: host reads, copies from pageable memory;
- memory that nobody has written holds NaN, integers 0.

To C++ the tensors lie on `meta`: a CPU build has no backward pass for `cuda`.
"""

import struct
import sys
import weakref
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from host_reads import INDEXED, host_read
from torch.utils._python_dispatch import TorchDispatchMode

import lsp_fast

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
PACKAGE = str(Path(lsp_fast.__file__).parent)
COPIES = {aten.copy_, aten._foreach_copy_}
EMPTY = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}

RealGenerator = torch.Generator


class Event(NamedTuple):
    """What a GPU does, but not while it is in a hurry."""

    kind: str  # host read, pageable copy, waiting copy, or host scalar
    what: str
    where: str  # module and function of lsp_fast that asked for it


class FakeTensor(torch.Tensor):
    """On the device that is not there; `inner` holds its numbers."""

    @staticmethod
    def __new__(cls, inner):
        offset, shape, strides = inner.storage_offset(), inner.shape, inner.stride()
        if offset:
            reach = 1 + offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)
            outer = torch.empty(reach, dtype=inner.dtype, device="meta").as_strided(shape, strides, offset)
        else:
            outer = torch.empty_strided(shape, strides, dtype=inner.dtype, device="meta")
        made = torch.Tensor._make_subclass(cls, outer)
        made.inner = inner
        made.stream, made.clock, made.recorded = None, 0, []
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} of a pretended GPU's tensor, after the GPU is gone")

    def __reduce_ex__(self, protocol):
        # A checkpoint's bytes; they are loaded onto the CPU.
        return self.inner.detach().__reduce_ex__(protocol)

    def __repr__(self, **_):
        return f"{self.inner!r} on {CUDA}"

    def data_ptr(self):
        return self.inner.data_ptr()

    def record_stream(self, stream):
        self.recorded.append(stream)


class Generator(RealGenerator):
    """A GPU's generator: 16 bytes of state, seed and offset. A CPU generator of the usual kind where that is asked."""

    _known: ClassVar = weakref.WeakValueDictionary()
    _made: ClassVar = 0

    def __new__(cls, device="cpu"):
        if torch.device(device).type == "cpu":
            return RealGenerator(device)
        made = super().__new__(cls, "cpu")
        # PyTorch hands the generator on as another Python object: this number finds it again.
        Generator._made += 1
        token = 2**61 + Generator._made
        RealGenerator.manual_seed(made, token)
        cls._known[token] = made
        made.seed_, made.offset = 0, 0
        return made

    device = property(lambda self: CUDA)

    @classmethod
    def of(cls, handed):
        return cls._known.get(handed.initial_seed())

    def manual_seed(self, seed):
        self.seed_, self.offset = seed, 0
        return self

    def get_state(self):
        return torch.frombuffer(bytearray(struct.pack("<QQ", self.seed_, self.offset)), dtype=torch.uint8)

    def set_state(self, state):
        if state.numel() != 16:
            raise RuntimeError("RNG state is wrong size")
        self.seed_, self.offset = struct.unpack("<QQ", bytes(state.tolist()))
        return self

    def clone_state(self):
        return self.seed_, self.offset

    def graphsafe_set_state(self, state):
        self.seed_, self.offset = state

    def next(self):
        """What draws the next numbers."""
        self.offset += 4
        return RealGenerator().manual_seed(hash((self.seed_, self.offset)) % 2**62)


class Capture:
    """Operations between the beginning and the end of a capture. They are undone at its end: a capture runs nothing."""

    def __init__(self, generators):
        self.generators = {generator: generator.clone_state() for generator in generators}
        self.operations, self.own, self.before = [], {}, {}

    def writes(self, tensors):
        for storage in (x.untyped_storage() for x in tensors):
            if storage._cdata not in self.own and storage._cdata not in self.before:
                self.before[storage._cdata] = storage, storage.clone()

    def add(self, func, args, kwargs, results):
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        fresh = []
        for x in tree_leaves(results):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                fresh.append(storage._cdata not in inputs)
                if fresh[-1]:
                    self.own[storage._cdata] = storage
        self.operations.append((func, args, kwargs, results, fresh))

    def end(self):
        for storage, old in self.before.values():
            storage.copy_(old)
        for generator, state in self.generators.items():
            generator.graphsafe_set_state(state)

    def replay(self):
        for func, args, kwargs, results, fresh in self.operations:
            drawn = {k: v.next() if isinstance(v, Generator) else v for k, v in kwargs.items()}
            again = func(*args, **drawn)
            olds, news = ([x for x in tree_leaves(r) if isinstance(x, torch.Tensor)] for r in (results, again))
            for old, new, is_fresh in zip(olds, news, fresh, strict=True):
                if is_fresh:
                    old.copy_(new)


class Stream:
    """An order of operations. Others are ordered with it up to the moment (an operation's number) waited for."""

    def __init__(self, gpu):
        self.gpu, self.waited = gpu, {}

    def wait_stream(self, other):
        self.wait_moment({**other.waited, other: self.gpu.clock})

    def wait_moment(self, moment):
        for stream, clock in moment.items():
            self.waited[stream] = max(clock, self.waited.get(stream, 0))

    def wait_event(self, event):
        self.wait_moment(event.moment)

    def record_event(self, event):
        event.record(self)
        return event

    def synchronize(self):
        self.gpu.tell("host read", "Stream.synchronize")


class FakeGPU(TorchDispatchMode):
    """The device while this mode is on.

    Attributes:
        events: what was asked for so far that a fast path must not do.
        faults: what a capture refused; a caller may have caught the error and gone on without a graph.
        captures: how many have ended well; replays: how often one was replayed.
        fill: what memory that nobody has written holds.
    """

    def __init__(self):
        super().__init__()
        self.events, self.faults, self.captures, self.replays = [], [], 0, 0
        self.capture = None
        self.stream, self.clock = Stream(self), 0
        self.fill = float("nan")
        self.pinned = {}

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # wrapping would take a third of all time, and nothing is compiled here

    def tell(self, kind, what):
        """Note an event; inside a capture it is refused."""
        event = Event(kind, str(what), where())
        if self.capture is not None:
            self.refuse(f"{kind} while capturing: {event.what} in {event.where}")
        self.events.append(event)

    def refuse(self, text):
        self.faults.append(text)
        raise RuntimeError(text)

    def seen(self, *kinds):
        """(kind, where) of all events so far, without repetitions."""
        return {(event.kind, event.where) for event in self.events if not kinds or event.kind in kinds}

    def is_pinned(self, x):
        return x.untyped_storage()._cdata in self.pinned

    def pin(self, x):
        storage = x.untyped_storage()
        self.pinned[storage._cdata] = storage  # kept, so that its address is not used again
        return x

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (aten.is_pinned.default, aten._pin_memory.default):
            return self.is_pinned(args[0]) if func is aten.is_pinned.default else self.pin(args[0].clone())
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        fakes = [x for x in tensors if isinstance(x, FakeTensor)]
        device = kwargs.get("device")
        there = bool(fakes) if device is None else device.type != "cpu"
        if not fakes and not there:
            if kwargs.get("pin_memory"):
                return self.pin(func(*args, **{**kwargs, "pin_memory": False}))
            return func(*args, **kwargs)
        if device is not None and device.type == "cuda" and device.index != 0:
            self.refuse(f"device {device} is not {CUDA}: {func} in {where()}")
        self._check(func, args, kwargs, tensors, fakes, there)
        self.clock += 1
        for x in fakes:
            if x.stream is not self.stream and self.stream.waited.get(x.stream, 0) < x.clock:
                self.refuse(f"{func} does not wait for the stream that makes its input, in {where()}")
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        generator = self._generator(func, kwargs)
        wrapped = {id(x.inner): x for x in fakes}
        real_args, real_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
        if self.capture is not None:
            self.capture.writes(_written(func, real_args, real_kwargs))
        drawn = real_kwargs if generator is None else {**real_kwargs, "generator": generator.next()}
        result = func(*real_args, **drawn)
        empty = self.fill if getattr(func, "overloadpacket", None) in EMPTY else None
        if empty is not None:
            result.fill_(empty if result.is_floating_point() else 0)
        if self.capture is not None:
            again = real_kwargs if generator is None else {**real_kwargs, "generator": generator}
            self.capture.add(func, real_args, again, result)
            if empty is not None:
                self.capture.add(aten.fill_.Scalar, (result, empty if result.is_floating_point() else 0), {}, result)
        if not there:
            return result

        def outer(x):
            if not isinstance(x, torch.Tensor):
                return x
            found = wrapped[id(x)] if id(x) in wrapped else FakeTensor(x)
            found.stream, found.clock = self.stream, self.clock
            return found

        return tree_map(outer, result)

    def _check(self, func, args, kwargs, tensors, fakes, there):
        """Raise what a GPU refuses, and note what it does slowly."""
        packet = getattr(func, "overloadpacket", func)
        hosts = [x for x in tensors if not isinstance(x, FakeTensor)]
        if fakes and (read := host_read(func, args)):
            self.tell("host read", read)
        if packet is aten._to_copy or packet in COPIES:
            source, target = (args[0], there) if packet is aten._to_copy else (args[1], fakes and args[0])
            self._check_copy(func, source, target, args, kwargs, packet)
        elif hosts and fakes:
            if packet in INDEXED and not _outside(args, hosts):
                self.tell("pageable copy", f"{func} by an index on the CPU")
            elif torch.Tag.pointwise in func.tags and not any(x.dim() for x in hosts):
                self.tell("host scalar", func)
            else:
                shapes = ", ".join(f"{list(x.shape)} on {x.device}" for x in tensors)
                self.refuse(f"all tensors must be on the same device: {func} of {shapes} in {where()}")

    def _check_copy(self, func, source, target, args, kwargs, packet):
        sources = source if isinstance(source, (list, tuple)) else [source]
        to_gpu = bool(target) if packet is aten._to_copy else isinstance(tree_leaves(args[0])[0], FakeTensor)
        soon = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
        for x in sources:
            if isinstance(x, FakeTensor) == to_gpu:
                continue
            if to_gpu and not self.is_pinned(x):
                self.tell("pageable copy", f"{func} of {x.dtype} {list(x.shape)}")
            elif to_gpu and not soon:
                self.tell("waiting copy", f"{func} of {x.dtype} {list(x.shape)}")
            elif not to_gpu and not (soon and packet is aten.copy_ and self.is_pinned(args[0])):
                self.tell("host read", f"{func} of {x.dtype} {list(x.shape)} to the CPU")

    def _generator(self, func, kwargs):
        """The GPU's generator that an operation draws on, if any."""
        handed = kwargs.get("generator")
        if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
            return None
        found = None if handed is None else Generator.of(handed)
        if found is None:
            self.refuse(f"{func} draws on another generator than the GPU's named streams, in {where()}")
        if self.capture is not None and found not in self.capture.generators:
            self.refuse(f"{func} draws on a generator that the graph does not know, in {where()}")
        return found


def tree_map(function, x):
    """PyTorch's, for arguments of operations: a tenth of its time."""
    if isinstance(x, (list, tuple)):
        return type(x)([tree_map(function, y) for y in x])
    if isinstance(x, dict):
        return {k: tree_map(function, y) for k, y in x.items()}
    return function(x)


def tree_leaves(x):
    if isinstance(x, dict):
        x = x.values()
    elif not isinstance(x, (list, tuple)):
        return [x]
    return [leaf for y in x for leaf in tree_leaves(y)]


def _inner(x):
    return x.inner if isinstance(x, FakeTensor) else x


def _outside(args, hosts):
    """Whether a tensor on the CPU is another operand of an indexing operation than an index."""
    indices = {id(x) for x in args[1]}
    return any(id(x) not in indices for x in hosts)


def _written(func, args, kwargs):
    """The tensors that an operation changes in place."""
    changed = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            changed += [x for x in tree_leaves(value) if isinstance(x, torch.Tensor)]
    return changed


def where():
    """Module and function of lsp_fast that are running."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not frame.f_code.co_name.startswith("<"):
            return f"{Path(name).relative_to(PACKAGE).with_suffix('').as_posix()}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "a test"
