"""The RSSM and the world model's loss against the oracle and finite differences (SPEC sections 2 and 6)."""

import dataclasses
import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.config import ModelConfig
from lsp_fast.learning.world_model import balanced_kl, world_model_loss
from lsp_fast.models.world_model import SequenceBatch, WorldModel, discounts
from lsp_fast.ops import densities
from lsp_fast.ops.types import Normal, State

SMALL = ModelConfig(
    stoch=3,
    deter=5,
    hidden=6,
    encoder_units=7,
    decoder_units=8,
    reward_units=6,
)
GAMMA = 0.99


def build(config=SMALL, obs=4, action=2, dtype=torch.float64, seed=0, **options):
    """A world model with random biases too, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    model = WorldModel(obs, action, config, GAMMA, generator, **options)
    for name, p in model.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(p, std=0.3, generator=generator)
    return model.to(dtype)


def oracle_rssm(rssm):
    p, q = oracle.arrays(rssm.prior_weights()), oracle.arrays(rssm.posterior_weights())
    return {
        "img_in": p[0],
        "gru": p[1],
        "img_out": p[2],
        "img_dist": p[3],
        "obs_out": q[0],
        "obs_dist": q[1],
    }


def oracle_model(model):
    return {
        "encoder": oracle.arrays(model.encoder.weights()),
        "rssm": oracle_rssm(model.rssm),
        "decoder": oracle.arrays(model.decoder.weights()),
        "reward": oracle.arrays(model.reward.weights()),
    }


def sequences(b=3, length=6, obs=4, action=2, stoch=3, seed=0, resets=0.3):
    """observations, actions, rewards, is_first and posterior noise, batch first, float64 arrays."""
    rng = np.random.default_rng(seed)
    observations, actions, noise = (rng.normal(size=(b, length, n)) for n in (obs, action, stoch))
    return observations, actions, rng.normal(size=(b, length)), rng.uniform(size=(b, length)) < resets, noise


def batch_of(observations, actions, rewards, is_first, noise, dtype=torch.float64):
    """The loss' arguments."""
    o, a, r, n = (torch.tensor(x, dtype=dtype) for x in (observations, actions, rewards, noise))
    return SequenceBatch(o, a, r, torch.zeros_like(r), torch.tensor(is_first)), n.transpose(0, 1)


def observe(rssm, embeddings, actions, is_first, noise):
    """The module's filter, from and to batch-first arrays."""
    time_first = [torch.tensor(x).transpose(0, 1) for x in (embeddings, actions, is_first, noise)]
    observed = rssm.observe(*time_first)
    back = lambda x: x.transpose(0, 1).detach().numpy()  # noqa: E731
    return {
        "s": back(observed.states.stoch),
        "h": back(observed.states.deter),
        "mean": back(observed.posterior.mean),
        "std": back(observed.posterior.std),
        "prior_mean": back(observed.prior.mean),
        "prior_std": back(observed.prior.std),
    }


# ---------------------------------------------------------------- functions


@settings(deadline=None, max_examples=60)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_kl_against_the_oracle(shape, seed):
    rng = np.random.default_rng(seed)
    m1, m2 = rng.normal(size=(2, *shape))
    s1, s2 = rng.uniform(0.1, 3.0, size=(2, *shape))
    p, q = Normal(torch.tensor(m1), torch.tensor(s1)), Normal(torch.tensor(m2), torch.tensor(s2))
    got = densities.kl_divergence(p, q)
    np.testing.assert_allclose(got, oracle.diag_normal_kl(m1, s1, m2, s2), rtol=1e-11, atol=1e-12)
    assert torch.all(got >= 0)
    assert torch.all(densities.kl_divergence(p, p) == 0)


