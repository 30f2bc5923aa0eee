"""The oracle against numbers worked by hand, closed forms of §6 and torch's own GRU."""

import math

import numpy as np
import oracle
import pytest
import torch


def test_elementary_functions():
    x = np.array([-800.0, -1.0, 0.0, 1.0, 800.0])
    np.testing.assert_allclose(oracle.elu(x), [-1.0, math.exp(-1) - 1, 0.0, 1.0, 800.0], atol=1e-15)
    np.testing.assert_allclose(
        oracle.softplus(x), [0.0, math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.e), 800.0]
    )
    np.testing.assert_allclose(oracle.sigmoid(x), [0.0, 1 / (1 + math.e), 0.5, math.e / (1 + math.e), 1.0], atol=1e-300)


def test_gru_by_hand():
    # All weights one and no bias, x = 1, h = 0.5: gates see 1.5, the new gate 1 + r * 0.5.
    gru = (np.ones((3, 1)), np.ones((3, 1)), np.zeros(3), np.zeros(3))
    gate = 1 / (1 + math.exp(-1.5))
    want = (1 - gate) * math.tanh(1 + gate * 0.5) + gate * 0.5
    assert oracle.gru_cell(gru, np.array([1.0]), np.array([0.5]))[0] == pytest.approx(want, rel=1e-14)


def test_gru_is_torchs():
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(5, 7, dtype=torch.float64)
    x, h = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    weights = tuple(p.detach().numpy() for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh))
    want = cell(x, h).detach().numpy()
    np.testing.assert_allclose(oracle.gru_cell(weights, x.numpy(), h.numpy()), want, rtol=1e-13)


def test_mlp_by_hand():
    hidden = [(np.array([[1.0, -1.0]]), np.array([0.5]))]
    x = np.array([[2.0, 1.0], [0.0, 1.0]])
    first, second = 1.5, math.exp(-0.5) - 1
    np.testing.assert_allclose(oracle.mlp((hidden, None), x), [[first], [second]])
    out = (np.array([[2.0]]), np.array([1.0]))
    np.testing.assert_allclose(oracle.mlp((hidden, out), x), [[2 * first + 1], [2 * second + 1]])


def test_soft_clamp_end_points():
    std = np.exp(0.5 * oracle.soft_clamp_logvar(np.array([-100.0, 0.0, 100.0])))
    np.testing.assert_allclose(std, [0.1, 0.838, 1.5033], atol=5e-4)
    assert std[0] == pytest.approx(0.1, abs=1e-12)
    assert std[2] == pytest.approx(1.5033, abs=5e-5)
    grid = oracle.soft_clamp_logvar(np.linspace(-4, 4, 101))
    assert np.all(np.diff(grid) > 0)


def test_normal_log_prob_by_hand():
    assert oracle.normal_log_prob(1.0, 0.0, 1.0) == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi))
    assert oracle.normal_log_prob(3.0, 1.0, 2.0) == pytest.approx(-0.5 - math.log(2) - 0.5 * math.log(2 * math.pi))


def test_kl_by_hand_and_by_torch():
    zero, one, two = np.zeros(2), np.ones(2), np.full(2, 2.0)
    assert oracle.diag_normal_kl(zero, one, zero, one) == 0.0
    assert oracle.diag_normal_kl(one, one, zero, one) == pytest.approx(1.0)  # 2 * 1/2
    assert oracle.diag_normal_kl(zero, one, zero, two) == pytest.approx(2 * (math.log(2) + 1 / 8 - 1 / 2))
    rng = np.random.default_rng(0)
    m1, m2 = rng.normal(size=(2, 50, 3))
    s1, s2 = rng.uniform(0.1, 3, size=(2, 50, 3))
    kl = oracle.diag_normal_kl(m1, s1, m2, s2)
    assert np.all(kl >= 0)
    p, q = (torch.distributions.Normal(*map(torch.tensor, pair)) for pair in ((m1, s1), (m2, s2)))
    np.testing.assert_allclose(kl, torch.distributions.kl_divergence(p, q).sum(-1).numpy(), rtol=1e-12)


# ---------------------------------------------------------------- world model


def test_prior_of_zero_weights():
    rng = np.random.default_rng(0)
    rssm = oracle.random_rssm(rng, 2, 3, 4, 1, 5)
    zero = {k: tuple(np.zeros_like(w) for w in v) for k, v in rssm.items()}
    h = np.array([[1.0, -2.0, 4.0]])
    out = oracle.prior_step(zero, np.ones((1, 2)), h, np.ones((1, 1)), np.array([[1.0, -1.0]]))
    # Both gates are 1/2 and the new gate 0: h halves; std = log 2 + 0.1.
    np.testing.assert_allclose(out["h"], h / 2)
    np.testing.assert_allclose(out["mean"], 0.0)
    np.testing.assert_allclose(out["std"], math.log(2) + 0.1)
    np.testing.assert_allclose(out["s"], [[math.log(2) + 0.1, -math.log(2) - 0.1]])


