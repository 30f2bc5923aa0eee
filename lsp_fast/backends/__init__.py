"""Who computes the hot operations: `registry` chooses, `cpp` and `triton` wrap what is native, `cudagraph` replays."""

from lsp_fast.backends.registry import REFERENCE, Backend, device, get, learning_backend

__all__ = ["REFERENCE", "Backend", "device", "get", "learning_backend"]