def test_functions_against_the_oracle():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)) * 5
    mean, std = rng.normal(size=(50, 4)), rng.uniform(0.1, 2, size=(50, 4))
    t = torch.tensor
    clamped = densities.soft_clamp_std(t(x), 0.1, 1.5)
    np.testing.assert_allclose(clamped, np.exp(0.5 * oracle.soft_clamp_logvar(x)), rtol=1e-12)
    np.testing.assert_allclose(
        densities.normal_log_prob(t(x), t(mean), t(std)), oracle.normal_log_prob(x, mean, std), rtol=1e-12
    )
    want = oracle.normal_log_prob(x, mean, 1.0)
    np.testing.assert_allclose(densities.normal_log_prob(t(x), t(mean)), want, rtol=1e-12)
    u = rng.normal(size=(50, 4)) * 1.5
    got = densities.tanh_normal_log_prob(t(u), Normal(t(mean), t(std))).sum(-1)
    np.testing.assert_allclose(got, oracle.tanh_normal_log_prob(np.tanh(u), mean, std), rtol=1e-8)


def test_soft_clamp_end_points():
    raw = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64)
    low, middle, high = densities.soft_clamp_std(raw, 0.1, 1.5).tolist()
    assert low == pytest.approx(0.1, rel=1e-12)
    assert middle == pytest.approx(0.838, abs=5e-4)
    assert high == pytest.approx(1.5033, abs=5e-5)


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.4])
def test_tanh_normal_density_integrates_to_one(mean):
    cells = 200_000
    a = -1 + (2 * torch.arange(cells, dtype=torch.float64) + 1) / cells
    policy = Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    density = densities.tanh_normal_log_prob(torch.atanh(a), policy).exp()
    assert (density.sum() * 2 / cells).item() == pytest.approx(1.0, abs=1e-6)


def test_tanh_normal_is_finite_where_the_action_saturates():
    u = torch.tensor([-60.0, 60.0], dtype=torch.float32)
    policy = Normal(u, torch.ones(2))
    # log N(u; u, 1) - log(1 - tanh² u), whose last term is 2 log 2 - 2 |u| out there.
    want = -0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 120
    np.testing.assert_allclose(densities.tanh_normal_log_prob(u, policy), want, rtol=1e-6)


# ---------------------------------------------------------------- filter


@settings(deadline=None, max_examples=25)
@given(
    b=st.integers(1, 4), length=st.integers(1, 7), stoch=st.integers(1, 4), deter=st.integers(1, 5),
    hidden=st.integers(1, 5), embed=st.integers(1, 5), action=st.integers(1, 3), seed=st.integers(0, 999),
)  # fmt: skip
def test_observe_equals_the_oracle(b, length, stoch, deter, hidden, embed, action, seed):
    config = dataclasses.replace(SMALL, stoch=stoch, deter=deter, hidden=hidden, encoder_units=embed)
    rssm = build(config, action=action, seed=seed).rssm
    embeddings, actions, _, is_first, noise = sequences(b, length, embed, action, stoch, seed)
    posteriors, priors = oracle.observe(oracle_rssm(rssm), embeddings, actions, is_first, noise)
    got = observe(rssm, embeddings, actions, is_first, noise)
    for key in ("s", "h", "mean", "std"):
        np.testing.assert_allclose(got[key], posteriors[key], rtol=1e-11, atol=1e-12)
    for key in ("mean", "std"):
        np.testing.assert_allclose(got["prior_" + key], priors[key], rtol=1e-11, atol=1e-12)


def test_filter_is_one_posterior_step():
    model = build()
    rng = np.random.default_rng(1)
    s, h, a, o, noise = (rng.normal(size=(5, n)) for n in (3, 5, 2, 4, 3))
    got = model.filter(State(torch.tensor(s), torch.tensor(h)), *map(torch.tensor, (a, o, noise)))
    parts = oracle_model(model)
    want, _ = oracle.posterior_step(parts["rssm"], s, h, a, oracle.mlp(parts["encoder"], o), noise)
    np.testing.assert_allclose(got.stoch.detach(), want["s"], rtol=1e-11)
    np.testing.assert_allclose(got.deter.detach(), want["h"], rtol=1e-11)


