"""The backward predictor against the oracle (SPEC sections 4 and 6)."""

import itertools
import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.config import ModelConfig, PredictorConfig, SkillConfig
from lsp_fast.models.skill_predictor import SkillPredictor, segment_states


def build(length=4, dim=3, features=5, dtype=torch.float64, seed=0, **config):
    generator = torch.Generator().manual_seed(seed)
    predictor = SkillPredictor(
        features,
        SkillConfig(length=length, dim=dim),
        PredictorConfig(**{"units": 8, **config}),
        ModelConfig(),
        generator,
    )
    for name, p in predictor.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(p, std=0.3, generator=generator)
    return predictor.to(dtype)


def data(predictor, n=6, length=4, dim=3, features=5, seed=0):
    """segment [K, N, F], first [N, F], skill [N, Z] and noise, float64 arrays."""
    rng = np.random.default_rng(seed)
    shapes = (length, n, features), (n, features), (n, dim), predictor.noise_shape(n)
    return [rng.normal(size=s) for s in shapes]


def log_prob(predictor, arrays, dtype=torch.float64):
    return predictor.log_prob(*(torch.tensor(x, dtype=dtype) for x in arrays))


def test_states_that_are_seen():
    # The oracle counts the segment's states from 1.
    for length in (1, 2, 5, 9, 10, 20, 30, 100):
        assert [i + 1 for i in segment_states(length)] == oracle.predictor_states(length)
    for length in range(1, 64):
        seen = segment_states(length)
        assert len(seen) == min(length, 10)
        assert seen[-1] == length - 1
        assert all(b > a for a, b in itertools.pairwise(seen))


@settings(deadline=None, max_examples=30)
@given(
    length=st.sampled_from([1, 2, 4, 9, 10, 20, 30]), dim=st.integers(1, 4), features=st.integers(1, 6),
    n=st.integers(1, 5), noise=st.sampled_from([0.0, 0.1, 0.3, 1.0]), seed=st.integers(0, 999),
)  # fmt: skip
def test_equals_the_oracle(length, dim, features, n, noise, seed):
    predictor = build(length, dim, features, seed=seed, noise=noise)
    segment, first, skill, normal = arrays = data(predictor, n, length, dim, features, seed)
    got = log_prob(predictor, arrays)
    want = oracle.predictor_log_prob(oracle.arrays(predictor.mlp.weights()), segment, first, skill, noise * normal)
    assert got.shape == (n,)
    np.testing.assert_allclose(got.detach(), want, rtol=1e-10)


def test_equals_the_oracle_in_float32():
    predictor = build(10, features=23, units=256, dtype=torch.float32)
    segment, first, skill, normal = arrays = data(predictor, 50, 10, features=23)
    got = log_prob(predictor, arrays, torch.float32)
    want = oracle.predictor_log_prob(oracle.arrays(predictor.mlp.weights()), segment, first, skill, 0.3 * normal)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.detach(), want, rtol=2e-5, atol=2e-5)


def test_only_the_last_state_with_inputs_ends():
    predictor = build(inputs="ends")
    segment, first, skill, normal = arrays = data(predictor)
    want = oracle.predictor_log_prob(oracle.arrays(predictor.mlp.weights()), segment[-1:], first, skill, 0.3 * normal)
    np.testing.assert_allclose(log_prob(predictor, arrays).detach(), want, rtol=1e-10)


def test_each_state_on_its_own_with_inputs_per_step():
    predictor = build(inputs="per_step")
    segment, first, skill, normal = arrays = data(predictor)
    weights = oracle.arrays(predictor.mlp.weights())
    each = [oracle.predictor_log_prob(weights, segment[t : t + 1], first, skill, 0.3 * normal[t]) for t in range(4)]
    np.testing.assert_allclose(log_prob(predictor, arrays).detach(), np.mean(each, 0), rtol=1e-10)


@pytest.mark.parametrize("inputs", ["segment", "ends", "per_step"])
def test_normalised_features_are_those_of_a_predictor_that_is_told_them(inputs):
    predictor, plain = build(normalise=True, inputs=inputs), build(inputs=inputs)
    segment, first, skill, normal = data(predictor)
    assert torch.equal(log_prob(predictor, [segment, first, skill, normal]), log_prob(plain, data(plain)))  # so far
    rng = np.random.default_rng(1)
    predictor.follow(torch.tensor(rng.normal(2.0, 3.0, (50, 40, 5)) * [1, 1, 1, 1, 0]).float())
    center, spread = (x.double().numpy() for x in (predictor.feature_mean, predictor.feature_var.sqrt()))
    assert spread[4] == 0
    spread[4] = 0.01  # the least it is taken for
    told = [(x - center) / spread for x in (segment, first)]
    got, want = log_prob(predictor, [segment, first, skill, normal]), log_prob(plain, [*told, skill, normal])
    np.testing.assert_allclose(got.detach(), want.detach(), rtol=1e-10)


