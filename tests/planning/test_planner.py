"""The planner's own matter: which plans are replayed as graphs, and that a graph's plan is the plan."""

import numpy as np
import pytest
import torch
from agents.test_update import OBS, batches, build
from torch.utils._pytree import tree_map_only

from lsp_fast import backends, ops
from lsp_fast.backends import REFERENCE
from lsp_fast.config import make_config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import PlanKey, PlanNoise, State
from lsp_fast.planning.planner import Planner, plan_rules

SMALL = {"planner__candidates": 20, "planner__elites": 5, "planner__iterations": 2}


def watched(agent):
    """Whether each plan that goes through a graph samples actions, in order."""
    calls, graphs = [], agent.planner._graphs

    def spy(sample):
        def call(*tensors):
            calls.append(sample)
            return graphs[sample](*tensors)

        return call

    agent.planner._graphs = {sample: spy(sample) for sample in graphs}
    return calls


@pytest.mark.parametrize("noise", ["tensors", "philox"])
def test_acting_plans_by_a_graph_and_learning_within_its_own(noise):
    agent = build(planner__noise=noise)
    calls = watched(agent)
    for batch in batches(agent.config, 2):
        agent.update(batch, diagnose=True)
    assert calls == []  # the whole update is one graph, in which another cannot be replayed
    observation = np.zeros((2, OBS), np.float32)
    for explore in (True, False):
        carry = agent.initial_carry(2, explore=explore)
        for _ in range(agent.config.skill.length + 1):
            _, carry = agent.policy(observation, carry)
    assert calls == [True, True, False, False]


def test_planned_actions_are_a_graphs_too_and_sample_nothing():
    agent = build("planet", **SMALL)
    calls = watched(agent)
    for explore in (True, False):
        agent.policy(np.zeros((2, OBS), np.float32), agent.initial_carry(2, explore=explore))
    assert calls == [False, False]


@pytest.mark.parametrize("noise", ["tensors", "philox"])
@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("algorithm", ["lsp", "planet"])
def test_plan_gives_what_search_ends_with(algorithm, sample, noise):
    agent = build(algorithm, planner__noise=noise, **SMALL)
    planner, m = agent.planner, agent.config.model
    start = State(torch.randn(3, m.stoch), torch.randn(3, m.deter).tanh())
    drawn, prior = planner.draw(Noise(0), "x", 3, sample=sample), planner.prior(start)
    found, expected = planner.plan(start, drawn, prior), planner.search(start, drawn)
    assert torch.equal(found.mean, expected.mean) and torch.equal(found.std, expected.std)
    assert found.mean.shape == (3, *agent.config.plan_shape(2))


@pytest.fixture
def packing():
    """A backend that reads copies of weights, made when they are packed; how often is counted."""
    packed = []

    def pack_heads(prior, actor, heads, precision):
        held = {}

        def pack():
            packed.append(len(packed))
            held["weights"] = tree_map_only(torch.Tensor, lambda x: x.detach().clone(), (prior, actor, heads))

        def imagine_heads(start, skills, length, noise):
            prior, actor, heads = held["weights"]
            return ops.imagine_heads(start, prior, actor, skills, length, noise, heads, precision)

        pack()
        imagine_heads.pack = pack
        return imagine_heads

    return packed, backends.REFERENCE._replace(name="packing", pack_heads=pack_heads)


@pytest.mark.parametrize("algorithm", ["lsp", "planet", "dreamer"])
def test_weights_are_packed_once_an_update_and_plans_see_todays(packing, algorithm):
    packed, backend = packing
    agent, plain = build(algorithm, **SMALL), build(algorithm, **SMALL)
    agent.planner.backend = backend
    start = State(torch.randn(3, agent.config.model.stoch), torch.randn(3, agent.config.model.deter).tanh())

    def same():
        drawn = agent.planner.draw(Noise(0), "x", 3, sample=True)
        found, expected = (a.planner.plan(start, drawn, a.planner.prior(start)) for a in (agent, plain))
        assert torch.equal(found.mean, expected.mean)

    plans = algorithm != "dreamer"
    for batch in batches(agent.config, 3):
        for a in (agent, plain):
            a.update(batch)
        if not plans:
            assert not packed
            continue
        same()
        before = len(packed)
        same()
        assert len(packed) == before  # weights are today's already
    if plans:
        # Planned from by the behaviour, after the world model's step; and at the end of the update.
        assert len(packed) == {"lsp": 2, "planet": 1}[algorithm] * 3
        agent.load_state_dict(build(algorithm, seed=5, **SMALL).state_dict())
        plain.load_state_dict(build(algorithm, seed=5, **SMALL).state_dict())
        same()


def test_where_nobody_packs_nothing_is_packed():
    agent = build()
    assert agent.planner.imagine_heads() is None
    agent.planner.pack()


def test_auto_multiplies_bf16_where_there_is_an_instruction_for_it():
    config = make_config("smoke", planner__precision="auto")
    assert plan_rules(config).precision == plan_rules(config, REFERENCE).precision == "fp32"
    assert plan_rules(config, REFERENCE._replace(multiplies_bf16=True)).precision == "bf16"
    native = REFERENCE._replace(multiplies_bf16=True)
    assert plan_rules(make_config("smoke"), native).precision == "fp32"


def test_auto_takes_a_key_where_the_backend_draws_natively():
    config = make_config("smoke")
    drawing = REFERENCE._replace(normals=lambda *_: None)
    planners = [Planner(config, lambda: None, backend) for backend in (REFERENCE, drawing)]  # type: ignore[arg-type]
    for planner in planners:
        planner.action_dim = 2
    tensors, key = (planner.draw(Noise(0), "x", 3, sample=True) for planner in planners)
    assert isinstance(tensors, PlanNoise) and isinstance(key, PlanKey)
