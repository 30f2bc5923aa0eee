"""The intrinsic reward and the λ-return's use of it (SPEC sections 3, 4 and 6)."""

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsp_fast.behavior import intrinsic_reward, segment_log_probs
from lsp_fast.config import make_config
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.noise import Noise


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
    noise = Noise(0)
    feature, first = torch.randn(9, 2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    skills = torch.randn(3, 2, 3, dtype=torch.float64)
    log_q = segment_log_probs(predictor, feature, first, skills, config, noise, "x")
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
