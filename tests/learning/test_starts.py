"""Where behaviour begins, and with which skills (SPEC section 8)."""

import pytest
import torch
from agents.test_update import batches, build

from lsp_fast.learning.starts import Starts, choose_starts, draw_skills
from lsp_fast.ops.types import State
from lsp_fast.planning.planner import SkillPlan


def states(agent, count, first=0.0):
    """Posterior states that tell their number."""
    numbers = first + torch.arange(count, dtype=torch.float32)[:, None]
    return State(*(numbers.expand(-1, width).clone() for width in (agent.config.model.stoch, agent.config.model.deter)))


@pytest.mark.parametrize(
    ("overrides", "count", "random"),
    [
        ({}, 4, 0),
        ({"skill__random_share": 0.5}, 4, 2),
        ({"skill__random_share": 1.0}, 4, 4),
        ({"skill__random_share": 0.3, "behavior__plan_states": 0}, 20, 6),
        ({"behavior__starts": 10}, 10, 6),
        ({"behavior__starts": 10, "skill__random_share": 0.2}, 10, 6),
        ({"behavior__starts": 10, "skill__random_share": 0.8}, 10, 8),
        ({"behavior__starts": 10, "behavior__plan_states": 0}, 10, 0),
        ({"behavior__starts": 99}, 20, 16),
        ({"skill__source": "random", "skill__random_share": 0.5}, 4, 0),
    ],
)
def test_one_rule_says_which_starts_are_planned_for(overrides, count, random):
    agent = build(**overrides)
    starts = choose_starts(states(agent, 20), None, agent.noise, agent.config)
    numbers = starts.state.stoch[:, 0].tolist()
    assert (len(numbers), starts.random, len(set(numbers))) == (count, random, count)
    seen = []

    def distribution(start, *_, **__):
        seen.append(start.stoch[:, 0].tolist())
        n = len(start.stoch)
        mean, std = torch.full((n, 1, 3), 5.0), torch.full((n, 1, 3), 0.1)
        return SkillPlan(mean, std, mean, std)

    agent.planner.distribution = distribution
    rollouts = draw_skills(starts, agent.planner, agent.noise)
    assert seen == ([numbers[random:]] if random < count else [])
    each = agent.config.skill.per_plan
    assert rollouts.start.stoch[:, 0].tolist() == [x for x in numbers for _ in range(each)]
    assert rollouts.policy.mean[0, :, 0].tolist() == [0.0] * random * each + [5.0] * (count - random) * each
    share = agent.config.skill.random_share > 0 and agent.config.skill.source == "planned"
    assert rollouts.paid == (random * each if share else None)
    planned = agent.config.skill.source == "planned" and random < count
    assert (rollouts.plan_std is not None) == planned


def test_terminal_states_come_last_and_are_shared_out_by_chance():
    agent = build(skill__random_share=0.5, behavior__plan_states=16)
    live = torch.ones(20)
    live[:10] = 0
    of_random = []
    for _ in range(50):
        starts = choose_starts(states(agent, 20), live, agent.noise, agent.config)
        numbers = starts.state.stoch[:, 0]
        assert torch.equal(starts.live, (numbers >= 10).float()) and starts.live.sum() == 10
        of_random.append(starts.live[: starts.random].sum().item())
    assert 4 < sum(of_random) / 50 < 6


def test_all_states_are_taken_as_they_are_where_none_is_random():
    agent = build(behavior__plan_states=0)
    given = states(agent, 20)
    assert choose_starts(given, None, agent.noise, agent.config) == Starts(given, None, 0)
    assert not agent.noise.state_dict()  # nothing was drawn


def test_the_intrinsic_reward_is_paid_on_the_random_share_alone(monkeypatch):
    from lsp_fast.learning import behavior

    agent, found = build(skill__random_share=0.5, actor__entropy=0.0), {}
    real = behavior.intrinsic_bonus

    def spy(*arguments):
        found["reward"], metrics = real(*arguments)
        return found["reward"], metrics

    monkeypatch.setattr(behavior, "intrinsic_bonus", spy)
    metrics = agent.update(next(batches(agent.config)))
    reward, each = found["reward"], agent.config.skill.per_plan
    assert (reward[:10, : 2 * each] != 0).all() and (reward[:, 2 * each :] == 0).all()
    assert metrics["behavior/predictor_loss"].isfinite()


def test_with_random_starts_alone_nothing_is_planned():
    agent = build(skill__random_share=1.0)
    agent.planner.search = None
    metrics = agent.update(next(batches(agent.config)))
    assert "planner/std" not in metrics and all(value.isfinite() for value in metrics.values())
