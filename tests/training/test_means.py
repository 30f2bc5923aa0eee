"""Averages between two rows of the log."""

import torch
from torch._subclasses import FakeTensorMode

from lsp_fast.training.means import Means


def test_means_are_over_what_came_since_the_last():
    means = Means()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(2)})
    means.add({"a": torch.tensor(3.0)})
    assert means.pop() == {"a": 2.0, "b": 2.0}
    assert means.pop() == {}


def test_means_go_on_from_a_checkpoint():
    means, restored = Means(), Means()
    means.add({"a": torch.tensor(1.0)})
    restored.load_state_dict(means.state_dict())
    restored.add({"a": torch.tensor(4.0)})
    assert restored.pop() == {"a": 2.5} and means.pop() == {"a": 1.0}


def test_a_checkpoints_values_are_brought_to_the_device_of_todays(monkeypatch):
    """On a GPU the values of a checkpoint lie on the CPU, and a row of both ended every resumed run."""
    stack = torch.stack

    def strict(tensors, *args, **kwargs):
        # As real tensors are: FakeTensorMode forgives 0-d ones that lie on two devices.
        assert len({tensor.device for tensor in tensors}) == 1
        return stack(tensors, *args, **kwargs)

    monkeypatch.setattr(torch, "stack", strict)
    monkeypatch.setattr(torch.Tensor, "item", lambda self: self.device.type)
    means = Means()
    with FakeTensorMode():
        means.load_state_dict({"both": torch.ones(2), "old": torch.ones(1)})
        means.add({"both": torch.ones((), device="cuda:0"), "new": torch.ones((), device="cuda:0")})
        state = means.state_dict()
        assert {name: (values.device.type, len(values)) for name, values in state.items()} == {
            "both": ("cpu", 3),
            "old": ("cpu", 1),
            "new": ("cpu", 1),
        }
        assert means.pop() == {"both": "cuda", "old": "cpu", "new": "cuda"}
