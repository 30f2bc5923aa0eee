"""The intrinsic reward and the λ-return's use of it (SPEC sections 3, 4 and 6)."""

import math

import numpy as np
import oracle
import pytest
import rollouts
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.config import make_config
from lsp_fast.learning.intrinsic import (
    composed_information,
    intrinsic_reward,
    segment_log_probs,
    segment_noise,
    step_information,
)
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.noise import Noise
from lsp_fast.ops import imagine, layers
from lsp_fast.ops.imagine import held_skills
from lsp_fast.ops.types import Dense, PlanWeights, State, features


@given(
    length=st.integers(1, 7),
    horizon=st.integers(2, 20),
    form=st.sampled_from(["spread", "end", "every"]),
    batch=st.integers(1, 3),
)
def test_intrinsic_reward_equals_the_oracle(length, horizon, form, batch):
    segments = horizon // length
    log_q = np.random.default_rng(0).normal(size=(segments, batch))
    steps = horizon + (form != "every")
    expected = oracle.intrinsic_reward(log_q, length, horizon, form)
    if segments == 0:
        assert not expected.any()  # a horizon shorter than K pays nothing
        return
    actual = intrinsic_reward(torch.from_numpy(log_q), length, steps, form)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)
    if form != "every":
        np.testing.assert_allclose(actual.sum(0).numpy(), log_q.sum(0), atol=1e-12)


def test_imagined_steps_by_form():
    def steps(algorithm, form):
        return make_config("smoke", algorithm, skill__intrinsic_form=form).imagined_steps

    assert [steps("lsp", f) for f in ("spread", "end", "every")] == [11, 11, 10]
    assert [steps("no_mi", f) for f in ("spread", "every")] == [11, 10]
    assert steps("dreamer", "spread") == 15


def test_every_segment_is_scored_against_its_own_first_state_and_skill():
    config = make_config("smoke", skill__length=3, behavior__horizon=8)
    predictor = build_predictor(config, feature_dim=4).double()
    feature, first = torch.randn(9, 2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    skills = torch.randn(3, 2, 3, dtype=torch.float64)
    log_q = segment_log_probs(predictor, feature, first, skills, segment_noise(predictor, 2, config, Noise(0), "x"))
    assert log_q.shape == (2, 2)  # the third segment is cut short by H = 8
    weights, again = oracle.arrays(predictor.mlp.weights()), Noise(0)
    for j, before in enumerate((first, feature[2])):
        drawn = config.predictor.noise * again.normal("x", 2, 16).numpy()
        segment = feature[3 * j : 3 * j + 3].numpy()
        expected = oracle.predictor_log_prob(weights, segment, before.numpy(), skills[j].numpy(), drawn)
        np.testing.assert_allclose(log_q[j].detach().numpy(), expected, rtol=1e-9)


def build_predictor(config, feature_dim):
    generator = torch.Generator().manual_seed(0)
    return SkillPredictor(feature_dim, config.skill, config.predictor, config.model, generator)


def toy_score(tells: float, input_noise: float) -> float:
    """Mean log q after fitting to states s = tells * z + noise."""
    config = make_config("smoke", predictor__noise=input_noise, skill__length=2, predictor__units=64)
    predictor, noise = build_predictor(config, feature_dim=3), Noise(0)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=3e-3)
    score = torch.zeros(())
    for _ in range(300):
        skill = noise.normal("skill", 256, 3)
        states = tells * skill + (1 - tells) * noise.normal("state", 2, 256, 3)
        drawn = noise.normal("input", *predictor.noise_shape(256))
        score = predictor.log_prob(states, torch.zeros(256, 3), skill, drawn).mean()
        optimizer.zero_grad()
        (-score).backward()
        optimizer.step()
    return score.item()


def test_states_that_tell_the_skill_score_higher_and_input_noise_lowers_it():
    telling, silent = toy_score(1.0, 0.3), toy_score(0.0, 0.3)
    entropy = -3 * 0.5 * np.log(2 * np.pi * np.e)  # log density of the best guess that ignores the states
    assert silent == pytest.approx(entropy, abs=0.25)
    assert telling > silent + 2
    assert toy_score(1.0, 0.0) > telling > toy_score(1.0, 1.0)


# mi = compose


def transitions(rows=4, count=5, seed=0, **sizes):
    """before, after, skills, actor and prior of `composed_information`, float64."""
    before, prior, actor, *_ = rollouts.build(rows=rows, seed=seed, **sizes)
    rng = np.random.default_rng(seed)
    after = torch.from_numpy(rng.normal(size=before.stoch.shape))
    return before, after, torch.from_numpy(rng.normal(size=(count, rows, 3))), actor, prior


