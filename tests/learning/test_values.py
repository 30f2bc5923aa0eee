"""Slow values, and values that learn from the replay, against equations worked by hand (SPEC section 8)."""

import copy
import itertools
import math

import numpy as np
import oracle
import pytest
import torch
from agents.test_update import batches, build

from lsp_fast.backends import REFERENCE
from lsp_fast.config import make_config
from lsp_fast.errors import ConfigError
from lsp_fast.learning.value_loss import largest_reward, replayed_value_loss, value_limit, value_loss
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.ops.types import Dense, MLPWeights

TASK = {"planner__value": "task"}


def parameters(agent, name):
    return [p.detach().clone() for p in agent.modules[name].parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_slow_value_of_rate_one_is_the_value():
    slow, plain = build(value__slow=1.0, **TASK), build(**TASK)
    for batch in batches(plain.config, 5):
        slow.update(batch)
        plain.update(batch)
    weights = slow.modules.state_dict()
    for name, value in plain.modules.state_dict().items():
        assert torch.equal(weights[name], value), name
        if "value.mlp" in name:
            assert torch.equal(weights[name.replace(".mlp.", ".slow.")], value)


def test_a_slow_value_goes_its_rate_of_the_way_and_is_not_learned():
    agent = build(value__slow=0.25)
    head = agent.value
    before = [p.detach().clone() for p in head.slow.parameters()]
    assert same(before, head.mlp.parameters())  # it begins as the value
    assert not any(p is q for p in agent.optimizers["value"].parameters for q in head.slow.parameters())
    agent.update(next(batches(agent.config)))
    for was, learned, now in zip(before, head.mlp.parameters(), head.slow.parameters(), strict=True):
        torch.testing.assert_close(now, 0.75 * was + 0.25 * learned.detach())
    assert not same(before, head.slow.parameters())


def test_returns_are_bootstrapped_by_the_slow_value_alone():
    agent, zero = build(value__slow=0.02), build(value__slow=0.02)
    with torch.no_grad():
        for p in zero.value.slow.parameters():
            p.zero_()
    batch = next(batches(agent.config))
    got, want = zero.update(batch), agent.update(batch)
    assert got["behavior/value"] == 0 != want["behavior/value"]
    assert got["behavior/return"] != want["behavior/return"]


# ---------------------------------------------------------------- targets that can be earned


def test_targets_are_cut_off_at_the_limit():
    rng = np.random.default_rng(3)
    judged, weight, target = rng.normal(size=(5, 4, 3)), rng.uniform(size=(4, 4)), 3 * rng.normal(size=(4, 4))
    head, limit = linear_head(rng), 2.0
    assert (np.abs(target) > limit).any() and (np.abs(target) < limit).any()
    said = judged[:-1] @ head.out.weight.detach().numpy()[0] + head.out.bias.item()
    given = [torch.tensor(x) for x in (judged, weight, target)]
    for bound, meant in ((limit, np.minimum(np.maximum(target, -limit), limit)), (None, target)):
        of_bound = None if bound is None else torch.tensor(bound, dtype=torch.float64)
        loss = value_loss(*given, head, of_bound, REFERENCE)
        want = np.mean(weight * (0.5 * (meant - said) ** 2 + 0.5 * math.log(2 * math.pi)))
        assert loss.item() == pytest.approx(want, rel=1e-12)
        weights, bias = torch.autograd.grad(loss, head.out)
        slope = weight * (said - meant) / weight.size
        np.testing.assert_allclose(bias.item(), slope.sum(), rtol=1e-12)
        np.testing.assert_allclose(weights[0].numpy(), np.tensordot(slope, judged[:-1], 2), rtol=1e-12)


@pytest.mark.parametrize("clip", [False, True])
def test_a_value_that_bootstraps_itself_runs_away_only_without_a_limit(clip):
    # A state of feature 1 leads to one of feature 2, and no reward is above 0.7: each step makes w 2 gamma times w.
    head = MLPWeights((), Dense(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)))
    head.out.weight.requires_grad_()
    feature, weight = torch.tensor([[[1.0]], [[2.0]]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    limit = torch.tensor(0.7 / (1 - 0.99), dtype=torch.float64) if clip else None
    for _ in range(100):
        target = 0.99 * head.out.weight.detach()[0, 0] * feature[1:, :, 0]
        [slope] = torch.autograd.grad(value_loss(feature, weight, target, head, limit, REFERENCE), head.out.weight)
        with torch.no_grad():
            head.out.weight.sub_(slope)
    found = head.out.weight.item()
    assert found == pytest.approx(70) if clip else found > 1e20


@pytest.mark.parametrize("options", [{}, TASK, {"algorithm": "dreamer"}])
def test_the_largest_reward_is_remembered_and_bounds_both_heads(options):
    agent, plain = build(value__clip_targets=True, **options), build(**options)
    heads = {name: getattr(agent, name) for name in ("value", "task_value") if getattr(agent, name) is not None}
    seen = 0.0
    for batch in batches(agent.config, 3):
        metrics = agent.update(batch)
        plain.update(batch)
        seen = max(seen, metrics["behavior/reward_abs_max"].item())
        assert seen <= agent.value.largest_reward.item()
    # Nothing was beyond the limit, so that nothing is learned otherwise.
    learned = agent.modules.state_dict()
    assert all(torch.equal(learned[name], x) for name, x in plain.modules.state_dict().items())
    assert set(learned) - set(plain.modules.state_dict()) == {"value.largest_reward"}
    for name, head in heads.items():
        with torch.no_grad():
            head.mlp.out.bias.fill_(1e6)
        bound = copy.deepcopy(agent)
        loss = bound.update(batch)[f"behavior/{name}_loss"].item()
        limit = bound.value.largest_reward.item() / (1 - agent.config.behavior.gamma)
        # 1e6 is to learn the limit, not 0.99 of itself or so; the mean weight of a state is 0.95 or so.
        assert loss == pytest.approx(0.5 * (1e6 - limit) ** 2, rel=0.1)


def test_the_largest_is_of_all_that_was_paid_with_the_intrinsic_reward_or_without():
    before, task, both = torch.tensor(2.0), torch.tensor([[0.5, -3.0]]), torch.tensor([[1.0, -1.0]])
    assert largest_reward(None, task, both) is None
    assert [largest_reward(before, *x).item() for x in ((task, both), (both, task), (both, both))] == [3, 3, 2]
    assert value_limit(torch.tensor(3.0), 0.9).item() == pytest.approx(30)


def test_updates_cut_the_replays_targets_off_at_the_largest_reward_there_or_imagined():
    agent = build("no_mi", value__replay=1.0, value__clip_targets=True, value__slow=0.5)
    with torch.no_grad():
        agent.value.slow.out.bias.fill_(1e6)
    batch = next(batches(agent.config))
    loud = batch._replace(reward=torch.zeros_like(batch.reward).index_fill_(1, torch.tensor([0]), 100.0))
    for given in (batch, loud):
        found = copy.deepcopy(agent).update(given)
        largest = max(given.reward.abs().max().item(), found["behavior/reward_abs_max"].item())
        # Every target is the limit, but of an episode's last state; what the value says is little beside it.
        counted = (~given.is_first[:, 1:]).float().mean().item()
        want = counted * 0.5 * (largest / (1 - agent.config.behavior.gamma)) ** 2
        assert found["behavior/replayed_value_loss"].item() == pytest.approx(want, rel=0.05)


def test_the_replays_targets_are_cut_off_too():
    rng = np.random.default_rng(0)
    feature, reward, terminal, is_first = sequences(rng)
    head, slow = linear_head(rng), linear_head(rng)
    given = torch.tensor(feature), batch_of(reward, terminal, is_first), head, slow, 0.9, 0.95, REFERENCE
    at = [replayed_value_loss(*given, torch.tensor(limit)).item() for limit in (0.0, 1.0, 1e9)]
    assert len(set(at)) == 3 and at[2] == replayed_value_loss(*given).item()
    assert at[0] == pytest.approx(self_squared(feature, terminal, is_first, head))


def self_squared(feature, terminal, is_first, head):
    """The loss where every target is 0."""
    said = (feature @ head.out.weight.detach().numpy().T)[..., 0][:-1] + head.out.bias.item()
    counted = ~(is_first.T[1:] & ~(terminal.T[:-1] > 0))
    return np.mean(counted * (0.5 * said**2 + 0.5 * math.log(2 * math.pi)))


# ---------------------------------------------------------------- replayed values


def sequences(rng, length=7, batch=5, features=3):
    """Episodes of every kind: running on, cut off by time, terminated within a sequence or at its end."""
    is_first, terminal = np.zeros((batch, length), bool), np.zeros((batch, length))
    is_first[1, 3] = is_first[2, 4] = is_first[4, 1] = True
    terminal[2, 3] = terminal[3, -1] = terminal[4, 0] = 1
    return rng.normal(size=(length, batch, features)), rng.normal(size=(batch, length)), terminal, is_first


def batch_of(reward, terminal, is_first):
    nothing = torch.zeros(*reward.shape, 1)
    return SequenceBatch(nothing, nothing, torch.tensor(reward), torch.tensor(terminal), torch.tensor(is_first))


def linear_head(rng, features=3):
    weight, bias = rng.normal(size=(1, features)), rng.normal(size=1)
    return MLPWeights((), Dense(torch.tensor(weight, requires_grad=True), torch.tensor(bias, requires_grad=True)))


def by_hand(feature, reward, terminal, is_first, head, slow, gamma, lam):
    """Episode by episode, from its last state back."""

    def judged(weights, x):
        return (x @ weights.out.weight.detach().numpy().T + weights.out.bias.detach().numpy())[..., 0]

    length, batch = feature.shape[:2]
    total = 0.0
    for b in range(batch):
        begins = [0, *[t for t in range(1, length) if is_first[b, t]], length]
        for first, end in itertools.pairwise(begins):
            value = judged(slow, feature[first:end, b])
            if terminal[b, end - 1]:
                value[-1] = reward[b, end - 1]
            ret = value[-1]
            # A sequence's last state is never learned from; another last one only where the episode truly ended there.
            if end < length and terminal[b, end - 1]:
                total -= oracle.normal_log_prob(ret, judged(head, feature[end - 1, b]), 1.0)
            for t in reversed(range(first, end - 1)):
                ret = reward[b, t] + gamma * ((1 - lam) * value[t + 1 - first] + lam * ret)
                total -= oracle.normal_log_prob(ret, judged(head, feature[t, b]), 1.0)
    return total / (batch * (length - 1))


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0)])
def test_the_replays_loss_by_hand(gamma, lam):
    rng = np.random.default_rng(0)
    feature, reward, terminal, is_first = sequences(rng)
    head, slow = linear_head(rng), linear_head(rng)
    loss = replayed_value_loss(torch.tensor(feature), batch_of(reward, terminal, is_first), head, slow, gamma, lam)
    assert loss.item() == pytest.approx(by_hand(feature, reward, terminal, is_first, head, slow, gamma, lam), rel=1e-12)
    of_head = torch.autograd.grad(loss, head.out, retain_graph=True)
    assert all(x.abs().sum() > 0 for x in of_head)
    assert torch.autograd.grad(loss, slow.out, allow_unused=True) == (None, None)


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_a_constant_reward_is_worth_its_endless_sum(gamma):
    c, rng = 0.7, np.random.default_rng(1)
    head = MLPWeights((), Dense(torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)))
    head.out.bias.requires_grad_()
    is_first = rng.uniform(size=(4, 9)) < 0.2  # time limits, which end no future
    batch, feature = batch_of(np.full((4, 9), c), np.zeros((4, 9)), is_first), torch.ones(9, 4, 1, dtype=torch.float64)
    for _ in range(400):
        [slope] = torch.autograd.grad(replayed_value_loss(feature, batch, head, head, gamma, 0.95), head.out.bias)
        with torch.no_grad():
            head.out.bias.sub_(slope)
    assert head.out.bias.item() == pytest.approx(c / (1 - gamma), rel=1e-9)


