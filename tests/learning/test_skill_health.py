"""Three numbers that say whether skills matter (SPEC section 8): against slow loops, and on models made for them."""

import math

import numpy as np
import oracle
import pytest
import torch
from agents.test_update import ACTION, batches, build, numpy64, rssm_of

from lsp_fast.errors import BackendUnavailable
from lsp_fast.learning.skill_health import own_information, planning_gain, skill_health
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State

NUMBERS = {"planner/gain", "planner/gain_error", "skill/information", "skill/action_spread"}


def measure(agent, start, seed=0):
    return {k: v.item() for k, v in skill_health(agent.planner, start, agent.predictor, Noise(seed)).items()}


def some_states(agent, n):
    generator = torch.Generator().manual_seed(5)
    m = agent.config.model
    return State(torch.randn(n, m.stoch, generator=generator), torch.randn(n, m.deter, generator=generator).tanh())


@pytest.fixture
def opposed():
    """Action 0 follows z_0, and the reward asks for the action that undoes what its state holds for good.

    About: a_0 = tanh(z_0 / 2), h_0 = tanh(2 a_0 + h_1), h_1 stays, h_2 = tanh(a_0); R falls with |h_0|; V counts
    rewards alone; q reads z_0 in h_2, to 0.4, and nothing of the others.
    """
    agent = build(
        actor__layers=1, value__layers=1, model__reward_layers=1, predictor__layers=1, predictor__inputs="ends",
        predictor__noise=0.0, actor__init_std=0.1,
    )  # fmt: skip
    with torch.no_grad():
        for name, x in agent.modules.named_parameters():
            if not name.startswith("world_model.encoder"):
                x.zero_()
        z0 = agent.actor.mlp.hidden[0].weight.shape[1] - agent.config.skill.dim
        agent.actor.mlp.hidden[0].weight[:2, z0] = torch.tensor([1.0, -1.0])  # elu(z) - elu(-z) follows z
        agent.actor.mlp.out.weight[0, :2] = torch.tensor([0.25, -0.25])
        rssm, s, d = agent.world_model.rssm, agent.config.model.stoch, agent.config.model.deter
        prior = rssm.prior_weights()
        prior.inp.weight[:2, s] = torch.tensor([1.0, -1.0])
        prior.gru.bias_ih[:d] = 20.0  # reset: all is seen
        prior.gru.bias_ih[d : 2 * d] = -20.0  # update: all is new, but for
        prior.gru.bias_ih[d + 1] = 20.0  # h_1, which stays
        prior.gru.weight_ih[2 * d, :2] = torch.tensor([1.0, -1.0])
        prior.gru.weight_hh[2 * d, 1] = 1.0
        prior.gru.weight_ih[2 * d + 2, :2] = torch.tensor([0.5, -0.5])
        reward = agent.world_model.reward
        reward.hidden[0].weight[:2, s] = torch.tensor([3.0, -3.0])
        reward.out.weight[0, :2] = -1.0
        predictor = agent.predictor.mlp
        predictor.hidden[0].weight[:2, s + 2] = torch.tensor([1.0, -1.0])
        predictor.out.weight[0, :2] = torch.tensor([1.6, -1.6])
        predictor.out.bias[3] = math.log(0.4)
    return agent


def test_skills_that_matter_show_in_all_three(opposed):
    start = some_states(opposed, 64)
    found = measure(opposed, start)
    assert found.keys() == NUMBERS
    assert found["planner/gain"] > 10 and found["planner/gain"] > 5 * found["planner/gain_error"] > 0
    assert 0.4 < found["skill/information"] < math.log(16)
    assert found["skill/action_spread"] > 2


def test_a_policy_blind_to_its_skill_shows_in_all_three(opposed):
    start = some_states(opposed, 64)
    with torch.no_grad():
        opposed.actor.mlp.hidden[0].weight[:, -opposed.config.skill.dim :] = 0
    found = measure(opposed, start)
    assert found["skill/action_spread"] == pytest.approx(0, abs=1e-5)
    assert found["skill/information"] < 0
    # Values differ by luck alone: the gain is noise of the size that its error says.
    many = [measure(opposed, start, seed) for seed in range(20)]
    ratios = [f["planner/gain"] / f["planner/gain_error"] for f in many]
    assert abs(np.mean(ratios)) < 0.7 and 0.5 < np.std(ratios) < 1.6


def test_one_skill_that_is_best_everywhere_is_no_gain(opposed):
    """What a constant skill earns as well needs no planner; to follow the luck of one rollout each even loses a bit."""
    start = some_states(opposed, 64)
    start.deter[:, 1] = 0.5
    found = measure(opposed, start)
    assert -5 < found["planner/gain"] < found["planner/gain_error"]


