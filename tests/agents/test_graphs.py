"""What a GPU would replay: a step of acting and every kind of update, pretended on the processor, to the bit."""

import numpy as np
import pytest
import torch

from agents.test_update import OBS, batches, build
from lsp_fast.agents import imagination
from lsp_fast.backends import cudagraph
from lsp_fast.noise import AskedNoise, GivenNoise, Noise

SMALL = {"planner__candidates": 20, "planner__elites": 5, "planner__iterations": 2}


@pytest.fixture
def captured(monkeypatch):
    """Tensors count as a GPU's. A capture runs the function with its streams out of reach, as a replay would."""
    names = []

    def capture(function, *inputs, generators, warmup):
        names.append(function)
        return function

    for module in (cudagraph, imagination):
        monkeypatch.setattr(module, "on_a_gpu", lambda *tensors: True)
    monkeypatch.setattr(cudagraph, "capture", capture)
    return names


def acted(agent, explore, steps=34, rows=2, resets=()):
    carry, seen = agent.initial_carry(rows, explore=explore, noise=Noise(3)), []
    rng = np.random.default_rng(0)
    for t in range(steps):
        first = np.zeros(rows, bool)
        first[0] = t in resets
        carry = agent.reset(carry, first)
        action, carry = agent.policy(rng.normal(size=(rows, OBS)).astype(np.float32), carry)
        seen.append(action)
    return np.stack(seen), carry


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize(
    ("algorithm", "overrides"),
    [
        ("lsp", {}),
        ("lsp", {"planner__warm_start": True, "planner__noise": "philox"}),
        ("random_skills", {}),
        ("dreamer", {"actor__eval_action": "tanh_mean"}),
        ("planet", {"planner__warm_start": True, **SMALL}),
    ],
    ids=["lsp", "warm", "random", "dreamer", "planet"],
)
def test_steps_that_are_replayed_act_the_same(captured, algorithm, overrides, explore):
    # Row 0 begins anew at step 13: the two plan at different times from then on, which no graph knows.
    got, carry = acted(build(algorithm, **overrides), explore, resets=(13,))
    replayed = len(captured)
    want, plain = acted(build(algorithm, train__cuda_graph=False, **overrides), explore, resets=(13,))
    np.testing.assert_array_equal(got, want)
    assert len(captured) == replayed >= 1
    assert torch.equal(carry.state.deter, plain.state.deter) and torch.equal(carry.step, plain.step)
    assert carry.noise is not plain.noise and type(carry.noise) is Noise
    for name, value in plain.noise.state_dict().items():
        assert torch.equal(value, carry.noise.state_dict()[name])


def test_a_held_skill_is_held_in_a_replay(captured):
    agent = build()
    carry = agent.hold(agent.initial_carry(1), [1.0, 0.0, -1.0])
    for _ in range(12):
        _, carry = agent.policy(np.zeros((1, OBS), np.float32), carry)
    assert carry.skill.tolist() == [[1.0, 0.0, -1.0]] and captured


def test_pretraining_and_diagnosis_have_graphs_of_their_own(captured):
    agent, plain = build(), build(train__cuda_graph=False)
    kinds = [(False, False), (True, False), (True, True), (True, False)] * 5
    for (behavior, diagnose), batch in zip(kinds, batches(agent.config, len(kinds)), strict=True):
        got, want = (a.update(batch, behavior=behavior, diagnose=diagnose) for a in (agent, plain))
        assert got.keys() == want.keys() and all(torch.equal(got[k], want[k].float()) for k in want)
    assert len(captured) == 3


def test_what_was_asked_for_is_what_is_given():
    noise, asked = Noise(0), AskedNoise(Noise(0))
    for source in (noise, asked):
        drawn = [source.normal("a", 2), source.words("b", 3), source.choice("c", 5, 2)]
    assert [how for how, _, _ in asked.asked] == ["normal", "words", "choice"]
    again = Noise(0)
    given = GivenNoise([getattr(again, how)(stream, *shape) for how, stream, shape in asked.asked])
    handed = given.normal("a", 2), given.words("b", 3), given.choice("c", 5, 2)
    assert all(torch.equal(x, y) for x, y in zip(drawn, handed, strict=True))
