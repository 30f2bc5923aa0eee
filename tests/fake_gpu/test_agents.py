"""Acting and learning on a pretended GPU: what they wait for, and that graphs change nothing."""

import pickle

import numpy as np
import pytest
import torch

from lsp_fast import agents, ops
from lsp_fast.backends.cudagraph import WARMUP
from lsp_fast.config import ALGORITHMS
from lsp_fast.experience.replay import Batch
from lsp_fast.observed import Observed
from lsp_fast.training.upload import Upload

OBSERVATION, ACTION = 5, 2
OPTIONS = {
    "skill__beta_kind": "gradient", "skill__beta_every": 20, "skill__random_share": 0.5, "skill__input_scale": 3.0,
    "skill__offset": "on", "predictor__normalise": True, "actor__entropy_kind": "range", "actor__saturation": 0.1,
    "value__clip_targets": True,
}  # fmt: skip
LEARNING = {"options": OPTIONS, "measured every time": {**OPTIONS, "skill__beta_every": 1}}
"""The second's captured update is the one that measures."""
ACTING = {
    "warm start": ("planet", {"planner__warm_start": True}),
    "planning often": ("lsp", {"planner__replan": 1, "planner__rollouts": "mean", "planner__noise": "philox"}),
    "committed": (
        "lsp",
        {"planner__replan": 2, "planner__rollouts": "mean", "collect__commit": 0.5, "collect__exploration_steps": 50},
    ),
}
"""Rows of options for acting, beside the algorithms'."""


def sequences(config, seed):
    """Arrays as the replay gives them."""
    rng = np.random.default_rng(seed)
    batch = Batch.empty(config.train.batch_size, config.train.batch_length, (OBSERVATION,), ACTION, np.float32)
    for array in batch:
        array[...] = rng.uniform(-1, 1, array.shape) > 0.9 if array.dtype == bool else rng.uniform(-1, 1, array.shape)
    batch.terminal[...] = 0
    return batch


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_waits_once_for_its_action(algorithm, gpu, small):
    agent = agents.make(OBSERVATION, ACTION, small(algorithm), None)
    for explore in (True, False):
        carry = agent.initial_carry(2, explore=explore)
        for t in range(5):
            gpu.events.clear()
            carry = agent.reset(carry, np.array([t == 0, t == 3]))
            _, carry = agent.policy(np.zeros((2, OBSERVATION), np.float32), carry)
            assert [event.kind for event in gpu.events] == ["host read"], gpu.events


@pytest.mark.parametrize("variant", [*LEARNING, *(name for name in ALGORITHMS if not name.startswith("hiro"))])
def test_a_graph_changes_nothing(variant, gpu, small):
    """Also after a checkpoint was loaded, and beside updates that diagnose, which are not captured."""
    algorithm, overrides = ("lsp", LEARNING[variant]) if variant in LEARNING else (variant, {})
    graphed, eager = (
        agents.make(OBSERVATION, ACTION, small(algorithm, train__cuda_graph=graphs, **overrides), None)
        for graphs in (True, False)
    )
    upload, state = Upload(graphed.device), None
    gpu.events.clear()
    for seed in range(WARMUP + 5):
        batch, diagnose = upload(sequences(graphed.config, seed)), seed == WARMUP + 2
        if seed == WARMUP + 3:
            for agent in (graphed, eager):
                agent.load_state_dict(state)
            gpu.events.clear()
        a, b = (agent.update(batch, diagnose=diagnose) for agent in (graphed, eager))
        assert gpu.events == [] and gpu.faults == []
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name].inner, b[name].inner), (seed, name)
        if seed == WARMUP + 1:
            state = pickle.loads(pickle.dumps(eager.state_dict()))
    assert gpu.captures == 1 and gpu.replays >= 3


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("variant", [*ACTING, *(name for name in ALGORITHMS if not name.startswith("hiro"))])
def test_a_graph_acts_as_without(variant, explore, gpu, small):
    """Held steps and planning steps, of one episode, of two, and where they are out of step."""
    algorithm, overrides = ACTING.get(variant, (variant, {}))
    graphed, eager = (
        agents.make(OBSERVATION, ACTION, small(algorithm, train__cuda_graph=graphs, **overrides), None)
        for graphs in (True, False)
    )
    rng = np.random.default_rng(0)
    carries = [agent.initial_carry(2, explore=explore) for agent in (graphed, eager)]
    for t in range(5 * (WARMUP + 1)):
        is_first, observation = np.array([t in (0, 14), t in (0, 13)]), rng.uniform(-1, 1, (2, OBSERVATION))
        actions = []
        for i, agent in enumerate((graphed, eager)):
            action, carries[i] = agent.policy(observation, agent.reset(carries[i], is_first))
            actions.append(action)
        assert np.array_equal(*actions), t
    assert gpu.replays > 0


