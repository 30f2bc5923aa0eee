"""An update can be captured as a CUDA graph: it never waits for the device, and no tensor that lasts moves.

Without a GPU this looks at the operations themselves, through every call that PyTorch dispatches.
"""

import pytest
import torch
from host_reads import host_read
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lsp_fast import ops
from lsp_fast.agents.imagination import ImaginationAgent, Optimizer
from lsp_fast.config import make_config
from lsp_fast.models.conv import SHAPE
from lsp_fast.models.world_model import SequenceBatch

OBSERVATION, ACTION = 7, 3


def tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


class CaptureSafe(TorchDispatchMode):
    """Collects what a capture would refuse.

    A tensor that is neither one of `lasting` nor the result of an operation was made from values on the host: on a GPU
    it would be copied there, and the copy waits.
    """

    def __init__(self, lasting):
        super().__init__()
        self.problems = []
        # Storages are kept, so that none is freed and its address used again.
        self.storages = {s._cdata: s for s in (x.untyped_storage() for x in lasting)}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = tensors((args, kwargs))
        if read := host_read(func, args):
            self.problems.append(read)
        for x in inputs:
            if x.untyped_storage()._cdata not in self.storages:
                self.problems.append(f"{func} takes {x.dtype} {list(x.shape)} made from values on the host")
        result = func(*args, **(kwargs or {}))
        outputs = tensors(result)
        if len({x.device for x in inputs + outputs}) > 1:
            self.problems.append(f"{func} copies between devices")
        self.storages |= {s._cdata: s for s in (x.untyped_storage() for x in outputs)}
        return result


def make_agent(algorithm, **overrides):
    return ImaginationAgent(OBSERVATION, ACTION, make_config("smoke", algorithm, device="cpu", **overrides))


def make_batch(agent, seed=0):
    g = torch.Generator().manual_seed(seed)
    b, length = agent.config.train.batch_size, agent.config.train.batch_length
    first = torch.rand(b, length, generator=g) < 0.1
    action = torch.rand(b, length, ACTION, generator=g) * 2 - 1
    return SequenceBatch(
        torch.randn(b, length, OBSERVATION, generator=g),
        action,
        torch.rand(b, length, generator=g),
        torch.zeros(b, length),
        first,
    )


def lasting(agent):
    """Weights, buffers, and Adam's state."""
    adam = [o.adam.state for o in agent.optimizers.values()]
    return [*agent.modules.parameters(), *agent.modules.buffers(), *tensors([list(s.values()) for s in adam])]


@pytest.mark.parametrize(
    ("algorithm", "overrides"),
    [
        ("lsp", {}),
        ("no_mi", {}),
        ("dreamer", {}),
        ("lsp", {"skill__mi": "compose", "value__skill": True}),
        ("lsp", {"model__discount_head": "on"}),
    ],
    ids=["lsp", "no_mi", "dreamer", "compose", "terminations"],
)
@pytest.mark.parametrize("plan_states", [4, 0])
def test_an_update_reads_nothing_on_the_host(algorithm, overrides, plan_states):
    agent = make_agent(algorithm, backend="reference", behavior__plan_states=plan_states, **overrides)
    agent.update(make_batch(agent))  # what a capture warms up: streams of noise, Adam's state
    batch = make_batch(agent, 1)
    with CaptureSafe([*lasting(agent), *batch]) as found:
        agent.update(batch)
    assert found.problems == []


def test_an_update_from_frames_reads_nothing_on_the_host():
    config = make_config("smoke", device="cpu", backend="reference", obs="pixels")
    agent = ImaginationAgent(SHAPE, ACTION, config)

    def frames(seed):
        g = torch.Generator().manual_seed(seed)
        batch = make_batch(agent, seed)
        shape = (*batch.reward.shape, *SHAPE)
        return batch._replace(observation=torch.randint(0, 256, shape, generator=g, dtype=torch.uint8))

    agent.update(frames(0))
    batch = frames(1)
    with CaptureSafe([*lasting(agent), *batch]) as found:
        agent.update(batch)
    assert found.problems == []


@pytest.mark.parametrize("algorithm", ["lsp", "dreamer"])
def test_weights_and_adams_state_keep_their_storage(algorithm):
    agent = make_agent(algorithm)
    agent.update(make_batch(agent))
    before = [(x.data_ptr(), x.detach().clone()) for x in lasting(agent)]
    for seed in range(3):
        agent.update(make_batch(agent, seed))
    after = lasting(agent)
    assert [x.data_ptr() for x in after] == [pointer for pointer, _ in before]
    assert sum(not torch.equal(x, old) for x, (_, old) in zip(after, before, strict=True)) > len(before) / 2


def test_loading_a_checkpoint_keeps_storage_and_generators():
    agent = make_agent("lsp")
    agent.update(make_batch(agent))
    pointers = [x.data_ptr() for x in lasting(agent)]
    generators = list(agent.noise.generators())
    agent.load_state_dict(agent.state_dict())
    assert [x.data_ptr() for x in lasting(agent)] == pointers
    assert all(a is b for a, b in zip(agent.noise.generators(), generators, strict=True))


class MetaNoise:
    """Noise's shapes on the meta device, which has no generators."""

    def normal(self, stream, *shape):
        return torch.randn(shape, device="meta")

    def choice(self, stream, total, count):
        return torch.randperm(total, device="meta")[:count]


class GradientsOnly(Optimizer):
    """All of a step but Adam's, whose fused form knows no meta device."""

    def __init__(self, module):
        self.parameters = list(module.parameters())
        self.param_groups = [{"params": self.parameters}]
        self._step = ops.adam(self, 1.0)

    def step(self, loss=None, retain_graph=False):
        return None if loss is None else super().step(loss, retain_graph)


@pytest.mark.parametrize("algorithm", ["lsp", "dreamer"])
def test_an_update_stays_on_its_device(algorithm):
    """On a device without values everything that reads one raises, and so does what mixes in a tensor of the CPU."""
    agent = make_agent(algorithm, backend="reference")
    agent.modules.to("meta")
    agent.noise = MetaNoise()
    agent.optimizers = {k: GradientsOnly(m) for k, m in agent.modules.items()}
    batch = SequenceBatch(*(x.to("meta") for x in make_batch(agent)))
    with CaptureSafe([]) as found:
        metrics = agent.update(batch)
    assert {x.device.type for x in metrics.values()} == {"meta"}
    assert not [p for p in found.problems if "between devices" in p]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x[[0, 1]],
        lambda x: x * torch.tensor([1.0, 2.0]),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.repeat_interleave((x > 0).long(), 0),
        lambda x: x.to("meta"),
    ],
)
def test_the_check_finds_what_a_capture_refuses(break_it):
    x = torch.tensor([-1.0, 2.0])
    with CaptureSafe([x]) as found:
        break_it(x)
    assert found.problems