def oracle_information(before, after, skills, actor, prior, feat=None):
    """The oracle on the same arguments; `feat` is what the actor sees, by default `before`."""
    s, h, after, skills = (x.detach().numpy() for x in (*before, after, skills))
    names = ("img_in", "gru", "img_out", "img_dist")
    rssm = dict(zip(names, oracle.arrays(prior)[:4], strict=True))
    feat = oracle.feature(s, h) if feat is None else feat
    policy = oracle.arrays(actor.mlp)
    return oracle.composed_information(rssm, policy, s, h, feat, after, skills, actor.init_std, actor.min_std)


def test_composed_information_and_its_gradients_equal_the_oracles():
    arguments = before, after, skills, actor, prior = transitions()
    leaves = [*before, after, skills, actor.mlp.hidden[0].weight, actor.mlp.out.bias, prior.gru.weight_ih]
    for x in leaves:
        x.requires_grad_()
    got = composed_information(*arguments)
    np.testing.assert_allclose(got.detach().numpy(), oracle_information(*arguments), rtol=1e-9, atol=1e-10)
    scale = torch.linspace(0.5, 2, len(got), dtype=torch.float64)
    gradients = torch.autograd.grad((scale * got).sum(), leaves)
    feat, step = features(before).detach().numpy().copy(), 1e-6  # no gradient flows from the actor's input
    for x, gradient in zip(leaves, gradients, strict=True):
        numbers = x.detach().flatten()
        for i in range(0, len(numbers), max(1, len(numbers) // 5)):
            sides, old = [], numbers[i].item()
            for moved in (old + step, old - step):
                numbers[i] = moved
                sides.append((scale.numpy() * oracle_information(*arguments, feat)).sum())
            numbers[i] = old
            assert gradient.flatten()[i].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 20), seed=st.integers(0, 99), scale=st.sampled_from([0.0, 1.0, 30.0]))
def test_composed_information_never_exceeds_the_logarithm_of_the_number_of_skills(count, seed, scale):
    before, after, skills, actor, prior = transitions(count=count, seed=seed)
    arguments = rollouts.to_float((before, scale * after, scale * skills, actor, prior))
    got = composed_information(*arguments)
    assert got.isfinite().all() and (got <= torch.tensor(math.log(count))).all()


def test_a_policy_that_ignores_its_skill_tells_nothing():
    before, after, skills, actor, prior = transitions()
    first = actor.mlp.hidden[0]
    weight = first.weight.clone()
    weight[:, -skills.shape[-1] :] = 0
    blind = actor._replace(mlp=actor.mlp._replace(hidden=(Dense(weight, first.bias), *actor.mlp.hidden[1:])))
    got = composed_information(before, after, skills, blind, prior)
    assert got.abs().max() < 1e-12
    assert composed_information(before, after, skills, actor, prior).abs().max() > 1e-3
    single = composed_information(*rollouts.to_float((before, after, skills, blind, prior)))
    assert single.abs().max() < 1e-5


def test_skills_that_act_differently_tell_themselves_apart():
    before, _, skills, actor, prior = transitions(rows=500, count=16)
    first = prior.out
    # Let the world answer more loudly than it is noisy.
    s = before.stoch.shape[1]
    loud = prior._replace(out=Dense(torch.cat([8 * first.weight[:s], 0 * first.weight[s:]]), first.bias))
    action = layers.act(layers.actor(features(before), 3 * skills[0], actor), None)
    reached = layers.prior(layers.advance(before, action, loud), loud)
    after = reached.mean + reached.std * torch.from_numpy(np.random.default_rng(1).normal(size=reached.mean.shape))
    got = composed_information(before, after, 3 * skills, actor, loud)
    assert 0.3 < got.mean() < math.log(16)


def test_every_step_is_scored_from_the_state_before_it_with_the_skill_held_there():
    start, prior, actor, _, _, noise, (reward, value) = rollouts.build(steps=6, plan=3, skill=3)
    skills = torch.randn(3, 5, 3, dtype=torch.float64)
    states = imagine(start, prior, actor, skills, 2, noise).states
    held = held_skills(skills, 2, 6)
    assert [next(p for p in range(3) if torch.equal(held[t], skills[p])) for t in range(6)] == [0, 0, 1, 1, 2, 2]
    weights = PlanWeights(prior, actor, reward, value, None)
    others = Noise(0).normal("x", 3, 6, 5, 3).double()
    got = step_information(start, states, held, weights, others)
    for t in range(6):
        before = start if t == 0 else State(states.stoch[t - 1], states.deter[t - 1])
        compared = torch.cat([skills[t // 2][None], others[:, t]])
        expected = oracle_information(before, states.stoch[t], compared, actor, prior)
        np.testing.assert_allclose(got[t].numpy(), expected, rtol=1e-9, atol=1e-10)