@pytest.mark.parametrize(
    ("algorithm", "options", "learns"), [("lsp", TASK, "task_value"), ("no_mi", {}, "value"), ("dreamer", {}, "value")]
)
def test_the_head_that_knows_r_alone_learns_from_the_replay(algorithm, options, learns):
    agent, plain = build(algorithm, value__replay=0.3, **options), build(algorithm, **options)
    batch = next(batches(agent.config))
    got, want = agent.update(batch), plain.update(batch)
    assert got.keys() - want.keys() == {"behavior/replayed_value_loss"}
    extra = 0.3 * got["behavior/replayed_value_loss"]
    torch.testing.assert_close(got[f"behavior/{learns}_loss"], want[f"behavior/{learns}_loss"] + extra)
    for name in agent.modules:
        assert same(parameters(agent, name), parameters(plain, name)) == (name != learns), name


def test_terminal_states_of_whole_updates_are_learned_from():
    agent = build("no_mi", value__replay=0.3, value__slow=0.02, model__discount_head="on")
    for batch in batches(agent.config, 3):
        ends = copy.deepcopy(batch.terminal)
        ends[:, :-1] = (torch.rand(ends[:, :-1].shape) < 0.2) & batch.is_first[:, 1:]
        metrics = agent.update(batch._replace(terminal=ends), diagnose=True)
        assert all(x.isfinite() for x in metrics.values())


@pytest.mark.parametrize(
    ("algorithm", "options", "told"),
    [
        ("lsp", {"value__replay": 0.3}, r"value\.replay = 0\.3: .* planner\.value to task"),
        ("random_skills", {"value__replay": 0.3, **TASK}, r"value\.replay = 0\.3: .* skill\.intrinsic to False"),
        ("no_mi", {"value__replay": 0.3, "value__skill": True}, r"value\.replay = 0\.3: .* value\.skill to False"),
        ("lsp", {"value__slow": 1.5}, r"value\.slow = 1\.5: .* exceed 1"),
        ("no_mi", {"value__clip_targets": True, "behavior__gamma": 1.0}, r"value\.clip_targets = True: .* 1\.0"),
    ],
)
def test_what_cannot_be_is_named(algorithm, options, told):
    with pytest.raises(ConfigError, match=told):
        make_config("smoke", algorithm, **options)
