"""A whole plan in C++: the parts put together to the bit, and the float64 reference where elites are certain."""

import copy
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import draw_plan_noise, plan_skills, standard_normal

from lsp_fast import backends
from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import REFERENCE, cpp
from lsp_fast.config import make_config
from lsp_fast.errors import BackendUnavailable
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.noise import Noise
from lsp_fast.ops.types import ImagineNoise, Normal, PlanKey, PlanNoise, PlanRules, PlanWeights, State
from lsp_fast.planning.cem import CEMResult
from lsp_fast.planning.plan import plan as plan_with
from lsp_fast.planning.plan import score_plans
from lsp_fast.planning.planner import plan_rules

try:
    cpp.load()
except BackendUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)

CPP = backends.get("cpp")
PARTS = CPP._replace(plan=None)


def build(states=3, seed=0, sample=True, preset="smoke", **overrides):
    """start, weights, noise and configuration of a plan with networks drawn at random."""
    given = {"planner__rollouts": "sampled", "planner__std_min": 0.0, "skill__input_scale": 1.0, **overrides}
    config = make_config(preset, device="cpu", backend="reference", seed=seed, **given)
    agent = ImaginationAgent(5, 2, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in agent.modules.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    start = State(
        torch.randn(states, config.model.stoch, generator=generator),
        torch.randn(states, config.model.deter, generator=generator).tanh(),
    )
    noise = draw_plan_noise(Noise(seed), "x", config, states, 2, sample)
    return start, agent.plan_weights(), noise, config


def double(x):
    if isinstance(x, torch.Tensor):
        return x.detach().double()
    if isinstance(x, tuple):
        parts = [double(y) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def assert_equal(a: CEMResult, b: CEMResult):
    for name, x, y in zip(CEMResult._fields, a, b, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype, name
        assert torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)), name


MANY = {"planner__candidates": 64, "planner__elites": 8, "planner__iterations": 2}
FIVE = {"behavior__horizon": 10, "skill__length": 5}
CASES = {
    "one state": {"states": 1},
    "seventeen rows a state": {"planner__candidates": 17, "planner__elites": 5},
    "many": {"states": 40},
    "H not a multiple of K": {"behavior__horizon": 7, "skill__length": 3},
    "four skills": {"behavior__horizon": 8, "skill__length": 2},
    "tanh(mean)": {"sample": False},
    "M = G": {"planner__elites": 6},
    "one candidate": {"planner__candidates": 1, "planner__elites": 1},
    "wide skill": {"skill__dim": 7},
    "no floor": {"planner__std_floor": 0.0},
    "shared noise": {"planner__rollouts": "shared"},
    "shared noise, one candidate": {"planner__rollouts": "shared", "planner__candidates": 1, "planner__elites": 1},
    "means": {"planner__rollouts": "mean"},
    "means, 64 candidates": {"planner__rollouts": "mean", **MANY, "states": 1},
    "64 candidates": MANY,
    "K = 5": {**FIVE, "states": 17},
    "K = 5, philox, means, least spread": {
        **FIVE,
        "planner__noise": "philox",
        "planner__rollouts": "mean",
        "planner__std_min": 0.3,
    },
    "philox, means": {"planner__noise": "philox", "planner__rollouts": "mean", "states": 40},
    "philox, means, bf16": {"planner__noise": "philox", "planner__rollouts": "mean", "planner__precision": "bf16"},
    "least spread": {"planner__std_min": 0.7},
    "philox": {"planner__noise": "philox"},
    "philox, shared noise": {"planner__noise": "philox", "planner__rollouts": "shared", "states": 40},
    "philox, tanh(mean)": {"planner__noise": "philox", "sample": False},
    "bf16": {"planner__precision": "bf16"},
    "bf16, odd widths": {"planner__precision": "bf16", "model__deter": 17, "model__stoch": 5, "actor__units": 13},
    "bf16, philox": {"planner__precision": "bf16", "planner__noise": "philox", "states": 17},
}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_its_parts_to_the_bit(name):
    problem = build(**CASES[name])
    assert_equal(plan_skills(*problem, CPP), plan_skills(*problem, PARTS))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_a_plan_is_its_parts_at_the_presets_sizes(preset, precision):
    problem = build(5, preset=preset, planner__precision=precision)
    assert_equal(plan_skills(*problem, CPP), plan_skills(*problem, PARTS))


@pytest.mark.parametrize(
    "options", [{"planner__objective": "sum"}, {"model__discount_head": "on"}], ids=["sum", "head"]
)
@pytest.mark.parametrize("sample", [True, False])
def test_sums_and_discount_heads_are_close_to_the_parts(options, sample):
    problem = build(sample=sample, **options)
    ours, parts = plan_skills(*problem, CPP), plan_skills(*problem, PARTS)
    torch.testing.assert_close(ours.values, parts.values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.mean, parts.mean)
    assert torch.equal(ours.elites, parts.elites)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(data=st.data())
def test_a_plan_is_its_parts_whatever_the_sizes(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    candidates = draw(1, 20)
    problem = build(
        draw(0, 6),
        seed=draw(0, 99),
        sample=data.draw(st.booleans()),
        planner__std_min=data.draw(st.sampled_from([0.0, 0.4])),
        planner__precision=data.draw(st.sampled_from(["fp32", "bf16"])),
        planner__noise=data.draw(st.sampled_from(["tensors", "philox"])),
        planner__rollouts=data.draw(st.sampled_from(["sampled", "mean", "shared"])),
        model__deter=draw(1, 19),
        model__stoch=draw(1, 9),
        model__hidden=draw(1, 19),
        model__reward_units=draw(1, 19),
        actor__units=draw(1, 19),
        actor__layers=draw(1, 3),
        value__layers=draw(1, 4),
        behavior__horizon=draw(2, 7),
        skill__length=draw(1, 9),
        skill__dim=draw(1, 4),
        skill__intrinsic=False,
        planner__candidates=candidates,
        planner__elites=draw(1, candidates),
        planner__iterations=draw(1, 3),
    )
    assert_equal(plan_skills(*problem, CPP), plan_skills(*problem, PARTS))


@pytest.mark.parametrize("least", [0.0, 0.7])
@pytest.mark.parametrize("scale", [4.0, 3.0])
def test_a_plan_of_louder_skills_is_its_parts(scale, least):
    """In C++ it is the plan of what the policy sees, in other units; a scale of a power of two rounds nothing else."""
    start, weights, noise, config = build(8, skill__input_scale=scale, planner__std_floor=0.01, planner__std_min=least)
    whole, parts = (plan_skills(start, weights, noise, config, backend) for backend in (CPP, PARTS))
    if scale == 4:
        assert_equal(whole, parts)
    else:
        for x, y in zip(whole, parts, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    plain = plan_skills(start, weights._replace(actor=weights.actor._replace(skill_scale=1.0)), noise, config, CPP)
    assert not torch.equal(plain.values, whole.values)


def test_results_do_not_depend_on_threads():
    problem = build(states=7, planner__candidates=5)
    whole = plan_skills(*problem, CPP)
    try:
        for threads in (2, 3, 16):
            torch.set_num_threads(threads)
            assert_equal(plan_skills(*problem, CPP), whole)
    finally:
        torch.set_num_threads(1)


def plan(start, weights, noise, config, **options):
    shape = len(start.stoch), config.skills_per_rollout, config.skill.dim
    prior = Normal(torch.zeros(shape), torch.ones(shape))
    return CEMResult(*cpp.plan(start, weights, noise, prior, plan_rules(config), **options))


@pytest.mark.parametrize("isa", cpp.instruction_sets())
@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_values_and_certain_elites_equal_float64(isa, preset):
    start, weights, noise, config = build(8, preset=preset)
    ours = plan(start, weights, noise, config, isa=isa)
    # One iteration each, from the distribution that ours had: a different elite would change all that follows.
    means, stds = [torch.zeros_like(ours.mean)], [torch.ones_like(ours.mean)]
    undecided = total = 0
    for i in range(config.planner.iterations):
        one = noise._replace(candidates=noise.candidates[i : i + 1], stoch=noise.stoch[i : i + 1])
        one = one._replace(action=noise.action[i : i + 1])
        p, prior = config.planner, Normal(means[-1], stds[-1])
        mean, std, values, elites = cpp.plan(start, weights, one, prior, plan_rules(config), isa=isa)
        assert torch.equal(values[0], ours.values[i]) and torch.equal(elites[0], ours.elites[i])
        exact = exact_values(start, weights, one, config, means[-1], stds[-1])
        tolerance = 2e-6 * exact.abs().max()
        assert (values[0] - exact).abs().max() <= tolerance
        ranked = exact.sort(1, descending=True).values
        certain = ranked[:, p.elites - 1] - ranked[:, p.elites] > 2 * tolerance
        best = exact.argsort(1, descending=True)[:, : p.elites]
        assert torch.equal(elites[0].sort(1).values[certain], best.sort(1).values[certain])
        undecided, total = undecided + int((~certain).sum()), total + len(certain)
        means.append(mean)
        stds.append(std)
    assert undecided <= max(1, 0.01 * total)
    assert torch.equal(means[-1], ours.mean) and torch.equal(stds[-1], ours.std)


def exact_values(start, weights, noise, config, mean, std):
    """[N, G] in float64, by the reference."""
    plans = double(mean)[:, None] + double(std)[:, None] * double(noise.candidates[0])
    drawn = ImagineNoise(double(noise.stoch[0]), double(noise.action[0]))
    return score_plans(double(start), plans, double(weights), drawn, plan_rules(config), REFERENCE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_state(bad):
    start, weights, noise, config = build(4)
    clean = plan_skills(start, weights, noise, config, CPP)
    start.stoch[2, 0] = bad
    spoiled = plan_skills(start, weights, noise, config, CPP)
    others = [0, 1, 3]
    assert torch.equal(spoiled.mean[others], clean.mean[others])
    assert torch.equal(spoiled.values[:, others], clean.values[:, others])
    if bad != bad:
        assert (spoiled.elites[:, 2] == -1).all()
        assert torch.equal(spoiled.mean[2], torch.zeros_like(spoiled.mean[2]))
        assert torch.equal(spoiled.std[2], torch.ones_like(spoiled.std[2]))


def test_weights_are_the_live_ones():
    start, weights, noise, config = build()
    before = plan_skills(start, weights, noise, config, CPP)
    with torch.no_grad():
        weights.reward.out.weight.mul_(-1)
    after = plan_skills(start, weights, noise, config, CPP)
    assert not torch.equal(before.values, after.values)
    assert_equal(after, plan_skills(start, weights, noise, config, PARTS))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda s, w, n: (s._replace(stoch=s.stoch.double()), w, n), "stoch"),
        (lambda s, w, n: (s._replace(deter=s.deter[:-1]), w, n), "deter"),
        (lambda s, w, n: (s, w._replace(reward=w.actor.mlp), n), "head"),
        (lambda s, w, n: (s, w, n._replace(candidates=n.candidates[0])), "noise.candidates"),
        (lambda s, w, n: (s, w, n._replace(candidates=n.candidates[:0])), "noise.candidates"),
        (lambda s, w, n: (s, w, n._replace(stoch=n.stoch[:, :, :-1])), "noise.stoch"),
        (lambda s, w, n: (s, w, n._replace(stoch=n.stoch[:, :1])), "too few steps"),
        (lambda s, w, n: (s, w, n._replace(action=n.action[..., :1])), "noise.action"),
        (lambda s, w, n: (s, w, n._replace(action=n.action.to("meta"))), "noise.action"),
    ],
)
def test_what_does_not_fit_is_named(spoil, named):
    start, weights, noise, config = build()
    with pytest.raises(ValueError, match=named):
        plan(*spoil(start, weights, noise), config)


@pytest.mark.parametrize(("num_elites", "length", "isa"), [(0, 2, "auto"), (7, 2, "auto"), (2, 0, "auto"), (2, 2, "x")])
def test_numbers_out_of_range_are_named(num_elites, length, isa):
    start, weights, noise, _ = build()
    prior = Normal(torch.zeros(3, 1, 3), torch.ones(3, 1, 3))
    with pytest.raises(ValueError, match=r"num_elites|skill_length|isa"):
        cpp.plan(start, weights, noise, prior, PlanRules(num_elites, length, 0.99, 0.95), isa=isa)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("floor", -1.0),
        ("floor", math.nan),
        ("std_min", -1.0),
        ("std_min", math.nan),
        ("gamma", math.nan),
        ("lam", math.nan),
    ],
)
def test_numbers_that_are_none_are_named(name, value):
    start, weights, noise, _ = build()
    prior = Normal(torch.zeros(3, 1, 3), torch.ones(3, 1, 3))
    with pytest.raises(ValueError, match=name):
        cpp.plan(start, weights, noise, prior, PlanRules(2, 2, 0.99, 0.95)._replace(**{name: value}))


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads, which ours follow, for one test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.mark.parametrize("candidates", [16, 40])  # one tile of rollouts, and two of different widths
def test_a_team_on_one_state_changes_nothing(threads, candidates):
    problem = build(1, preset="paper", planner__candidates=candidates)  # large enough for a team
    alone = plan_skills(*problem, CPP)
    for number in (2, 3, 5):
        threads(number)
        for _ in range(5):  # whoever is there in time joins
            assert_equal(plan_skills(*problem, CPP), alone)