def test_filtering_step_by_step_is_observing():
    model = build()
    observations, actions, _, _, noise = sequences(resets=0.0)
    batch, noise = batch_of(observations, actions, np.zeros((3, 6)), np.zeros((3, 6), dtype=bool), noise)
    want = world_model_loss(model, batch, noise).states
    state = model.rssm.initial(3)
    assert all(torch.all(x == 0) for x in state)
    for t in range(6):
        state = model.filter(state, batch.action[:, t], batch.observation[:, t], noise[t])
        for got, whole in zip(state, want, strict=True):
            np.testing.assert_allclose(got.detach(), whole[t].detach(), rtol=1e-11, atol=1e-12)


def test_nothing_before_a_reset_matters_nor_the_action_at_it():
    rssm = build().rssm
    embeddings, actions, _, is_first, noise = sequences(obs=SMALL.encoder_units, resets=0.0)
    is_first[0, 3] = is_first[2, 5] = True
    want = observe(rssm, embeddings, actions, is_first, noise)
    for b, t in ((0, 3), (2, 5)):
        embeddings[b, :t] += 1.0
        actions[b, : t + 1] += 1.0
        noise[b, :t] += 1.0
    got = observe(rssm, embeddings, actions, is_first, noise)
    for key, value in got.items():
        np.testing.assert_array_equal(value[0, 3:], want[key][0, 3:])
        np.testing.assert_array_equal(value[2, 5:], want[key][2, 5:])
        np.testing.assert_array_equal(value[1], want[key][1])
        assert not np.any(value[0, :3] == want[key][0, :3])


def test_later_observations_leave_earlier_states():
    rssm = build().rssm
    embeddings, actions, _, is_first, noise = sequences(obs=SMALL.encoder_units, resets=0.0)
    want = observe(rssm, embeddings, actions, is_first, noise)
    embeddings[:, 4:] += 1.0
    got = observe(rssm, embeddings, actions, is_first, noise)
    for key in want:
        np.testing.assert_array_equal(got[key][:, :4], want[key][:, :4])
    np.testing.assert_array_equal(got["prior_mean"][:, 4], want["prior_mean"][:, 4])


# ---------------------------------------------------------------- loss


