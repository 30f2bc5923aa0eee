"""Imagined rollouts against the oracle, and their gradients against finite differences (SPEC sections 3, 4 and 6)."""

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.ops import imagine
from lsp_fast.ops.types import (
    ActorWeights,
    Dense,
    GRUWeights,
    ImagineNoise,
    MLPWeights,
    PriorWeights,
    State,
    features,
)

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}


class Case:
    """One problem as arrays, as the oracle takes it, and as the op's arguments."""

    def __init__(self, n=3, h=5, k=2, s=3, d=4, hidden=5, a=2, z=3, units=(6, 6), sample=True, seed=0):
        rng = np.random.default_rng(seed)
        self.k = k
        self.rssm = oracle.random_rssm(rng, s, d, hidden, a, 1)
        self.actor = oracle.random_mlp(rng, s + d + z, units, 2 * a)
        self.start = rng.normal(size=(n, s)), np.tanh(rng.normal(size=(n, d)))
        self.plan = rng.normal(size=(n, -(-h // k), z)) if z else None  # [N, P, Z]
        self.state_noise = rng.normal(size=(h, n, s))
        self.action_noise = rng.normal(size=(h, n, a)) if sample else None

    def held(self):
        return None if self.plan is None else oracle.hold_skills(self.plan, self.k, len(self.state_noise))

    def oracle(self):
        return oracle.imagine(*self.start, self.rssm, self.actor, self.held(), self.state_noise, self.action_noise)

    def arguments(self, dtype=torch.float64):
        def tensor(x):
            return None if x is None else torch.tensor(x, dtype=dtype)

        def dense(layer):
            return Dense(*map(tensor, layer))

        r = self.rssm
        prior = PriorWeights(
            dense(r["img_in"]), GRUWeights(*map(tensor, r["gru"])), dense(r["img_out"]), dense(r["img_dist"]), 0.1
        )
        mlp = MLPWeights(tuple(map(dense, self.actor[0])), dense(self.actor[1]))
        skills = None if self.plan is None else tensor(self.plan).transpose(0, 1)  # [P, N, Z]
        noise = ImagineNoise(tensor(self.state_noise), tensor(self.action_noise))
        return State(*map(tensor, self.start)), prior, ActorWeights(mlp, 5.0, 5.0, 1e-4), skills, self.k, noise


def check(case, dtype=torch.float64):
    rollout = imagine(*case.arguments(dtype))
    feats, actions = case.oracle()
    assert {x.dtype for x in (*rollout.states, rollout.actions, *rollout.policy)} == {dtype}
    np.testing.assert_allclose(features(rollout.states), feats, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(rollout.actions, actions, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"n": 1, "h": 1, "k": 1, "s": 1, "d": 1, "hidden": 1, "a": 1, "z": 1, "units": (1,)},
        {"z": 0},
        {"sample": False},
        {"z": 0, "sample": False},
        {"h": 7, "k": 3},
        {"h": 3, "k": 10},
        {"n": 0},
        {"n": 17, "h": 15, "k": 10, "s": 30, "d": 200, "hidden": 200, "a": 6, "units": (400,) * 4},
    ],
    ids=str,
)
def test_equals_the_oracle(sizes, dtype):
    check(Case(**sizes), dtype)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 5), h=st.integers(1, 7), k=st.integers(1, 8), s=st.integers(1, 5), d=st.integers(1, 6),
    hidden=st.integers(1, 6), a=st.integers(1, 3), z=st.integers(0, 4), sample=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_equals_the_oracle_whatever_the_shape(**sizes):
    check(Case(**sizes))


def test_policy_is_what_the_actions_were_drawn_from():
    case = Case()
    start, *_, noise = args = case.arguments()
    rollout = imagine(*args)
    seen = torch.cat([features(start)[None], features(rollout.states)[:-1]])
    mean, std = oracle.actor_dist(case.actor, seen.numpy(), case.held())
    np.testing.assert_allclose(rollout.policy.mean, mean, rtol=1e-11)
    np.testing.assert_allclose(rollout.policy.std, std, rtol=1e-11)
    want = torch.tanh(rollout.policy.mean + rollout.policy.std * noise.action)
    np.testing.assert_allclose(rollout.actions, want, rtol=1e-13)


def test_120_steps_of_30_see_four_skills_that_change_at_multiples_of_30():
    case = Case(n=2, h=121, k=30)
    start, prior, actor, skills, k, noise = case.arguments()
    assert skills.shape[0] == 5
    skills = skills[:4]
    # An actor of one unit that reads the skill's first coordinate alone.
    weight = torch.zeros(1, actor.mlp.hidden[0].weight.shape[1], dtype=torch.float64)
    weight[0, 7] = 1.0
    mlp = MLPWeights(
        (Dense(weight, torch.zeros(1, dtype=torch.float64)),),
        Dense(torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)),
    )
    rollout = imagine(start, prior, actor._replace(mlp=mlp), skills, k, noise)
    changes = (rollout.policy.mean[1:] != rollout.policy.mean[:-1]).any(-1)  # [H - 1, N]
    for n in range(2):
        # The last skill is held for the 121st step.
        assert changes[:, n].nonzero().flatten().tolist() == [29, 59, 89]


