"""Shared by every test: one thread, and no GPU tests without a GPU."""

import pytest
import torch

from lsp_fast.config import make_config

# Tiny operations gain nothing from threads, and wait for each other where the machine is busy.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def smoke():
    """make_config for a run of seconds: smoke(skill__beta=0.5)."""

    def make(algorithm="lsp", **overrides):
        values = {"device": "cpu", "backend": "reference"}
        if algorithm == "planet":  # its row comes after the preset's small planner
            values |= {"planner__candidates": 20, "planner__elites": 5, "planner__iterations": 2}
        return make_config("smoke", algorithm, **{**values, **overrides})

    return make