@pytest.mark.parametrize(("free_nats", "scale"), [(0.0, 10.0), (3.0, 1.0), (1e3, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sizes", [{}, {"b": 1, "length": 1}, {"b": 5, "length": 9, "seed": 3}], ids=str)
def test_loss_equals_the_oracle(sizes, dtype, free_nats, scale):
    model = build(dataclasses.replace(SMALL, free_nats=free_nats, reward_scale=scale), dtype=dtype)
    data = sequences(**sizes)
    got = world_model_loss(model, *batch_of(*data, dtype=dtype))
    observations, actions, rewards, is_first, noise = data
    given = observations, actions, rewards, is_first, noise, free_nats, scale
    want = oracle.world_model_loss(oracle_model(model), *given)
    rel = 1e-10 if dtype == torch.float64 else 1e-5
    assert got.loss.dtype == dtype
    assert got.loss.item() == pytest.approx(want["loss"], rel=rel)
    assert got.metrics["loss"].item() == got.loss.item()
    assert got.metrics["kl"].item() == pytest.approx(want["kl"], rel=rel, abs=rel)
    assert got.metrics["observation_nll"].item() == pytest.approx(want["obs_nll"], rel=rel)
    assert got.metrics["reward_nll"].item() == pytest.approx(want["reward_nll"], rel=rel)
    assert not any(x.requires_grad for x in got.metrics.values())


@pytest.mark.parametrize(("free_nats", "scale"), [(0.0, 1.0), (1e3, 10.0)])
def test_gradients_of_the_loss_against_finite_differences(free_nats, scale):
    model = build(dataclasses.replace(SMALL, free_nats=free_nats, reward_scale=scale))
    data = sequences()
    world_model_loss(model, *batch_of(*data)).loss.backward()
    observations, actions, rewards, is_first, noise = data

    def objective():
        parts = oracle_model(model)
        return oracle.world_model_loss(parts, observations, actions, rewards, is_first, noise, free_nats, scale)["loss"]

    generator, step = torch.Generator().manual_seed(0), 1e-6
    for name, p in model.named_parameters():
        direction = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        with torch.no_grad():
            p += step * direction
            up = objective()
            p -= 2 * step * direction
            down = objective()
            p += step * direction
        grad = 0.0 if p.grad is None else (p.grad * direction).sum().item()
        assert grad == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-6), name


def test_no_gradient_of_the_kl_under_the_free_nats():
    # Without a KL gradient the prior's output layers get none; the posterior's still do, from the likelihoods.
    for free_nats, trained in ((1e3, False), (0.0, True)):
        model = build(dataclasses.replace(SMALL, free_nats=free_nats))
        world_model_loss(model, *batch_of(*sequences())).loss.backward()
        for name in ("prior_hidden", "prior_out"):
            grad = getattr(model.rssm, name).weight.grad
            assert (grad is not None and bool(grad.abs().sum() > 0)) == trained
        assert model.rssm.posterior_out.weight.grad.abs().sum() > 0


def test_free_nats_apply_to_the_mean_not_to_each_step():
    data = sequences(b=4, length=12)
    kls = build(dataclasses.replace(SMALL, free_nats=0.0))
    loss = world_model_loss(kls, *batch_of(*data))
    mean = loss.metrics["kl"].item()
    # Just under the mean nothing is clipped, though single steps lie below.
    clipped = world_model_loss(build(dataclasses.replace(SMALL, free_nats=0.999 * mean)), *batch_of(*data))
    assert clipped.loss.item() == pytest.approx(loss.loss.item(), rel=1e-12)


def test_sizes_of_the_paper():
    model = WorldModel(17, 6, ModelConfig(), GAMMA, torch.Generator().manual_seed(0))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if "bias" not in name}
    assert shapes == {
        "encoder.hidden.0.weight": (256, 17),
        "encoder.hidden.1.weight": (256, 256),
        "rssm.prior_in.weight": (200, 36),
        "rssm.gru.weight_ih": (600, 200),
        "rssm.gru.weight_hh": (600, 200),
        "rssm.prior_hidden.weight": (200, 200),
        "rssm.prior_out.weight": (60, 200),
        "rssm.posterior_hidden.weight": (200, 456),
        "rssm.posterior_out.weight": (60, 200),
        "decoder.hidden.0.weight": (256, 230),
        "decoder.hidden.1.weight": (256, 256),
        "decoder.out.weight": (34, 256),
        "reward.hidden.0.weight": (400, 230),
        "reward.hidden.1.weight": (400, 400),
        "reward.out.weight": (1, 400),
    }


def test_initial_weights():
    model = WorldModel(17, 6, ModelConfig(), GAMMA, torch.Generator().manual_seed(0))
    for name, p in model.named_parameters():
        if "bias" in name:
            assert torch.all(p == 0), name
        elif name != "rssm.gru.weight_hh":
            bound = math.sqrt(6 / sum(p.shape))
            assert p.abs().max() <= bound, name
            assert p.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
    recurrent = model.rssm.gru.weight_hh.double()
    np.testing.assert_allclose((recurrent.T @ recurrent).detach(), np.eye(200), atol=1e-5)


def test_initial_weights_depend_on_the_generator_alone():
    first, again, other = (build(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["encoder.hidden.0.weight"], other["encoder.hidden.0.weight"])


def test_weight_tuples_hold_the_parameters_themselves():
    rssm = build().rssm
    assert rssm.prior_weights().inp.weight is rssm.prior_in.weight
    assert rssm.prior_weights().gru.weight_hh is rssm.gru.weight_hh
    assert rssm.posterior_weights().out.bias is rssm.posterior_out.bias


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("balance", [0.0, 0.5, 0.8, 1.0])
def test_a_balanced_kl_has_the_kls_value_and_shares_of_its_gradient(balance):
    rng = np.random.default_rng(0)
    m1, m2 = rng.normal(size=(2, 5, 3))
    s1, s2 = rng.uniform(0.1, 3.0, size=(2, 5, 3))
    leaves = [torch.tensor(x, requires_grad=True) for x in (m1, s1, m2, s2)]
    kl = balanced_kl(Normal(*leaves[:2]), Normal(*leaves[2:]), balance)
    np.testing.assert_allclose(kl.detach(), oracle.diag_normal_kl(m1, s1, m2, s2), rtol=1e-12)
    of_posterior, of_prior = (1 - balance, balance) if balance else (1, 1)
    # By hand: the derivatives of log(s2 / s1) + (s1² + (m1 - m2)²) / (2 s2²) - 1/2.
    want = (
        of_posterior * (m1 - m2) / s2**2,
        of_posterior * (s1 / s2**2 - 1 / s1),
        of_prior * (m2 - m1) / s2**2,
        of_prior * (1 / s2 - (s1**2 + (m1 - m2) ** 2) / s2**3),
    )
    for got, expected in zip(torch.autograd.grad(kl.sum(), leaves), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("free_nats", [0.0, 1e3])
def test_the_balance_leaves_the_loss_and_the_free_nats(free_nats):
    found = {}
    for balance in (0.0, 0.8):
        model = build(dataclasses.replace(SMALL, free_nats=free_nats, kl_balance=balance))
        loss = world_model_loss(model, *batch_of(*sequences())).loss
        loss.backward()
        grad = model.rssm.prior_out.weight.grad
        found[balance] = loss.item(), None if grad is None else grad.abs().sum().item()
    assert found[0.8][0] == pytest.approx(found[0.0][0], rel=1e-12)
    if free_nats:  # more than the KL: no gradient of it
        assert not found[0.0][1] and not found[0.8][1]
    else:  # only the KL trains the prior's output
        assert found[0.8][1] == pytest.approx(0.8 * found[0.0][1], rel=1e-10)


def test_discount_is_gamma_without_the_head():
    feature = torch.zeros(3, 2, 8)
    assert torch.equal(discounts(feature, GAMMA, None), torch.full((3, 2), GAMMA))


def test_discount_head_counts_gamma_once():
    # The head's target is gamma * (1 - terminal): where nothing ends, the loss is least at a discount of gamma [D].
    model = build(discount_head=True)
    with torch.no_grad():
        for p in model.discount.parameters():
            p.zero_()
    batch, noise = batch_of(*sequences())
    bias = model.discount.out.bias

    def at(value):
        with torch.no_grad():
            bias.fill_(value)
        return world_model_loss(model, batch, noise)

    best = math.log(GAMMA / (1 - GAMMA))
    losses = [at(best + shift).loss.item() for shift in (-0.1, 0.0, 0.1)]
    assert losses[1] < min(losses[0], losses[2])
    out = at(best)
    entropy = -GAMMA * math.log(GAMMA) - (1 - GAMMA) * math.log(1 - GAMMA)
    assert out.metrics["discount_nll"].item() == pytest.approx(entropy)
    parts = out.metrics
    want = max(parts["kl"].item(), 3.0) + parts["observation_nll"] + parts["reward_nll"] + 10 * parts["discount_nll"]
    assert out.loss.item() == pytest.approx(want.item(), rel=1e-12)
    feature = torch.zeros(2, 8, dtype=torch.float64)
    assert discounts(feature, GAMMA, model.discount_weights()).tolist() == pytest.approx([GAMMA] * 2)
