"""A whole plan in C++: the parts put together to the bit, and the float64 reference where elites are certain."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast import backends, native
from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import REFERENCE
from lsp_fast.config import make_config
from lsp_fast.errors import BackendUnavailable
from lsp_fast.noise import Noise
from lsp_fast.ops.types import ImagineNoise, Normal, PlanKey, PlanRules, State
from lsp_fast.planning.cem import CEMResult
from lsp_fast.planning.plan import score_plans
from lsp_fast.planning.skills import draw_plan_noise, plan_rules, plan_skills

try:
    native.load()
except BackendUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)

CPP = backends.get("cpp")
PARTS = CPP._replace(plan=None)


def build(states=3, seed=0, sample=True, preset="smoke", **overrides):
    """start, weights, noise and configuration of a plan with networks drawn at random."""
    config = make_config(preset, device="cpu", backend="reference", seed=seed, **overrides)
    agent = ImaginationAgent(5, 2, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in agent.modules.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    start = State(
        torch.randn(states, config.model.stoch, generator=generator),
        torch.randn(states, config.model.deter, generator=generator).tanh(),
    )
    noise = draw_plan_noise(Noise(seed), "x", config, states, (config.model.stoch, 2), sample)
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
    "shared noise": {"planner__shared_noise": True},
    "shared noise, one candidate": {"planner__shared_noise": True, "planner__candidates": 1, "planner__elites": 1},
}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_its_parts_to_the_bit(name):
    problem = build(**CASES[name])
    assert_equal(plan_skills(*problem, CPP), plan_skills(*problem, PARTS))


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_a_plan_is_its_parts_at_the_presets_sizes(preset):
    problem = build(5, preset=preset)
    assert_equal(plan_skills(*problem, CPP), plan_skills(*problem, PARTS))


@pytest.mark.parametrize(
    "options", [{"planner__objective": "sum"}, {"model__discount_head": True}], ids=["sum", "head"]
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
    return CEMResult(*native.plan(start, weights, noise, prior, plan_rules(config), **options))


@pytest.mark.parametrize("isa", native.instruction_sets())
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
        mean, std, values, elites = native.plan(start, weights, one, prior, plan_rules(config), isa=isa)
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
        native.plan(start, weights, noise, prior, PlanRules(num_elites, length, 0.99, 0.95), isa=isa)


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
