"""Normal numbers by counter: C++ beside PyTorch's generator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Work

from lsp_fast.backends import cpp
from lsp_fast.ops import philox


def works() -> Iterator[Work]:
    """A million of them."""
    key, generator = torch.tensor([1, 2]), torch.Generator()
    expected, got = (f(key, 0, 0, 2, 100, 10) for f in (philox.normals, cpp.normals))
    assert torch.equal(got, expected)
    yield Work(
        "a million normal numbers",
        "torch.randn",
        {
            "torch.randn": lambda: torch.randn(10, 5000, 20, generator=generator),
            "C++ Philox": lambda: cpp.normals(key, 0, 0, 10, 5000, 20),
        },
    )
