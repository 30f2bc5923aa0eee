"""Plans in C++ whose entries are actions, without skills: PlaNet's."""

import pytest
import torch
from plans import CPP, PARTS, assert_equal, build, double

from lsp_fast.backends import REFERENCE, cpp
from lsp_fast.ops.types import Normal, PlanNoise, PlanRules, PlanWeights
from lsp_fast.planning.plan import plan as plan_with


def action_problem(states=2, candidates=70, value=False, seed=0, **rules):
    """PlaNet's plan: actions, clipped, scored by undiscounted rewards."""
    start, weights, _, config = build(states, seed=seed)
    weights = PlanWeights(weights.prior, None, weights.reward, weights.value if value else None, None)
    generator = torch.Generator().manual_seed(seed)
    steps, iterations, s = 6, 3, config.model.stoch
    noise = PlanNoise(
        torch.randn(iterations, states, candidates, steps, 2, generator=generator),
        torch.randn(iterations, steps, states * candidates, s, generator=generator),
        None,
    )
    prior = Normal(torch.zeros(states, steps, 2), torch.ones(states, steps, 2))
    chosen = {"gamma": 1.0, "lam": 1.0, "by_sum": True, "floor": 0.0, "clip": 1.0, **rules}
    return start, weights, noise, prior, PlanRules(min(10, candidates), 1, **chosen)


@pytest.mark.parametrize("states", [1, 2, 30])
@pytest.mark.parametrize("candidates", [1, 17, 70, 200])
@pytest.mark.parametrize("value", [False, True])
def test_actions_are_planned_like_the_reference(states, candidates, value):
    problem = action_problem(states, candidates, value)
    ours, reference = plan_with(*problem, CPP), plan_with(*double(problem[:-1]), problem[-1], REFERENCE)
    assert ours.mean.abs().max() <= 1
    torch.testing.assert_close(ours.values[0], reference.values[0].float(), rtol=1e-5, atol=1e-5)
    start, weights, noise, prior, rules = problem
    plans = (prior.mean[:, None] + prior.std[:, None] * noise.candidates[0]).clamp(-1, 1)
    for n in range(states):
        chosen = plans[n, ours.elites[0, n]]
        one = noise._replace(candidates=noise.candidates[:1], stoch=noise.stoch[:1])
        first = plan_with(start, weights, one, prior, rules, CPP)
        torch.testing.assert_close(first.mean[n], chosen.mean(0))
        torch.testing.assert_close(first.std[n], chosen.std(0, correction=0))


def test_actions_scored_by_lambda_returns_are_the_parts_to_the_bit():
    problem = action_problem(3, 40, True, by_sum=False, gamma=0.99, lam=0.95)
    assert_equal(plan_with(*problem, CPP), plan_with(*problem, PARTS))


def test_threads_share_the_rollouts_of_one_state(threads):
    problem = action_problem(1, 300)
    alone = plan_with(*problem, CPP)
    for number in (2, 3, 7):
        threads(number)
        assert_equal(plan_with(*problem, CPP), alone)


def test_actions_that_are_held():
    start, weights, noise, _, rules = action_problem(3, 20)
    prior = Normal(torch.zeros(3, 2, 2), torch.ones(3, 2, 2))
    noise, rules = noise._replace(candidates=noise.candidates[:, :, :, :2]), rules._replace(skill_length=4)
    ours = plan_with(start, weights, noise, prior, rules, CPP)
    exact = plan_with(*double((start, weights, noise, prior)), rules, REFERENCE)
    torch.testing.assert_close(ours.values[0], exact.values[0].float(), rtol=1e-5, atol=1e-5)


def test_a_lambda_return_needs_a_value():
    for backend in (CPP, PARTS, REFERENCE):
        with pytest.raises(ValueError, match="lambda-return needs"):
            plan_with(*action_problem(by_sum=False), backend)


@pytest.mark.parametrize("width", [1, 3])
def test_actions_of_another_width_are_refused(width):
    start, weights, noise, _, rules = action_problem()
    prior = Normal(torch.zeros(2, 6, width), torch.ones(2, 6, width))
    with pytest.raises(ValueError, match="actions of 2"):
        cpp.plan(start, weights, noise, prior, rules)
