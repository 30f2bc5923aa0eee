"""The choice of elites at the paper's sizes: C++ beside eager PyTorch and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Work, operation

from lsp_fast import ops
from lsp_fast.backends import cpp


def works() -> Iterator[Work]:
    """The elites of the 2500 states that an update plans from."""
    states, candidates, dim, elites = 2500, 16, 3, 4
    shape = (states, 1, dim)
    plans = torch.randn(states, candidates, 1, dim)
    arguments = (torch.randn(states, candidates), plans, elites, torch.randn(shape), torch.rand(shape))
    yield operation(
        "select_elites", ops.select_elites, cpp.select_elites, arguments, f"[{states}, {candidates}, {dim}]"
    )