def test_graphs_of_both_change_nothing(gpu, small):
    """Numbers are read out of a row of bytes in acting's graph and in learning's."""
    sizes = Observed(OBSERVATION, (64, 64, 3))
    config = {"obs": "both", "planner__candidates": 4, "behavior__plan_states": 2}
    graphed, eager = (
        agents.make(sizes.plain, ACTION, small(train__cuda_graph=graphs, **config), None) for graphs in (True, False)
    )

    def seen(seed, *rows):
        rng = np.random.default_rng(seed)
        frame = rng.integers(0, 256, (*rows, 64, 64, 3), dtype=np.uint8)
        return sizes.pack({"frame": frame, "vector": rng.normal(size=(*rows, OBSERVATION))})

    upload = Upload(graphed.device)
    carries = [agent.initial_carry(2, explore=True) for agent in (graphed, eager)]
    for seed in range(2 * (WARMUP + 2)):
        batch = sequences(graphed.config, seed)
        batch = upload(batch._replace(observation=seen(seed, *batch.reward.shape)))
        a, b = (agent.update(batch) for agent in (graphed, eager))
        for name in a:
            assert torch.equal(a[name].inner, b[name].inner), (seed, name)
        actions = []
        for i, agent in enumerate((graphed, eager)):
            action, carries[i] = agent.policy(seen(seed, 2), carries[i])
            actions.append(action)
        assert np.array_equal(*actions), seed
    assert gpu.captures > 1 and gpu.replays > 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("algorithm", ["lsp", "planet"])
def test_packed_weights_follow_updates_replays_and_loads(algorithm, precision, gpu, launches, small, monkeypatch):
    """Triton plans from copies of the weights. A replay changes weights, and PyTorch does not count that."""
    triton_adam = pytest.importorskip("lsp_fast.backends.triton_adam")
    monkeypatch.setattr(triton_adam, "adam", ops.adam)  # a launch that is only recorded changes nothing
    agent = agents.make(OBSERVATION, ACTION, small(algorithm, backend="triton", planner__precision=precision), None)
    upload, carry = Upload(agent.device), agent.initial_carry(2, explore=True)

    def act():
        return agent.policy(np.zeros((2, OBSERVATION), np.float32), carry)

    def packed():
        heads = agent.planner.imagine_heads()
        return heads, heads.pack.__self__._into

    first, addresses = None, None
    for seed in range(WARMUP + 4):
        act()
        agent.update(upload(sequences(agent.config, seed)), diagnose=seed == WARMUP + 2)
        if seed == 1:
            state = pickle.loads(pickle.dumps(agent.state_dict()))
        if seed == WARMUP + 3:
            agent.load_state_dict(state)
            act()
        heads, tensors = packed()
        before = [x.inner.clone() for x in tensors]
        heads.pack()
        assert all(torch.equal(x.inner, old) for x, old in zip(tensors, before, strict=True)), seed
        assert addresses in (None, [x.data_ptr() for x in tensors])
        addresses = [x.data_ptr() for x in tensors]
        assert first is None or any(not torch.equal(x, old) for x, old in zip(before, first, strict=True))
        first = before
    assert gpu.replays and len(addresses) > 10