def test_posterior_ignores_the_priors_sample():
    rng = np.random.default_rng(1)
    rssm = oracle.random_rssm(rng, 2, 3, 4, 1, 5)
    args = [rng.normal(size=(6, n)) for n in (2, 3, 1, 5, 2)]
    one, prior_one = oracle.posterior_step(rssm, *args)
    two, prior_two = oracle.posterior_step(rssm, *args, noise_prior=rng.normal(size=(6, 2)))
    np.testing.assert_array_equal(one["s"], two["s"])
    np.testing.assert_array_equal(one["h"], prior_one["h"])
    assert np.abs(prior_one["s"] - prior_two["s"]).min() > 0


def test_observe_resets_where_an_episode_begins():
    rng = np.random.default_rng(2)
    rssm = oracle.random_rssm(rng, 2, 3, 4, 1, 5)
    embeds, actions, noise = (rng.normal(size=(2, 6, n)) for n in (5, 1, 2))
    is_first = np.zeros((2, 6), dtype=bool)
    is_first[0, 3] = True
    post, prior = oracle.observe(rssm, embeds, actions, is_first, noise)
    # After the reset the sequence is the one that starts there, whatever the action stored at the reset.
    fresh = actions[:, 3:].copy()
    fresh[0, 0] = 0.0
    again, again_prior = oracle.observe(rssm, embeds[:, 3:], fresh, is_first[:, 3:] & False, noise[:, 3:])
    for key in post:
        np.testing.assert_array_equal(post[key][0, 3:], again[key][0])
        np.testing.assert_array_equal(prior[key][0, 3:], again_prior[key][0])
        assert not np.allclose(post[key][1, 3:], again[key][1])


@pytest.mark.parametrize("free_nats", [0.0, 3.0, 1e6])
def test_world_model_loss_composition(free_nats):
    rng = np.random.default_rng(3)
    model = {
        "encoder": oracle.random_mlp(rng, 4, [6, 5], None),
        "rssm": oracle.random_rssm(rng, 2, 3, 4, 1, 5),
        "decoder": oracle.random_mlp(rng, 5, [6, 6], 8),
        "reward": oracle.random_mlp(rng, 5, [6, 6], 1),
    }
    obs, actions, noise = (rng.normal(size=(2, 3, n)) for n in (4, 1, 2))
    rewards, is_first = rng.normal(size=(2, 3)), np.zeros((2, 3), dtype=bool)
    out = oracle.world_model_loss(model, obs, actions, rewards, is_first, noise, free_nats)
    assert out["loss"] == pytest.approx(max(out["kl"], free_nats) + out["obs_nll"] + out["reward_nll"])
    # The decoder's log-density, the whole batch at once.
    post, prior = oracle.observe(model["rssm"], oracle.mlp(model["encoder"], obs), actions, is_first, noise)
    feat = np.concatenate([post["s"], post["h"]], -1)
    mean, raw = np.split(oracle.mlp(model["decoder"], feat), 2, -1)
    std = np.exp(oracle.soft_clamp_logvar(raw) / 2)
    want = -torch.distributions.Normal(torch.tensor(mean), torch.tensor(std)).log_prob(torch.tensor(obs)).sum(-1).mean()
    assert out["obs_nll"] == pytest.approx(float(want))
    error = oracle.mlp(model["reward"], feat)[..., 0] - rewards
    assert out["reward_nll"] == pytest.approx(np.mean(0.5 * error**2) + 0.5 * math.log(2 * math.pi))
    assert out["kl"] == pytest.approx(
        np.mean(oracle.diag_normal_kl(post["mean"], post["std"], prior["mean"], prior["std"]))
    )


# ---------------------------------------------------------------- behaviour


def test_actor_of_zero_weights():
    zero = ([(np.zeros((4, 5)), np.zeros(4))], (np.zeros((4, 4)), np.array([5.0, -500.0, 0.0, -100.0])))
    mean, std = oracle.actor_dist(zero, np.ones((1, 3)), np.ones((1, 2)))
    np.testing.assert_allclose(mean, [[5 * math.tanh(1), -5.0]])
    np.testing.assert_allclose(std, [[5.0 + 1e-4, 1e-4]], rtol=1e-9)
    np.testing.assert_allclose(oracle.act(0.5, 2.0, 0.25), math.tanh(1.0))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 0.8)])
