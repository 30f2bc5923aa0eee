"""Operations that make the host wait for the device, because a result's value or shape depends on numbers there."""

import torch

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten.is_nonzero,
    aten._unique2,
    aten.unique_consecutive,
    aten.bincount,
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
BYTES = (torch.bool, torch.uint8)


def host_read(func, args):
    """What an operation reads on the host, as a sentence; None where nothing."""
    packet = getattr(func, "overloadpacket", func)
    # With a number of repetitions, repeat_interleave is a view and a copy.
    if packet in READS or func is aten.repeat_interleave.Tensor:
        return f"{func} reads a value on the host"
    if packet in INDEXED and any(x is not None and x.dtype in BYTES for x in args[1]):
        return f"{func} with a mask counts on the host"
    return None