def test_the_gain_by_hand():
    own = torch.tensor([[1.0, 0.0, 2.0], [4.0, 0.0, 3.0], [5.0, 0.0, 6.0], [4.0, 0.0, 0.0]])  # g* = 0
    fresh = torch.tensor([[1.0, 9.0, 4.0], [2.0, 9.0, 9.0], [-3.0, -9.0, 2.0], [1.0, 9.0, 9.0]])
    gain, error = planning_gain(own, fresh)
    # The states choose 2, 0, 2, 0: they gain 3, 0, 5, 0. Mean |B| is 67 / 12.
    assert gain.item() == pytest.approx(100 * 2 / (67 / 12), rel=1e-5)
    assert error.item() == pytest.approx(100 * np.std([3, 0, 5, 0], ddof=1) / 2 / (67 / 12), rel=1e-5)


def test_information_has_the_bounds_of_its_kind():
    flat, certain = torch.full((16, 5), -3.0), torch.full((16, 5), -300.0)
    certain[0] = 1.0
    torch.testing.assert_close(own_information(flat), torch.zeros(5))
    torch.testing.assert_close(own_information(certain), torch.full((5,), math.log(16)))
    one = own_information(torch.tensor([[0.0], [math.log(3)]]))  # 1 of a mean of 2
    torch.testing.assert_close(one, torch.tensor([-math.log(2)]))


def test_a_predictor_that_ignores_the_segment_is_not_paid(opposed):
    """It says N(0, I) of everything: that fits the skills near 0 best, whichever acts, so that the mean is below 0 - by
    dim / 2 (1 - log 2) = 0.46 with many skills."""
    with torch.no_grad():
        for x in opposed.predictor.parameters():
            x.zero_()
    found, again = (measure(opposed, some_states(opposed, n))["skill/information"] for n in (64, 32))
    assert found == pytest.approx(again, abs=1e-6)
    assert -1.0 < found < 0


