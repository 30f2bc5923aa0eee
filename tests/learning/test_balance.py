"""A weight of r^i that follows the actor's gradients, and what else the actor's loss may hold (SPEC section 8)."""

import copy
import math

import numpy as np
import pytest
import torch
from agents.test_update import batches, build

from lsp_fast.config import ActorConfig, SkillConfig
from lsp_fast.learning import behavior
from lsp_fast.learning.balance import Balance
from lsp_fast.learning.behavior import actor_regularisers, return_range

BY_GRADIENT = {"skill__beta_kind": "gradient", "skill__beta": 0.3}


def numbers(*values):
    return [torch.tensor(float(x)) for x in values]


def test_the_weight_by_hand():
    balance = Balance(SkillConfig(beta=0.3, beta_max=0.5))
    assert balance.beta == 0
    balance.measure(*numbers(2, 6))
    assert balance.beta.item() == pytest.approx(0.3 * 2 / 6)
    balance.measure(*numbers(4, 2))  # a plain mean at first
    assert balance.beta.item() == pytest.approx(0.3 * 3 / 4)
    balance.measure(*numbers(9, 0))
    assert balance.beta == 0.5  # 0.3 * 5 / 2.67 is above the bound
    balance.measures.fill_(100)
    task, told = balance.task_norm.item(), balance.intrinsic_norm.item()
    balance.measure(*numbers(0, 10))
    assert balance.beta.item() == pytest.approx(0.3 * 0.9 * task / (0.9 * told + 1))


def test_a_reward_without_a_gradient_has_the_bound():
    balance = Balance(SkillConfig(beta=0.3, beta_max=0.5))
    balance.measure(*numbers(1, 0))
    assert balance.beta == 0.5
    balance.measure(*numbers(0, 0))
    assert balance.beta.isfinite()


def test_it_measures_every_so_many_updates_and_remembers_its_count():
    balance = Balance(SkillConfig(beta_every=3))
    assert [balance.due() for _ in range(5)] == [True, False, False, True, False]
    other = Balance(SkillConfig(beta_every=3))
    other.load_state_dict(copy.deepcopy(balance.state_dict()))
    assert [other.due() for _ in range(3)] == [False, True, False]


def test_the_intrinsic_gradient_becomes_the_share_of_the_tasks():
    agent = build(**BY_GRADIENT, skill__beta_every=1, skill__beta_max=1e9)
    batch = next(batches(agent.config))
    first = agent.update(batch)
    task, told = agent.balance.task_norm.item(), agent.balance.intrinsic_norm.item()
    assert first["skill/beta"] == 0 and first["behavior/intrinsic_grad_norm"] == 0
    assert first["behavior/task_grad_norm"].item() == pytest.approx(task) and told > 0
    second = agent.update(batch)
    assert second["skill/beta"].item() == pytest.approx(0.3 * task / told)
    ratio = second["behavior/intrinsic_grad_norm"] / second["behavior/task_grad_norm"]
    assert 0.1 < ratio < 0.9  # of another update's rollouts


@pytest.mark.parametrize("mi", ["predict", "compose"])
def test_a_reward_times_a_constant_moves_the_policy_alike(mi, monkeypatch):
    overrides = {**BY_GRADIENT, "skill__beta_every": 2, "skill__beta_max": 1e9, "skill__mi": mi}
    plain, loud = build(**overrides), build(**overrides)
    real = behavior.first_rollouts
    for batch in batches(plain.config, 5):
        monkeypatch.setattr(behavior, "first_rollouts", real)
        plain.update(batch)
        monkeypatch.setattr(behavior, "first_rollouts", lambda reward, paid: 8 * real(reward, paid))
        loud.update(batch)
    assert loud.balance.beta.item() == pytest.approx(plain.balance.beta.item() / 8, rel=1e-5)
    for a, b in zip(plain.actor.parameters(), loud.actor.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_only_updates_that_are_due_take_more_gradients():
    agent = build(**BY_GRADIENT, skill__beta_every=2)
    assert "balance" not in agent.optimizers
    for i, batch in enumerate(batches(agent.config, 4)):
        assert ("behavior/intrinsic_grad_norm" in agent.update(batch)) == (i % 2 == 0)
    agent.update(next(batches(agent.config)), behavior=False)
    assert agent.balance.updates == 4 and agent.balance.measures == 2


def test_a_frozen_policy_is_not_measured():
    agent = build(**BY_GRADIENT, predictor__normalise=True)
    agent.frozen = {"actor", "predictor"}
    before = copy.deepcopy(agent.modules.state_dict())
    agent.update(next(batches(agent.config)))
    after = agent.modules.state_dict()
    frozen = [name for name in before if name.startswith(("actor", "predictor", "balance"))]
    assert all(torch.equal(before[name], after[name]) for name in frozen)


def test_a_fixed_weight_measures_nothing_and_keeps_nothing():
    agent = build()
    assert agent.balance is None and "balance" not in agent.modules
    assert "skill/beta" not in agent.update(next(batches(agent.config)))


def test_measuring_changes_nothing_else():
    """Beta lies at its bound, so that measures cannot move it."""
    rare, often = (
        build(**BY_GRADIENT, skill__beta_every=every, skill__beta_max=1e-6) for every in (1000, 1)
    )  # fmt: skip
    for batch in batches(rare.config, 3):
        rare.update(batch)
        often.update(batch)
    for a, b in zip(rare.actor.parameters(), often.actor.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_return_range_is_numpys():
    returns = torch.randn(9, 12)
    low, high = np.percentile(returns.numpy(), [5, 95])
    assert return_range(returns).item() == pytest.approx(high - low, rel=1e-5)
    assert return_range(torch.full((3, 4), 7.0)) == 0


def test_regularisers_by_hand():
    target = torch.tensor([[0.0, 10.0]])
    entropy, mean = torch.tensor([[2.0, -1.0]]), torch.tensor([[[1.4, -2.5], [0.0, 1.5]]])
    earned, penalty = actor_regularisers(target, entropy, mean, ActorConfig(entropy=0.1))
    assert penalty is None
    torch.testing.assert_close(earned, torch.tensor([[0.2, -0.1]]))
    config = ActorConfig(entropy=0.1, entropy_kind="range", saturation=3.0)
    earned, penalty = actor_regularisers(target, entropy, mean, config)
    torch.testing.assert_close(earned, 9 * torch.tensor([[0.2, -0.1]]))  # percentiles 0.5 and 9.5
    torch.testing.assert_close(penalty, torch.tensor([[1.5, 0.0]]))


def test_saturation_is_pulled_back():
    agents = [build(actor__saturation=weight, actor__learning_rate=1e-2) for weight in (0.0, 10.0)]
    for agent in agents:
        with torch.no_grad():
            agent.actor.mlp.out.bias[:2] = 3.0
        for batch in batches(agent.config, 5):
            found = agent.update(batch)
        assert math.isfinite(found["behavior/actor_loss"])
    biases = [agent.actor.mlp.out.bias[:2].mean().item() for agent in agents]
    assert biases[1] < biases[0] - 0.01
