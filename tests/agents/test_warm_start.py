"""Plans that begin where the last one ended (SPEC section 4: warm start is an option)."""

import itertools

import numpy as np
import pytest
import torch

from agents.test_update import OBS, build
from lsp_fast.errors import ConfigError
from lsp_fast.ops.types import Normal
from lsp_fast.planning import planner
from lsp_fast.planning.planner import moved_on
from lsp_fast.training.loop import train

SMALL = {"planner__candidates": 20, "planner__elites": 5, "planner__iterations": 2}


def priors_and_plans(agent, steps, resets=(), monkeypatch=None, explore=False):
    """What each plan of a stream of observations began from, and its mean."""
    found, plan = [], planner.plan

    def spy(start, weights, noise, prior, *rest):
        result = plan(start, weights, noise, prior, *rest)
        found.append((Normal(*(x.clone() for x in prior)), result.mean.clone()))
        return result

    monkeypatch.setattr(planner, "plan", spy)
    rng = np.random.default_rng(1)
    carry = agent.initial_carry(2, explore=explore)
    for t in range(steps):
        carry = agent.reset(carry, np.array([t in resets, False]))
        _, carry = agent.policy(rng.normal(size=(2, OBS)).astype(np.float32), carry)
    return found


def test_a_plan_moves_on_by_one_and_its_last_entry_stays():
    last = torch.arange(12.0).reshape(1, 4, 3)
    assert torch.equal(moved_on(last), last[:, [1, 2, 3, 3]])
    assert torch.equal(moved_on(last[:, :1]), last[:, :1])


def test_planned_actions_begin_from_the_last_plan(monkeypatch):
    agent = build("planet", planner__warm_start=True, behavior__horizon=5, **SMALL)
    found = priors_and_plans(agent, 6, resets=(3,), monkeypatch=monkeypatch)
    assert len(found) == 6 and not found[0][0].mean.any()
    for t, (before, now) in enumerate(itertools.pairwise(found), 1):
        expected = moved_on(before[1])
        if t == 3:
            expected[0] = 0  # its episode begins
        assert torch.equal(now[0].mean, expected) and (now[0].std == 1).all()


def test_planned_skills_begin_from_the_last_plan_of_their_own_episode(monkeypatch):
    agent = build(planner__warm_start=True, behavior__horizon=20)  # two skills a plan
    found = priors_and_plans(agent, 24, resets=(13,), monkeypatch=monkeypatch)
    (_, first), (second, planned), (third, _), (fourth, _), *_ = found
    assert torch.equal(second.mean, moved_on(first))  # t = 10, both
    assert third.mean.shape[0] == 1 and not third.mean.any()  # t = 13: row 0 begins anew
    assert torch.equal(fourth.mean[0], moved_on(planned)[1])  # t = 20: row 1 goes on
    (_, first), (second, _), *_ = priors_and_plans(agent, 11, monkeypatch=monkeypatch, explore=True)
    apart = (second.mean - moved_on(first)).abs()
    assert 0 < apart.mean() < 0.3  # epsilon, with which the plan was acted on


def test_learning_plans_from_the_standard_normal_and_off_is_as_before(monkeypatch):
    found = priors_and_plans(build(), 11, monkeypatch=monkeypatch)
    assert all(not prior.mean.any() and (prior.std == 1).all() for prior, _ in found)
    assert build().initial_carry(1).plan is None


@pytest.mark.parametrize("algorithm", ["lsp", "planet"])
def test_a_run_in_two_parts_is_the_same(smoke, tmp_path, algorithm):
    values = {"planner__warm_start": True, "env_steps": 1060, "train__eval_every": 2000, "skill__length": 5,
              "behavior__horizon": 6, **SMALL}  # fmt: skip
    whole = train(smoke(algorithm, **values), tmp_path / "whole", progress=False)
    train(smoke(algorithm, **{**values, "env_steps": 1024}), tmp_path / "parts", progress=False)
    parts = train(smoke(algorithm, **values), tmp_path / "parts", progress=False)
    assert parts.resumed_at == 1024 and parts.score == whole.score
    replays = [(result.folder / "replay" / "action.f32").read_bytes() for result in (whole, parts)]
    assert replays[0] == replays[1]
    cold = train(smoke(algorithm, **{**values, "planner__warm_start": False}), tmp_path / "cold", progress=False)
    assert cold.score != whole.score


def test_without_plans_it_is_refused():
    with pytest.raises(ConfigError, match="there are no plans"):
        build("dreamer", planner__warm_start=True)
