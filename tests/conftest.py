"""Shared by every test: one thread, and no GPU tests without a GPU."""

import pytest
import torch

# Tiny operations gain nothing from threads, and wait for each other where the machine is busy.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
