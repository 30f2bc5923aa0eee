"""Options of acting: plans within a segment, committed skills, exploration that falls (SPEC section 8)."""

import copy
import itertools

import numpy as np
import pytest
import torch

from agents.test_update import OBS, batches, build
from agents.test_warm_start import priors_and_plans
from lsp_fast.agents import acting
from lsp_fast.config import from_dict, make_config, to_dict
from lsp_fast.errors import ConfigError
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
from lsp_fast.planning.planner import moved_on
from lsp_fast.storage import checkpoint
from lsp_fast.training.loop import train

TWO = {"behavior__horizon": 10, "skill__length": 5}  # skills a plan
COMMITTED = {"collect__commit": 0.5, "planner__replan": 2}


def acts(agent, steps, rows=2, explore=True, resets=()):
    """The carry after each step of one stream of observations; `resets` are steps at which row 0 begins anew."""
    rng, carry, found = np.random.default_rng(1), agent.initial_carry(rows, explore=explore), []
    for t in range(steps):
        carry = agent.reset(carry, np.array([t in resets] + [False] * (rows - 1)))
        _, carry = agent.policy(rng.normal(size=(rows, OBS)).astype(np.float32), carry)
        found.append(carry)
    return found


def changes(carries, row):
    """Steps at which a row's skill is another one."""
    return [t for t, (a, b) in enumerate(itertools.pairwise(carries), 1) if (a.skill[row] != b.skill[row]).any()]


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize(
    ("replan", "length", "first", "second"),
    [
        (0, 10, [10, 13], [10, 20]),
        (10, 10, [10, 13], [10, 20]),
        (5, 10, [5, 10, 13, 18], [5, 10, 15, 20]),
        (3, 5, [3, 5, 8, 10, 13, 16, 18, 21], [3, 5, 8, 10, 13, 15, 18, 20]),
        (1, 5, [*range(1, 22)], [*range(1, 22)]),
    ],
)
def test_plans_are_made_every_few_steps_and_where_a_segment_begins(replan, length, first, second, explore):
    agent = build(planner__replan=replan, behavior__horizon=10, skill__length=length)
    carries = acts(agent, 22, explore=explore, resets=(13,))
    assert [changes(carries, row) for row in range(2)] == [first, second]


def test_a_plan_within_a_segment_begins_where_the_last_one_ended(monkeypatch):
    agent = build(planner__replan=2, **TWO)
    found = priors_and_plans(agent, 11, monkeypatch=monkeypatch)
    assert len(found) == 7 and not found[0][0].mean.any()  # t = 0, 2, 4, 5, 7, 9, 10
    for i, (before, now) in enumerate(itertools.pairwise(found), 1):
        # The first skill has passed at t = 5 and t = 10 alone.
        expected = moved_on(before[1]) if i in (3, 6) else before[1]
        assert torch.equal(now[0].mean, expected) and (now[0].std == 1).all()


def test_rows_out_of_step_move_on_each_by_itself(monkeypatch):
    agent = build(planner__replan=1, **TWO)
    found = priors_and_plans(agent, 8, resets=(2,), monkeypatch=monkeypatch)
    for t, (before, now) in enumerate(itertools.pairwise(found), 1):
        moved, expected = moved_on(before[1]), before[1].clone()
        expected[0] = 0 if t == 2 else moved[0] if t == 7 else expected[0]
        expected[1] = moved[1] if t == 5 else expected[1]
        assert torch.equal(now[0].mean, expected), t


def test_every_k_steps_is_a_warm_start():
    often, warm = (build(**TWO, **option) for option in ({"planner__replan": 5}, {"planner__warm_start": True}))
    for a, b in zip(*(acts(agent, 12, resets=(4,)) for agent in (often, warm)), strict=True):
        assert torch.equal(a.action, b.action) and torch.equal(a.skill, b.skill)


@pytest.mark.parametrize("overrides", [COMMITTED, {"collect__exploration_steps": 100}])
def test_what_is_learned_does_not_depend_on_how_it_acts(overrides):
    agents = build(**overrides), build()
    for batch in batches(agents[1].config, 2):
        a, b = (agent.update(batch, diagnose=True) for agent in agents)
        assert a == b