@pytest.mark.parametrize(
    "overrides", [{}, {"skill__length": 4}, {"planner__rollouts": "shared", "planner__objective": "sum"}]
)
def test_equals_slow_loops_in_double_precision(overrides):
    agent = build(**overrides)
    c, n, seed = agent.config, 5, 3
    # Somewhat larger weights, so that skills tell.
    with torch.no_grad():
        for x in [*agent.actor.parameters(), *agent.predictor.parameters()]:
            x.mul_(1.5)
    start = some_states(agent, n)
    found = measure(agent, start, seed)
    again = Noise(seed)

    def draw(stream, *shape):
        return numpy64(again.normal(f"skill_health/{stream}", *shape))

    rssm, actor = rssm_of(agent.world_model), oracle.arrays(agent.actor.weights().mlp)
    reward, value = (oracle.arrays(m.weights()) for m in (agent.world_model.reward, agent.task_value or agent.value))
    stds, horizon, k, m = (c.actor.init_std, c.actor.min_std), c.behavior.horizon, c.skill.length, c.model.stoch
    plans = draw("plans", 16, c.skills_per_rollout, c.skill.dim)
    s, h = numpy64(start.stoch), numpy64(start.deter)

    def worth(state, plan, latent, action):
        held = oracle.hold_skills(plan[None], k, horizon)
        feats, _ = oracle.imagine(
            s[state][None], h[state][None], rssm, actor, held, latent[:, None], action[:, None], *stds
        )
        rewards, values = (oracle.mlp(x, feats)[..., 0] for x in (reward, value))
        return oracle.plan_values(rewards, values, c.behavior.gamma, c.behavior.lam, c.planner.objective)[0]

    again.normal("skill_health/own/candidates", 1, n, 16, *plans.shape[1:])
    share = c.planner.rollouts == "shared"
    rows = n if share else n * 16
    latent, action = (draw(f"own/plan_{x}", 1, horizon, rows, w)[0] for x, w in (("latent", m), ("action", ACTION)))
    own = np.empty((n, 16))
    for i in range(n):
        for g in range(16):
            row = i if share else i * 16 + g
            own[i, g] = worth(i, plans[g], latent[:, row], action[:, row])
    latent, action = (draw(x, horizon, 8, n, 16, w) for x, w in (("latent", m), ("action", ACTION)))
    fresh = np.array(
        [
            [np.mean([worth(i, plans[g], latent[:, r, i, g], action[:, r, i, g]) for r in range(8)]) for g in range(16)]
            for i in range(n)
        ]
    )
    best = own.mean(0).argmax()
    gains = [100 / np.abs(fresh).mean() * (fresh[i, own[i].argmax()] - fresh[i, best]) for i in range(n)]
    assert found["planner/gain"] == pytest.approx(np.mean(gains), rel=1e-3, abs=1e-4)
    assert found["planner/gain_error"] == pytest.approx(np.std(gains, ddof=1) / np.sqrt(n), rel=1e-3, abs=1e-4)

    skills, first = plans[:, 0], oracle.feature(s, h)
    predictor = oracle.arrays(agent.predictor.mlp.weights())
    latent, action = draw("segment_latent", k, n, m), draw("segment_action", k, n, ACTION)
    blur = c.predictor.noise * draw("predictor", n, (k + 1) * first.shape[1])
    told = []
    for i in range(n):
        held = np.repeat(skills[i][None, None], k, 0)
        feats, _ = oracle.imagine(s[[i]], h[[i]], rssm, actor, held, latent[:, [i]], action[:, [i]], *stds)
        q = [oracle.predictor_log_prob(predictor, feats, first[[i]], z[None], blur[[i]])[0] for z in skills]
        told.append(q[i] - np.log(np.mean(np.exp(q))))
    assert found["skill/information"] == pytest.approx(np.mean(told), rel=1e-3, abs=1e-5)

    noise = draw("policy", 8, 16, n, ACTION)
    between, within = np.empty((2, n, ACTION))
    for i in range(n):
        dists = [oracle.actor_dist(actor, first[i], z, *stds) for z in skills]
        between[i] = np.std([np.tanh(mean) for mean, _ in dists], axis=0, ddof=1)
        own_var = [np.var(np.tanh(mean + std * noise[:, g, i]), axis=0, ddof=1) for g, (mean, std) in enumerate(dists)]
        within[i] = np.sqrt(np.mean(own_var, 0))
    assert found["skill/action_spread"] == pytest.approx(between.mean() / within.mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("algorithm", "overrides", "wanted"),
    [
        ("lsp", {}, NUMBERS),
        ("lsp", {"planner__noise": "philox", "value__skill": True, "skill__length": 4}, NUMBERS),
        ("lsp", {"planner__elites": 20, "planner__candidates": 40}, NUMBERS),
        ("lsp", {"skill__mi": "compose"}, NUMBERS - {"skill/information"}),
        ("no_mi", {"skill__length": 30}, NUMBERS - {"skill/information"}),
        ("no_mi", {}, NUMBERS - {"skill/information"}),
        ("random_skills", {}, {"skill/information", "skill/action_spread"}),
        ("rand_skills_init", {}, {"skill/action_spread"}),
        ("dreamer", {}, set()),
    ],
)
def test_each_row_has_the_numbers_that_make_sense(algorithm, overrides, wanted):
    agent = build(algorithm, **overrides)
    metrics = agent.update(next(batches(agent.config)), diagnose=True)
    found = {k: v for k, v in metrics.items() if k in NUMBERS or k.startswith("skill/")}
    assert found.keys() == wanted
    assert all(v.isfinite() for v in found.values())


def test_training_s_streams_are_left_alone():
    plain, watched = build(), build()
    for batch in batches(plain.config, 2):
        plain.update(batch)
        watched.update(batch, diagnose=True)
    a, b = plain.noise.state_dict(), watched.noise.state_dict()
    assert a.keys() < b.keys()
    assert all(torch.equal(b[name], state) for name, state in a.items())
    assert all(name.startswith(("skill_health/", "health/")) for name in b.keys() - a.keys())


def test_of_many_states_64_are_taken_evenly_spaced():
    agent = build()
    start = some_states(agent, 200)
    taken = State(*(x[:192:3] for x in start))
    assert measure(agent, start) == measure(agent, taken)


def test_a_native_backend_finds_the_same():
    try:
        native = build(backend="cpp", planner__precision="fp32")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    reference = build(planner__precision="fp32")
    start = some_states(native, 64)
    ours, expected = measure(native, start), measure(reference, start)
    assert ours == pytest.approx(expected, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize(("kind", "noise"), [("std", 0.1), ("variance", 0.01)])
def test_the_policy_of_skills_has_epsilon_in_its_spread(kind, noise):
    agent = build(skill__noise=noise, skill__noise_kind=kind)
    quiet = build(skill__noise=1e-30)
    start = some_states(agent, 6)
    found, plain = (a.planner.distribution(start, Noise(0), "x", explore=True) for a in (agent, quiet))
    assert torch.equal(found.policy.mean, plain.mean) and not torch.equal(found.mean, plain.mean)
    torch.testing.assert_close(found.policy.std, (plain.std**2 + 0.01).sqrt())
    still = agent.planner.distribution(start, Noise(0), "x", explore=False)
    assert torch.equal(still.mean, still.policy.mean) and torch.equal(still.std, still.policy.std)
