"""A whole plan in C++: the parts put together to the bit, and the float64 reference where elites are certain."""

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import CPP, PARTS, assert_equal, build, double, plan
from rollouts import plan_skills, standard_normal

from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import REFERENCE, cpp
from lsp_fast.config import make_config
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.ops.types import ImagineNoise, Normal, PlanNoise, PlanRules, State
from lsp_fast.planning.plan import plan as plan_with
from lsp_fast.planning.plan import score_plans
from lsp_fast.planning.planner import plan_rules

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