def test_tanh_normal_density_integrates_to_one(mean, std):
    # Midpoints of equal cells of (-1, 1).
    cells = 200_000
    a = -1 + (2 * np.arange(cells) + 1) / cells
    log_prob = oracle.tanh_normal_log_prob(a[:, None], np.array([mean]), np.array([std]))
    assert np.exp(log_prob).sum() * 2 / cells == pytest.approx(1.0, abs=1e-6)


def test_lambda_return_by_hand():
    rewards, values = np.array([1.0, 2.0, 3.0]), np.array([100.0, 4.0, 6.0])
    discounts, bootstrap = np.array([0.5, 1.0, 0.5]), 8.0
    # R2 = 3 + 4 = 7; R1 = 2 + (3 + 3.5) = 8.5; R0 = 1 + 0.5 (2 + 4.25) = 4.125.
    np.testing.assert_allclose(oracle.lambda_return(rewards, values, discounts, bootstrap, 0.5), [4.125, 8.5, 7.0])


def test_lambda_return_closed_forms():
    rng = np.random.default_rng(4)
    r, v = rng.normal(size=(2, 9, 3))
    b, gamma = rng.normal(size=3), 0.9
    d = np.full((9, 3), gamma)
    one = oracle.lambda_return(r, v, d, b, 1.0)
    for t in range(9):
        want = sum(gamma ** (k - t) * r[k] for k in range(t, 9)) + gamma ** (9 - t) * b
        np.testing.assert_allclose(one[t], want)
    np.testing.assert_allclose(oracle.lambda_return(r, v, d, b, 0.0), r + gamma * np.concatenate([v[1:], b[None]]))
    c = 2.5
    fixed = np.full((9, 3), c / (1 - gamma))
    for lam in (0.0, 0.3, 0.95, 1.0):
        np.testing.assert_allclose(oracle.lambda_return(np.full((9, 3), c), fixed, d, fixed[0], lam), fixed)


def test_imagine_step_by_step():
    rng = np.random.default_rng(5)
    rssm, actor = oracle.random_rssm(rng, 2, 3, 4, 1, 5), oracle.random_mlp(rng, 5 + 3, [6, 6], 2)
    s, h = rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    skills, ns, na = (rng.normal(size=(2, 4, n)) for n in (3, 2, 1))
    feats, actions = oracle.imagine(s, h, rssm, actor, skills, ns, na)
    assert feats.shape == (2, 4, 5)
    assert actions.shape == (2, 4, 1)
    m, sd = oracle.actor_dist(actor, np.concatenate([s, h], -1), skills[0])
    np.testing.assert_allclose(actions[0], np.tanh(m + sd * na[0]))
    first = oracle.prior_step(rssm, s, h, actions[0], ns[0])
    np.testing.assert_allclose(feats[0], np.concatenate([first["s"], first["h"]], -1))
    m, sd = oracle.actor_dist(actor, feats[0], skills[1])
    np.testing.assert_allclose(actions[1], np.tanh(m + sd * na[1]))
    _, still = oracle.imagine(s, h, rssm, actor, skills, ns, None)
    np.testing.assert_allclose(still[0], np.tanh(oracle.actor_dist(actor, np.concatenate([s, h], -1), skills[0])[0]))
    no_skill = oracle.random_mlp(rng, 5, [6], 2)
    assert oracle.imagine(s, h, rssm, no_skill, None, ns, na)[0].shape == (2, 4, 5)


def test_behavior_losses_by_hand():
    rewards, values = np.array([[1.0], [2.0], [3.0]]), np.array([[4.0], [6.0], [8.0]])
    out = oracle.behavior_losses(rewards, values, np.full((3, 1), 0.5), 0.5)
    # R1 = 2 + 0.5 * 8 = 6; R0 = 1 + 0.5 (3 + 3) = 4; both equal the values; weights 1, 1/2.
    np.testing.assert_allclose(out["returns"], [[4.0], [6.0]])
    np.testing.assert_allclose(out["weights"], [[1.0], [0.5]])
    assert out["actor_loss"] == pytest.approx(-(4 + 3) / 2)
    assert out["value_loss"] == pytest.approx(0.75 * 0.5 * math.log(2 * math.pi))


