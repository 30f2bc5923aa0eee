"""What several operations' tests need."""

import pytest
import torch


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads, which ours follow, for one test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)