@pytest.mark.parametrize("replan", [0, 1, 2])
def test_all_committed_skills_are_the_streams_own(replan):
    agent = build(collect__commit=1.0, planner__replan=replan, **TWO)
    carries = acts(agent, 10)
    again = Noise(agent.config.seed)
    expected = [again.normal("act/committed_skill", 2, 3) for _ in range(2)]
    for t, carry in enumerate(carries):
        assert carry.committed.all() and torch.equal(carry.skill, expected[t // 5])


def test_committed_skills_last_a_segment_and_the_others_go_on_being_planned():
    agent = build(**COMMITTED, **TWO)
    carries = acts(agent, 33, rows=20, resets=(13,))
    seen = []
    for row in range(20):
        begins = [0, 5, 10, 13, 18, 23, 28] if row == 0 else [0, 5, 10, 15, 20, 25]
        for first in begins:
            last = 3 if (row, first) == (0, 10) else 5
            segment = carries[first : first + last]
            flags = {bool(carry.committed[row]) for carry in segment}
            assert len(flags) == 1
            seen.append(flags.pop())
            # Planned at the first, third and fifth step.
            assert changes(segment, row) == ([] if seen[-1] else [2, 4][: last // 2])
    assert 0.35 < np.mean(seen) < 0.65


def test_off_and_in_evaluation_nothing_is_drawn_for_it():
    for agent, explore in ((build(), True), (build(collect__commit=0.9), False)):
        carry = acts(agent, 3, explore=explore)[-1]
        assert carry.committed is None and not any("commit" in name for name in carry.noise.state_dict())
    plain, option = (acts(build(**x), 3, explore=False)[-1] for x in ({}, {"collect__commit": 0.9}))
    assert torch.equal(plain.action, option.action)


def test_a_held_skill_is_not_committed_away():
    agent = build(collect__commit=1.0)
    carry = agent.hold(agent.initial_carry(1, explore=True), [1.0, 2.0, 3.0])
    _, carry = agent.policy(np.zeros((1, OBS), np.float32), carry)
    assert carry.skill.tolist() == [[1.0, 2.0, 3.0]]


def test_memory_goes_into_a_checkpoint_and_an_older_one_comes_out():
    agent = build(**COMMITTED)
    carry = acts(agent, 3)[-1]
    state = copy.deepcopy(carry.state_dict())
    fresh = agent.initial_carry(2, explore=True)
    assert torch.equal(fresh.loaded(state).committed, carry.committed)
    older = {k: v for k, v in state.items() if k not in ("plan", "committed")}
    assert build().initial_carry(2, explore=True).loaded(older).kept().keys() == {"skill"}


@pytest.mark.parametrize("algorithm", ["lsp", "hiro"])
def test_exploration_falls_to_its_end(algorithm):
    agent = build(algorithm, collect__exploration_noise=0.3, collect__exploration_steps=1000)
    for steps, std in ((0, 0.3), (250, 0.25), (500, 0.2), (1000, 0.1), (5000, 0.1)):
        agent.at(steps)
        assert float(agent.exploration) == pytest.approx(std)
    plain = build(algorithm, collect__exploration_noise=0.3)
    plain.at(500)
    assert plain.exploration == 0.3


def test_exploration_that_has_fallen_is_what_is_added():
    values = {"collect__exploration_noise": 5.0, "collect__exploration_noise_final": 0.0}
    falling, quiet = build(collect__exploration_steps=100, **values), build(collect__exploration_noise=0.0)
    assert not torch.equal(acts(falling, 1)[0].action, acts(quiet, 1)[0].action)
    falling.at(100)
    assert torch.equal(acts(falling, 1)[0].action, acts(quiet, 1)[0].action)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_run_in_two_parts_is_the_same(smoke, tmp_path, overlap):
    values = {**COMMITTED, **TWO, "collect__exploration_steps": 2000, "planner__rollouts": "mean",
              "planner__std_min": 0.3, "train__eval_every": 2000, "train__overlap": overlap}  # fmt: skip
    whole = train(smoke(env_steps=1060, **values), tmp_path / "whole", progress=False)
    train(smoke(env_steps=1024, **values), tmp_path / "parts", progress=False)
    parts = train(smoke(env_steps=1060, **values), tmp_path / "parts", progress=False)
    assert parts.resumed_at == 1024 and parts.score == whole.score
    replays = [(result.folder / "replay" / "action.f32").read_bytes() for result in (whole, parts)]
    assert replays[0] == replays[1]
    modules = [checkpoint.load(result.checkpoint)["agent"]["modules"] for result in (whole, parts)]
    assert all(torch.equal(x, modules[1][name]) for name, x in modules[0].items())


@pytest.mark.parametrize(
    "overrides",
    [
        {"planner__rollouts": "mean"},
        {"planner__rollouts": "mean", "planner__noise": "philox", "planner__candidates": 64, "planner__elites": 8},
        {"planner__std_min": 0.5},
        TWO,
        {"planner__rollouts": "mean", **TWO},
    ],
)
def test_it_learns_and_its_plans_health_is_told(overrides):
    agent, plain = build(**overrides), build()
    for batch in batches(plain.config, 2):
        metrics = agent.update(batch, diagnose=True)
        plain.update(batch)
        assert all(value.isfinite() for value in metrics.values())
    assert any(not torch.equal(a, b) for a, b in zip(agent.actor.parameters(), plain.actor.parameters(), strict=True))
    if "planner__rollouts" in overrides:
        assert metrics["planner/rollout_noise"] == 0
    assert metrics["planner/std"] >= overrides.get("planner__std_min", 0)


@pytest.mark.parametrize("kind", ["tensors", "philox"])
def test_rollouts_of_means_draw_their_candidates_alone(kind):
    planner = build(planner__rollouts="mean", planner__noise=kind).planner
    noise = Noise(0)
    drawn = planner.draw(noise, "x", 3, sample=True)
    assert noise.state_dict().keys() == {"x/plan_key" if kind == "philox" else "x/candidates"}
    # Asked for by name they are sampled, whatever the configuration says.
    sampled = planner.draw(noise, "x", 3, sample=True, rollouts="sampled")
    assert sampled.sample and not sampled.means if kind == "philox" else sampled.action is not None
    m = planner.config.model
    start = State(torch.randn(3, m.stoch), torch.randn(3, m.deter).tanh())
    found, expected = planner.plan(start, drawn, planner.prior(start)), planner.search(start, drawn)
    assert torch.equal(found.mean, expected.mean)


@pytest.mark.parametrize(
    ("algorithm", "overrides", "named"),
    [
        ("lsp", {"planner__replan": 11}, r"planner.replan = 11.*shorten it"),
        ("lsp", {"planner__replan": -1}, "planner.replan = -1: must be at least 0"),
        ("dreamer", {"planner__replan": 2}, "needs planned skills"),
        ("planet", {"planner__replan": 2}, "needs planned skills"),
        ("lsp", {"planner__std_min": 1.5}, "planner.std_min = 1.5: must not exceed 1"),
        ("lsp", {"planner__rollouts": "none"}, "must be one of sampled, mean, shared"),
        ("lsp", {"collect__commit": 1.5}, "collect.commit = 1.5: must be a share"),
        ("random_skills", {"collect__commit": 0.2}, "needs planned skills"),
        ("lsp", {"collect__exploration_steps": -5}, "must be at least 0"),
        ("lsp", {"collect__exploration_noise_final": -0.1}, "must be at least 0"),
    ],
)
def test_values_that_cannot_be_are_named(algorithm, overrides, named):
    with pytest.raises(ConfigError, match=named):
        make_config("smoke", algorithm, **overrides)


@pytest.mark.parametrize(("switch", "rollouts"), [(True, "shared"), (False, "sampled")])
def test_the_switch_of_older_runs_is_one_of_three_ways(switch, rollouts):
    older = to_dict(make_config("smoke"))
    del older["planner"]["rollouts"]
    older["planner"]["shared_noise"] = switch
    assert from_dict(older) == make_config("smoke", planner__rollouts=rollouts)
    older["planner"]["shared_noise"] = "yes"
    with pytest.raises(ConfigError, match="another version"):
        from_dict(older)


def test_what_a_row_does():
    config = make_config("smoke", planner__replan=4, skill__length=10)
    carry = build(planner__replan=4).initial_carry(12)
    steps = torch.arange(12)
    got = acting.now(config, acting.replace(carry, step=steps)).tolist()
    assert got == [2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 2, 0]