def test_several_python_threads_plan_at_once(threads):
    problems = [build(states, seed=states, preset="cpu") for states in (1, 5, 9)]
    expected = [plan_skills(*problem, CPP) for problem in problems]
    threads(2)
    with ThreadPoolExecutor(3) as executor:
        for _ in range(3):
            for got, wanted in zip(executor.map(lambda p: plan_skills(*p, CPP), problems), expected, strict=True):
                assert_equal(got, wanted)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_plans_too(threads):
    problem = build(5)
    threads(2)
    expected = plan_skills(*problem, CPP)  # our threads are there now; a child has none of them
    child = os.fork()
    if child == 0:
        try:
            got = plan_skills(*problem, CPP)
            os._exit(0 if all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


# Lower precision


def trained(updates=10):
    """An agent's weights after some updates, and states that it was in."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
    from test_update import batches

    agent = ImaginationAgent(5, 2, make_config("smoke", device="cpu", backend="reference"))
    for batch in batches(agent.config, updates):
        agent.update(batch)
    latent = torch.zeros(agent.config.train.batch_length, agent.config.train.batch_size, agent.config.model.stoch)
    states = world_model_loss(agent.world_model, batch, latent).states
    return State(*(x.detach().flatten(0, 1)[:12].clone() for x in states)), agent.plan_weights()


def test_bf16_errs_at_most_twice_as_much_as_pytorchs():
    cases = [build(12, preset=preset)[:2] for preset in ("smoke", "cpu", "paper")] + [trained()]
    for (start, weights), preset in zip(cases, ("smoke", "cpu", "paper", "smoke"), strict=True):
        _, _, noise, config = build(12, preset=preset, planner__iterations=1)
        exact = exact_values(start, weights, noise, config, torch.zeros(12, 1, 3), torch.ones(12, 1, 3))
        bf16 = make_config(preset, planner__precision="bf16", planner__iterations=1)
        eager = plan_skills(start, weights, noise, bf16, REFERENCE).values[0]
        for isa in cpp.instruction_sets():
            error = plan(start, weights, noise, bf16, isa=isa).values[0] - exact
            assert error.norm() <= 2 * (eager - exact).norm(), (preset, isa)
            assert error.norm() > 0


def test_trained_weights_plan_as_the_reference_does():
    start, weights = trained()
    _, _, noise, config = build(12)
    ours, reference = (plan_skills(start, weights, noise, config, backend) for backend in (CPP, REFERENCE))
    torch.testing.assert_close(ours.values[0], reference.values[0], rtol=1e-5, atol=1e-5)
    exact = exact_values(start, weights, PlanNoise(*(x[:1] for x in noise)), config, *starting(12))
    assert (ours.values[0] - exact).abs().max() <= 2e-6 * exact.abs().max()


def starting(states):
    return torch.zeros(states, 1, 3), torch.ones(states, 1, 3)


@pytest.mark.parametrize("overrides", [{}, {"planner__precision": "bf16", "planner__noise": "philox"}])
def test_values_that_see_the_skill_are_planned_by_the_reference(overrides):
    start, weights, noise, config = build(value__skill=True, skill__length=3, **overrides)
    assert weights.value_sees_skill
    ours, expected = (plan_skills(start, weights, noise, config, backend) for backend in (CPP, REFERENCE))
    torch.testing.assert_close(ours[:3], expected[:3])
    assert torch.equal(ours.elites, expected.elites)
    with pytest.raises(ValueError, match="head"):
        cpp.plan(start, weights, noise, standard_normal(start, config), plan_rules(config))


# Actions as plans, no skills at all


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


@pytest.mark.parametrize("kind", ["tensors", "philox"])
@pytest.mark.parametrize("backend", [CPP, PARTS, REFERENCE], ids=["plan", "parts", "reference"])
def test_equal_plans_are_worth_the_same_under_shared_noise(kind, backend):
    values = {}
    for shared in (True, False):
        start, weights, noise, config = build(
            4, planner__rollouts="shared" if shared else "sampled", planner__noise=kind
        )
        still = Normal(torch.ones(4, 1, 3), torch.zeros(4, 1, 3))  # every candidate is the mean
        values[shared] = plan_with(start, weights, noise, still, plan_rules(config), backend).values[0]
    torch.testing.assert_close(values[True], values[True][:, :1].expand_as(values[True]), rtol=1e-5, atol=1e-6)
    assert values[False].std(1).min() > 1e-3


@pytest.mark.parametrize("kind", ["tensors", "philox"])
@pytest.mark.parametrize("backend", [CPP, PARTS, REFERENCE], ids=["plan", "parts", "reference"])
def test_without_rollout_noise_plans_of_the_same_candidates_are_equal(kind, backend):
    """Whatever else the key or the streams give, and whether it samples."""
    start, weights, noise, config = build(4, planner__rollouts="mean", planner__noise=kind)
    if kind == "philox":
        assert noise.means and not noise.sample
        other = noise._replace(sample=True, shared=True)  # which mean nothing then
    else:
        assert noise.action is None and not noise.stoch.any()
        shape = *noise.stoch.shape[:2], 4 * config.planner.candidates, noise.stoch.shape[-1]
        other = noise._replace(stoch=torch.zeros(shape))  # each candidate its own
    a, b = (plan_skills(start, weights, drawn, config, backend) for drawn in (noise, other))
    assert_equal(a, b)
    still = Normal(torch.ones(4, 1, 3), torch.zeros(4, 1, 3))  # every candidate is the mean
    values = plan_with(start, weights, noise, still, plan_rules(config), backend).values[0]
    torch.testing.assert_close(values, values[:, :1].expand_as(values), rtol=1e-5, atol=1e-6)


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


# Whatever the numbers


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.data())
def test_what_is_not_finite_is_where_the_reference_has_it(data):
    start, weights, noise, config = build(
        data.draw(st.sampled_from([1, 3, 17])), seed=data.draw(st.integers(0, 9)), planner__iterations=1
    )
    places = [*(p for module in (weights.prior, weights.actor, weights.reward) for p in tensors(module)), *start]
    place = data.draw(st.sampled_from(range(len(places))))
    with torch.no_grad():
        flat = places[place].view(-1)
        flat[data.draw(st.integers(0, len(flat) - 1))] = data.draw(
            st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-42])
        )
    ours, reference = (plan_skills(start, weights, noise, config, b) for b in (CPP, REFERENCE))
    assert torch.equal(ours.values.isnan(), reference.values.isnan())
    finite = reference.values.abs() < 1e6
    torch.testing.assert_close(ours.values[finite], reference.values[finite], rtol=1e-3, atol=1e-3)
    assert_equal(ours, plan_skills(start, weights, noise, config, PARTS))


def tensors(x):
    if isinstance(x, torch.Tensor):
        return [x]
    return [t for y in x for t in tensors(y)] if isinstance(x, tuple) else []


# Python around it


def test_every_optimiser_and_every_load_shows_in_the_next_plan():
    sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
    from test_update import batches

    agent = ImaginationAgent(5, 2, make_config("smoke", device="cpu", backend="cpp", planner__value="task"))
    start, _, noise, config = build()
    planned = [agent.optimizers[name] for name in ("world_model", "actor", "task_value")]
    stored = copy.deepcopy(agent.state_dict())
    before = first = plan_skills(start, agent.plan_weights(), noise, config, CPP)
    for optimizer in planned:
        loss = sum((p * p).sum() for p in optimizer.parameters)
        optimizer.step(loss)
        after = plan_skills(start, agent.plan_weights(), noise, config, CPP)
        assert not torch.equal(after.values, before.values)
        assert_equal(after, plan_skills(start, agent.plan_weights(), noise, config, PARTS))
        before = after
    [batch] = batches(agent.config, 1)
    agent.update(batch)
    agent.load_state_dict(stored)
    assert_equal(plan_skills(start, agent.plan_weights(), noise, config, CPP), first)
    # The optimisers' moments are those of the beginning, too.
    fresh = ImaginationAgent(5, 2, agent.config)
    again, expected = agent.update(batch), fresh.update(batch)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert_equal(*(plan_skills(start, a.plan_weights(), noise, config, CPP) for a in (agent, fresh)))


def test_other_python_threads_run_meanwhile():
    problem = build(60, preset="cpu")
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    while counted[0] == 0:
        time.sleep(0)
    at_once = counted[0]
    native_call = cpp.load().plan
    arguments = native_arguments(problem)
    native_call(*arguments)
    meanwhile = counted[0] - at_once
    done.set()
    thread.join()
    assert meanwhile > 100


def native_arguments(problem):
    """What lsp_fast.backends.cpp.plan hands to C++."""
    captured = []
    start, weights, noise, config = problem

    class Module:
        @staticmethod
        def plan(*arguments):
            captured.extend(arguments)
            return tuple(torch.zeros(1).numpy() for _ in range(4))

    original, cpp.load = cpp.load, lambda: Module
    try:
        plan(start, weights, noise, config)
    finally:
        cpp.load = original
    return captured


class Rung(Exception):
    pass


@pytest.mark.parametrize("states", [1, 4000])  # one state of many candidates, and many states
def test_a_signals_exception_ends_a_plan(states):
    many = {} if states > 1 else {"planner__candidates": 30_000, "planner__iterations": 20}
    start, weights, noise, config = build(states, preset="cpu", planner__noise="philox", **many)

    def ring(*_):
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Rung):
            plan(start, weights, noise, config)
        assert time.monotonic() - began < 8  # to its end it takes many times that
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_gradients_are_refused_clearly():
    start, weights, noise, config = build()
    start = State(start.stoch.requires_grad_(), start.deter)
    with pytest.raises(ValueError, match=r"stoch requires a gradient.*detach"):
        plan(start, weights, noise, config)
    plan_skills(start, weights, noise, config, CPP)  # which plans without gradients


def test_other_strides_change_nothing():
    start, weights, noise, config = build()
    odd = State(*(x.T.contiguous().T for x in start))
    turned = noise._replace(stoch=noise.stoch.transpose(0, 3).contiguous().transpose(0, 3))
    assert not turned.stoch.is_contiguous()
    assert_equal(plan(odd, weights, turned, config), plan(start, weights, noise, config))


def test_a_key_of_more_numbers_than_counters_reach_is_refused():
    start, weights, _, config = build(2)
    arguments = standard_normal(start, config), plan_rules(config)
    for iterations, candidates, steps in ((4, 6, 2**62), (4, 6, 2**31), (2**62, 6, 2), (1, 2**33, 2)):
        key = PlanKey(torch.tensor([1, 2]), iterations, candidates, steps, True, False)
        with pytest.raises(ValueError, match=r"2\*\*32"):
            cpp.plan(start, weights, key, *arguments)


def test_a_plan_on_another_thread_does_not_keep_the_process_from_ending():
    program = """
import threading, time
import torch
from lsp_fast import backends
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
torch.set_num_threads(2)
config = make_config("paper", device="cpu", backend="cpp")
agent = ImaginationAgent(5, 2, config)
start = State(torch.zeros(200, 30), torch.zeros(200, 200))
arguments = start, agent.noise, "x"
threading.Thread(target=agent.planner.distribution, args=arguments, kwargs={"explore": True}, daemon=True).start()
time.sleep(0.5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