def test_running_statistics_are_a_plain_mean_at_first_and_forget_later():
    predictor, rng = build(normalise=True), np.random.default_rng(0)
    batches = [rng.normal(size=(3, 4, 5)) * (1 + i) + i for i in range(4)]
    for x in batches:
        predictor.follow(torch.tensor(x))
    together = np.concatenate(batches).reshape(-1, 5)
    np.testing.assert_allclose(predictor.feature_mean, together.mean(0), rtol=1e-5)
    np.testing.assert_allclose(predictor.feature_var, together.var(0), rtol=1e-5)
    predictor.updates.fill_(1000)
    before = predictor.feature_mean.clone()
    predictor.follow(torch.full((3, 4, 5), 7.0))
    np.testing.assert_allclose(predictor.feature_mean, 0.99 * before + 0.07, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "inputs", "width"), [(10, "segment", 2530), (30, "segment", 2530), (10, "ends", 460)]
)
def test_sizes_of_the_paper(length, inputs, width):
    generator = torch.Generator().manual_seed(0)
    predictor = SkillPredictor(
        230, SkillConfig(length=length), PredictorConfig(inputs=inputs), ModelConfig(), generator
    )
    shapes = [tuple(p.shape) for p in predictor.parameters() if p.dim() == 2]
    assert shapes == [(256, width), (256, 256), (6, 256)]
    assert predictor.noise_shape(7) == (7, width)


@pytest.mark.parametrize("inputs", ["segment", "ends", "per_step"])
def test_gradients_against_finite_differences(inputs):
    predictor = build(inputs=inputs, noise=0.1)
    arrays = [torch.tensor(x, requires_grad=True) for x in data(predictor, n=2)]
    assert torch.autograd.gradcheck(predictor.log_prob, arrays)
    params = {k: v.detach().clone().requires_grad_() for k, v in predictor.named_parameters()}
    fixed = [x.detach() for x in arrays]

    def call(*values):
        renamed = {f"predictor.{k}": v for k, v in zip(params, values, strict=True)}
        return torch.func.functional_call(Call(predictor), renamed, tuple(fixed))

    assert torch.autograd.gradcheck(call, tuple(params.values()))


class Call(torch.nn.Module):
    """`log_prob` as a forward, for functional_call."""

    def __init__(self, predictor):
        super().__init__()
        self.predictor = predictor

    def forward(self, *args):
        return self.predictor.log_prob(*args)


def test_density_stays_bounded_however_far_the_head_goes():
    # Standard deviations lie in 0.1 .. 1.5033, so that log q never exceeds 3 log N(0; 0, 0.1).
    predictor = build()
    with torch.no_grad():
        predictor.mlp.out.bias[3:] = -1e4
    segment, first, _, normal = (torch.tensor(x) for x in data(predictor))
    x = predictor.inputs(segment, first) + 0.3 * normal
    mean = torch.nn.functional.linear(hidden(predictor, x), predictor.mlp.out.weight, predictor.mlp.out.bias)[:, :3]
    best = predictor.log_prob(segment, first, mean.detach(), normal)
    np.testing.assert_allclose(best.detach(), 3 * (-math.log(0.1) - 0.5 * math.log(2 * math.pi)), rtol=1e-9)


def hidden(predictor, x):
    for layer in predictor.mlp.hidden:
        x = torch.nn.functional.elu(torch.nn.functional.linear(x, layer.weight, layer.bias))
    return x


@pytest.fixture
def one_thread():
    """Thousands of tiny steps crawl where other work shares the cores and each step waits for all threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fit(noise, informative, steps=400):
    """Mean log q on fresh samples after training on a toy whose states are the skill, or are independent of it."""
    generator = torch.Generator().manual_seed(0)
    predictor = build(length=2, dim=1, features=1, dtype=torch.float32, units=32, noise=noise)
    adam = torch.optim.Adam(predictor.parameters(), lr=1e-2)

    def batch(n):
        skill = torch.randn(n, 1, generator=generator)
        state = skill if informative else torch.randn(n, 1, generator=generator)
        first = torch.zeros(n, 1)
        return state.expand(2, n, 1), first, skill, torch.randn(predictor.noise_shape(n), generator=generator)

    for _ in range(steps):
        adam.zero_grad()
        (-predictor.log_prob(*batch(256)).mean()).backward()
        adam.step()
    with torch.no_grad():
        return predictor.log_prob(*batch(20_000)).mean().item()


def test_states_that_tell_the_skill_score_higher_and_less_so_with_input_noise(one_thread):
    clear, noisy, drowned, blind = fit(0.0, True), fit(0.3, True), fit(1.0, True), fit(0.3, False)
    entropy = -0.5 * math.log(2 * math.pi * math.e)  # of N(0, 1): the best that a blind predictor can do
    assert blind == pytest.approx(entropy, abs=0.05)
    assert clear > noisy + 0.3
    assert noisy > drowned + 0.3
    assert drowned > blind + 0.3
    # Two noisy readings of z leave a posterior variance of s² / (2 + s²).
    for got, s in ((noisy, 0.3), (drowned, 1.0)):
        assert got == pytest.approx(-0.5 * math.log(2 * math.pi * math.e * s**2 / (2 + s**2)), abs=0.08)