def test_behavior_weights_are_powers_of_gamma():
    out = oracle.behavior_losses(np.zeros((8, 2)), np.zeros((8, 2)), np.full((8, 2), 0.99), 0.95)
    np.testing.assert_allclose(out["weights"], np.repeat(0.99 ** np.arange(7)[:, None], 2, 1))


# ---------------------------------------------------------------- skills

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1.0, 3.0, 2.0, 0.0], [1, 2]),
        ([1.0, 1.0, 1.0, 1.0], [0, 1]),
        ([0.0, 2.0, 1.0, 2.0], [1, 3]),
        ([NAN, 2.0, NAN, 3.0], [3, 1]),
        ([NAN, NAN, -INF, NAN], [2, -1]),
        ([NAN, NAN, NAN, NAN], [-1, -1]),
        ([INF, 5.0, INF, NAN], [0, 2]),
        ([-INF, NAN, -INF, 1.0], [3, 0]),
        ([0.0, -0.0, -1.0, -1.0], [0, 1]),
        ([-0.0, 0.0, -1.0, -1.0], [0, 1]),
    ],
)
def test_select_elites_ties_and_nan(values, want):
    plans = np.array([[[1.0]], [[3.0]], [[7.0]], [[10.0]]])[None]
    mean, std, indices = oracle.select_elites(
        np.array([values]), plans, 2, np.full((1, 1, 1), 5.5), np.full((1, 1, 1), 0.25)
    )
    assert indices[0].tolist() == want
    chosen = plans[0, [g for g in want if g >= 0], 0, 0]
    if len(chosen):
        assert mean[0, 0, 0] == pytest.approx(chosen.mean())
        assert std[0, 0, 0] == pytest.approx(math.sqrt(chosen.var() + 1e-6))
    else:
        assert mean[0, 0, 0] == 5.5
        assert std[0, 0, 0] == 0.25


def test_plan_values_by_hand():
    rewards, values = np.array([[1.0], [2.0], [3.0]]), np.array([[4.0], [6.0], [8.0]])
    assert oracle.plan_values(rewards, values, 0.5, 0.5, "lambda_return")[0] == pytest.approx(4.0)
    assert oracle.plan_values(rewards, values, 0.5, 0.5, "sum")[0] == pytest.approx(1 + 1 + 0.75 + 1.0)
    assert oracle.plan_values(rewards[:1], values[:1], 0.5, 0.5, "lambda_return")[0] == 4.0


def quadratic_rms(candidates, elites, iterations, floor, states):
    rng = np.random.default_rng(6)
    target = rng.normal(size=(states, 1, 3))
    target /= np.linalg.norm(target, axis=-1, keepdims=True)
    noise = rng.normal(size=(iterations, states, candidates, 1, 3))

    def score(n, plans, iteration):
        return -((plans - target[n]) ** 2).sum((-1, -2))

    mean, _ = oracle.cem(score, noise, np.zeros((states, 1, 3)), np.ones((states, 1, 3)), elites, floor)
    return math.sqrt(((mean - target) ** 2).sum((-1, -2)).mean())


def test_cem_quadratic_with_lsps_settings():
    # RMS of the distance ‖mean - target‖ over start states; §6 says near 0.24.
    assert quadratic_rms(16, 4, 4, 1e-6, states=3000) == pytest.approx(0.243, abs=0.008)


def test_cem_quadratic_with_planets_settings():
    # §6 says 4e-6 without the floor. The floor keeps the spread at 1e-3 and the error near 6e-5.
    exact = quadratic_rms(1000, 100, 10, 0.0, states=20)
    assert exact == pytest.approx(4.2e-6, rel=0.15)
    assert quadratic_rms(1000, 100, 10, 1e-6, states=5) > 5 * exact


def test_cem_with_all_candidates_elite_is_the_sample_mean():
    rng = np.random.default_rng(7)
    noise = rng.normal(size=(1, 3, 5, 2, 3))
    mean, std = oracle.cem(lambda n, p, i: p[:, 0, 0], noise, np.zeros((3, 2, 3)), np.ones((3, 2, 3)), 5)
    np.testing.assert_allclose(mean, noise[0].mean(1))
    np.testing.assert_allclose(std, np.sqrt(noise[0].var(1) + 1e-6))


def test_cem_clips_before_scoring_and_refit():
    seen = []
    noise = np.array([[[[[3.0]], [[-2.0]]]]])  # [1, 1, 2, 1, 1]

    def score(n, plans, iteration):
        seen.append(plans.ravel().tolist())
        return plans[:, 0, 0]

    mean, _ = oracle.cem(score, noise, np.zeros((1, 1, 1)), np.ones((1, 1, 1)), 1, 0.0, clip=1.0)
    assert seen == [[1.0, -1.0]]
    assert mean[0, 0, 0] == 1.0