def test_rows_do_not_mix():
    args = Case(n=6).arguments()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    start, prior, actor, skills, k, noise = args
    permuted = imagine(
        State(*(x[order] for x in start)),
        prior,
        actor,
        skills[:, order],
        k,
        ImagineNoise(*(x[:, order] for x in noise)),
    )
    want = imagine(*args)
    np.testing.assert_allclose(features(permuted.states), features(want.states)[:, order], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(permuted.actions, want.actions[:, order], rtol=1e-12, atol=1e-13)


def test_later_noise_and_skills_leave_earlier_states():
    start, prior, actor, skills, k, noise = Case(h=6, k=2).arguments()
    want = imagine(start, prior, actor, skills, k, noise)
    changed, changed_noise = skills.clone(), ImagineNoise(noise.stoch.clone(), noise.action.clone())
    changed[2] += 1.0
    changed_noise.stoch[4:] += 1.0
    changed_noise.action[4:] += 1.0
    got = imagine(start, prior, actor, changed, k, changed_noise)
    assert torch.equal(features(got.states)[:4], features(want.states)[:4])
    assert torch.equal(got.actions[:4], want.actions[:4])
    assert not torch.equal(got.actions[4], want.actions[4])


# ---------------------------------------------------------------- gradients


def leaves(args):
    """Every tensor among the arguments."""
    if isinstance(args, torch.Tensor):
        return [args]
    return [x for a in args for x in leaves(a)] if isinstance(args, tuple) else []


def rollout_with_fixed_actor_inputs(case, seen):
    """What the gradient is of: the oracle's rollout whose actor reads `seen` [H, N, F] whatever the states are [D]."""
    s, h = case.start
    held = case.held()
    feats, actions = [], []
    for t in range(len(case.state_noise)):
        mean, std = oracle.actor_dist(case.actor, seen[t], None if held is None else held[t])
        a = np.tanh(mean) if case.action_noise is None else oracle.act(mean, std, case.action_noise[t])
        state = oracle.prior_step(case.rssm, s, h, a, case.state_noise[t])
        s, h = state["s"], state["h"]
        feats.append(oracle.feature(s, h))
        actions.append(a)
    return np.stack(feats), np.stack(actions)


def case_arrays(case):
    """The case's arrays in the order of `leaves(case.arguments())`, posterior left out."""
    r = case.rssm
    prior = [*r["img_in"], *r["gru"], *r["img_out"], *r["img_dist"]]
    actor = [x for layer in (*case.actor[0], case.actor[1]) for x in layer]
    plan = [] if case.plan is None else [case.plan.transpose(1, 0, 2)]
    noise = [case.state_noise] + ([] if case.action_noise is None else [case.action_noise])
    return [*case.start, *prior, *actor, *plan, *noise]


@pytest.mark.parametrize(
    "sizes", [{}, {"h": 1}, {"z": 0}, {"sample": False}, {"n": 2, "h": 6, "k": 4}, {"k": 10, "a": 1}], ids=str
)
def test_gradients_against_finite_differences(sizes):
    case = Case(**sizes)
    args = case.arguments()
    inputs = leaves(args)
    for x in inputs:
        x.requires_grad_()
    rollout = imagine(*args)
    got_feats = features(rollout.states)
    rng = np.random.default_rng(1)
    c, d = rng.normal(size=got_feats.shape), rng.normal(size=rollout.actions.shape)
    ((got_feats * torch.tensor(c)).sum() + (rollout.actions * torch.tensor(d)).sum()).backward()

    feats, _ = case.oracle()
    seen = np.concatenate([oracle.feature(*case.start)[None], feats[:-1]])

    def objective():
        feats, actions = rollout_with_fixed_actor_inputs(case, seen)
        return (feats * c).sum() + (actions * d).sum()

    arrays = case_arrays(case)
    assert [x.shape for x in arrays] == [tuple(x.shape) for x in inputs]
    step = 1e-6
    for array, tensor in zip(arrays, inputs, strict=True):
        for _ in range(3):
            direction = rng.normal(size=array.shape)
            array += step * direction
            up = objective()
            array -= 2 * step * direction
            down = objective()
            array += step * direction
            want = (up - down) / (2 * step)
            grad = 0.0 if tensor.grad is None else (tensor.grad.numpy() * direction).sum()
            assert grad == pytest.approx(want, rel=1e-6, abs=2e-7)


def test_no_gradient_from_the_actors_input_into_the_state():
    start, *rest = Case(h=1).arguments()
    for x in start:
        x.requires_grad_()
    rollout = imagine(start, *rest)
    assert not rollout.actions.requires_grad
    assert not rollout.policy.mean.requires_grad
    assert all(x.requires_grad for x in rollout.states)


def test_inputs_stay():
    args = Case().arguments()
    before = [x.clone() for x in leaves(args)]
    imagine(*args)
    assert all(torch.equal(a, b) for a, b in zip(leaves(args), before, strict=True))


def broken(name):
    start, prior, actor, skills, k, noise = Case().arguments()
    change = {
        "deter": lambda: (State(start.stoch, start.deter[:, :-1]), prior, actor, skills, k, noise),
        "rows": lambda: (State(start.stoch[:-1], start.deter), prior, actor, skills, k, noise),
        "noise": lambda: (start, prior, actor, skills, k, noise._replace(stoch=noise.stoch[:, :-1])),
        "no steps": lambda: (start, prior, actor, skills, k, ImagineNoise(noise.stoch[:0], noise.action[:0])),
        "action noise": lambda: (start, prior, actor, skills, k, noise._replace(action=noise.action[:-1])),
        "skills": lambda: (start, prior, actor, skills[:, :-1], k, noise),
        "no skills": lambda: (start, prior, actor, skills[:0], k, noise),
        "skill length": lambda: (start, prior, actor, skills, 0, noise),
    }
    return change[name]()


@pytest.mark.parametrize(
    "name", ["deter", "rows", "noise", "no steps", "action noise", "skills", "no skills", "skill length"]
)
def test_shapes_that_do_not_fit(name):
    with pytest.raises(ValueError, match="imagine"):
        imagine(*broken(name))