def test_hold_skills():
    plan = np.arange(4.0).reshape(1, 4, 1)
    held = oracle.hold_skills(plan, 30, 121)[:, 0, 0]
    assert np.flatnonzero(np.diff(held)).tolist() == [29, 59, 89]
    assert held[-1] == 3.0


def test_predictor_states():
    assert oracle.predictor_states(10) == list(range(1, 11))
    assert oracle.predictor_states(30) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert oracle.predictor_states(3) == [1, 2, 3]


def test_predictor_log_prob_by_hand():
    # An identity hidden layer (positive inputs) and a head that reads feat_1 as mean and gives raw log-std 0.
    predictor = ([(np.eye(6), np.zeros(6))], (np.zeros((4, 6)), np.zeros(4)))
    predictor[1][0][0, 0] = predictor[1][0][1, 1] = 1.0
    feats, feat0 = np.array([[[1.0, 2.0]], [[3.0, 4.0]]]), np.array([[5.0, 6.0]])
    std = math.exp(0.5 * oracle.soft_clamp_logvar(0.0))
    z = np.array([[1.0 + std, 2.0]])
    want = -0.5 - 2 * math.log(std) - math.log(2 * math.pi)
    assert oracle.predictor_log_prob(predictor, feats, feat0, z)[0] == pytest.approx(want)
    noise = np.array([[std, 0.0, 9.0, 9.0, 9.0, 9.0]])
    assert oracle.predictor_log_prob(predictor, feats, feat0, z, noise)[0] == pytest.approx(want + 0.5)


def test_predictor_sees_ten_of_thirty_states():
    rng = np.random.default_rng(8)
    predictor = oracle.random_mlp(rng, 11 * 2, [5], 6)
    feats, feat0, z = rng.normal(size=(30, 4, 2)), rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    want = oracle.predictor_log_prob(predictor, feats[2::3], feat0, z)
    np.testing.assert_array_equal(oracle.predictor_log_prob(predictor, feats, feat0, z), want)


def test_composed_information_of_one_dimension():
    # h' is 0 whatever is done, so that p(s'|.) is N(0, softplus(0) + 0.1): no skill tells anything.
    zero = (np.zeros((1, 1)), np.zeros(1))
    gru = (np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), np.zeros(3))
    rssm = {"img_in": (np.zeros((1, 2)), np.zeros(1)), "gru": gru, "img_out": zero}
    rssm["img_dist"] = (np.zeros((2, 1)), np.zeros(2))
    actor = ([(np.array([[0.0, 0.0, 1.0]]), np.zeros(1))], (np.array([[1.0], [0.0]]), np.zeros(2)))
    args = (np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 2)), np.zeros((1, 1)))
    skills = np.array([[[2.0]], [[0.5]]])
    assert oracle.composed_information(rssm, actor, *args, skills) == pytest.approx(0)
    # Let the action through: x = elu(a), h' = tanh(x) / 2, mean = elu(h').
    rssm["img_in"] = (np.array([[0.0, 1.0]]), np.zeros(1))
    gru[0][2] = 1.0
    rssm["img_out"] = (np.ones((1, 1)), np.zeros(1))
    rssm["img_dist"] = (np.array([[1.0], [0.0]]), np.zeros(2))
    std = np.log(2) + 0.1
    means = [np.tanh(np.tanh(5 * np.tanh(z / 5))) / 2 for z in (2.0, 0.5)]
    p = [np.exp(-0.5 * (m / std) ** 2) for m in means]
    assert oracle.composed_information(rssm, actor, *args, skills) == pytest.approx(np.log(p[0] / np.mean(p)))


def test_intrinsic_reward_forms():
    log_q = np.array([[6.0], [-3.0]])
    reward = oracle.intrinsic_reward
    assert reward(log_q, 3, 6, "spread")[:, 0].tolist() == [2.0, 2.0, 2.0, -1.0, -1.0, -1.0, 0.0]
    assert reward(log_q, 3, 6, "end")[:, 0].tolist() == [0.0, 0.0, 6.0, 0.0, 0.0, -3.0, 0.0]
    assert reward(log_q, 3, 6, "every")[:, 0].tolist() == [6.0, 6.0, 6.0, -3.0, -3.0, -3.0]
    # The second segment has two of its three steps and earns nothing.
    assert reward(log_q, 3, 5, "spread")[:, 0].tolist() == [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
    assert reward(log_q[:1], 10, 7, "spread").tolist() == [[0.0]] * 8
