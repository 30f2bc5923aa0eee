"""The agent: what acts when, which noise and which optimiser touch what (SPEC sections 4 to 6)."""

import copy

import numpy as np
import pytest
import torch

from agents.test_update import OBS, batches, build
from lsp_fast.config import ALGORITHMS
from lsp_fast.errors import BackendUnavailable
from lsp_fast.noise import Noise
from lsp_fast.ops import layers


def acts(agent, steps, rows=1, explore=True, resets=()):
    """Actions and skills of some steps on one stream of observations; `resets` are steps at which row 0 begins anew."""
    rng = np.random.default_rng(1)
    carry = agent.initial_carry(rows, explore=explore)
    actions, skills = [], []
    for t in range(steps):
        is_first = np.zeros(rows, bool)
        is_first[0] = t in resets
        carry = agent.reset(carry, is_first)
        action, carry = agent.policy(rng.normal(size=(rows, OBS)).astype(np.float32), carry)
        actions.append(action)
        skills.append(None if carry.skill is None else carry.skill.numpy().copy())
    return np.stack(actions), skills


@pytest.mark.parametrize("algorithm", ["lsp", "random_skills"])
@pytest.mark.parametrize("explore", [True, False])
def test_skills_change_only_at_multiples_of_k_and_at_reset(algorithm, explore):
    _, skills = acts(build(algorithm), 34, rows=2, explore=explore, resets=(0, 13))
    changed = [[t for t in range(1, 34) if (skills[t][row] != skills[t - 1][row]).any()] for row in range(2)]
    assert changed == [[10, 13, 23, 33], [10, 20, 30]]


def test_h_120_and_k_30_plan_4_skills():
    agent = build(behavior__horizon=120, skill__length=30, behavior__plan_states=1, skill__per_plan=1)
    assert agent.config.skills_per_rollout == 4
    metrics = agent.update(next(batches(agent.config)))
    assert all(value.isfinite() for value in metrics.values())


def test_actions_are_bounded_and_the_same_seed_acts_the_same():
    first, _ = acts(build(), 12, explore=True)
    again, _ = acts(build(), 12, explore=True)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first).max() <= 1


def test_evaluating_leaves_training_unchanged():
    quiet, evaluated = build(), build()
    for i, batch in enumerate(batches(quiet.config, 3)):
        quiet.update(batch)
        acts(evaluated, 11 + i, explore=False)
        evaluated.update(batch)
    for a, b in zip(quiet.modules.parameters(), evaluated.modules.parameters(), strict=True):
        assert torch.equal(a, b)


def test_exploration_noise_is_added_only_while_collecting():
    noisy = build(collect__exploration_noise=10.0)
    assert (np.abs(acts(noisy, 5, explore=True)[0]) == 1).mean() > 0.8
    np.testing.assert_array_equal(acts(noisy, 5, explore=False)[0], acts(build(), 5, explore=False)[0])


@pytest.mark.parametrize("eval_action", ["mode_of_samples", "tanh_mean"])
def test_the_deterministic_action(eval_action):
    agent = build(actor__eval_action=eval_action)
    a, _ = acts(agent, 3, explore=False)
    b, _ = acts(build("no_mi", actor__eval_action=eval_action), 3, explore=False)
    np.testing.assert_array_equal(a, b)  # the predictor plays no part in acting


@pytest.mark.parametrize("shape", [(2, OBS), (1, OBS + 1), (OBS,)])
def test_an_observation_of_another_shape_is_refused(shape):
    agent = build()
    with pytest.raises(ValueError, match="observation must be"):
        agent.policy(np.zeros(shape, np.float32), agent.initial_carry(1))


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if not name.startswith("hiro")])
def test_modules_are_those_of_the_row(algorithm):
    agent = build(algorithm)
    assert ("predictor" in agent.modules) == (algorithm in ("lsp", "random_skills"))
    if algorithm == "planet":
        assert list(agent.modules) == ["world_model"]
        return
    feature = agent.config.model.stoch + agent.config.model.deter
    width = agent.actor.weights().mlp.hidden[0].weight.shape[1]
    assert width == feature + (0 if algorithm == "dreamer" else 3)


@pytest.mark.parametrize("name", ["world_model", "actor", "value", "task_value", "predictor"])
def test_each_optimizer_changes_its_own_parameters_only(name):
    agent = build(planner__value="task")
    agent.update(next(batches(agent.config)))  # Adam's first step made its state
    for other, optimizer in agent.optimizers.items():
        if other != name:
            optimizer.adam.step = lambda: None
    before = copy.deepcopy(agent.modules.state_dict())
    agent.update(next(batches(agent.config)))
    after = agent.modules.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {name}


@pytest.mark.parametrize("overrides", [{}, {"skill__length": 3}, {"value__skill": True}])
@pytest.mark.parametrize("form", ["spread", "every"])
@pytest.mark.parametrize("mi", ["predict", "compose"])
def test_beta_zero_equals_no_mi_to_the_bit(mi, form, overrides):
    overrides = {"skill__intrinsic_form": form, **overrides}
    rewarded, without = build("lsp", skill__beta=0.0, skill__mi=mi, **overrides), build("no_mi", **overrides)
    for batch in batches(without.config, 20):
        rewarded.update(batch)
        without.update(batch)
    for name in ("world_model", "actor", "value"):
        pairs = zip(rewarded.modules[name].parameters(), without.modules[name].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name


@pytest.mark.parametrize(
    "overrides",
    [
        {"skill__intrinsic_form": "end"},
        {"skill__intrinsic_form": "every"},
        {"planner__objective": "sum"},
        {"planner__value": "task"},
        {"predictor__inputs": "ends"},
        {"predictor__inputs": "per_step"},
        {"skill__noise_kind": "variance"},
        {"model__discount_head": "on"},
        {"behavior__horizon": 25},
        {"behavior__plan_states": 0, "skill__per_plan": 1},
        {"skill__length": 4},
        {"skill__mi": "compose"},
        {"skill__mi": "compose", "skill__length": 15, "train__autocast": True},
        {"value__skill": True},
        {"value__skill": True, "planner__value": "task", "skill__length": 4, "planner__noise": "philox"},
        {"value__slow": 0.02},
        {"model__norm": True, "train__autocast": True},
        {"model__reward_scale": 10.0},
        {"value__slow": 0.02, "value__replay": 0.3, "planner__value": "task", "train__autocast": True},
        {"skill__random_share": 0.5},
        {"skill__random_share": 1.0, "model__discount_head": "on"},
        {"skill__random_share": 0.5, "behavior__plan_states": 0},
        {"behavior__starts": 9, "skill__per_plan": 1},
        {"skill__beta_kind": "gradient"},
        {"skill__beta_kind": "gradient", "skill__mi": "compose", "planner__value": "task", "train__autocast": True},
        {"skill__offset": "on"},
        {"skill__input_scale": 3.0},
        {"predictor__normalise": True},
        {"predictor__normalise": True, "predictor__inputs": "per_step", "train__autocast": True},
        {"actor__entropy_kind": "range", "train__autocast": True},
    ],
)
def test_every_option_learns_something_else(overrides):
    agent, plain = build(**overrides), build()
    for batch in batches(plain.config, 4):
        metrics = agent.update(batch, diagnose=True)
        plain.update(batch)
        assert all(value.isfinite() for value in metrics.values())
    assert any(not torch.equal(a, b) for a, b in zip(agent.actor.parameters(), plain.actor.parameters(), strict=True))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"skill__mi": "compose", "value__skill": True},
        {"value__slow": 0.02, "value__clip_targets": True},
        {"skill__beta_kind": "gradient", "skill__beta_every": 3, "predictor__normalise": True, "behavior__starts": 6},
    ],
)
def test_restored_agents_go_on_to_the_bit(overrides):
    agent, sequences = build(**overrides), list(batches(build().config, 4))
    for batch in sequences[:2]:
        agent.update(batch)
    state = copy.deepcopy(agent.state_dict())
    restored = build(seed=7, **overrides)
    restored.load_state_dict(state)
    restored.noise.seed = agent.noise.seed
    pointers = [p.data_ptr() for p in restored.modules.parameters()]
    for batch in sequences[2:]:
        agent.update(batch)
        restored.update(batch)
    assert pointers == [p.data_ptr() for p in restored.modules.parameters()]
    ours, theirs = agent.modules.state_dict(), restored.modules.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_composing_needs_no_predictor_and_reports_the_information():
    agent = build(skill__mi="compose", skill__compose_skills=8)
    assert "predictor" not in agent.modules and "predictor" not in agent.optimizers
    for batch in batches(agent.config, 2):
        metrics = agent.update(batch, diagnose=True)
        assert metrics["behavior/mutual_information"] <= np.log(8)
        assert metrics["behavior/intrinsic_grad_norm"] > 0
        assert "behavior/log_q" not in metrics and "behavior/predictor_loss" not in metrics
    assert acts(agent, 3)[0].shape == (3, 1, 2)


@pytest.mark.parametrize("name", ["value", "task_value"])
def test_a_value_that_sees_the_skill_learns_from_it(name):
    agent = build(value__skill=True, planner__value="task")
    feature_dim, skill_dim = agent.config.model.stoch + agent.config.model.deter, agent.config.skill.dim
    head = agent.modules[name]
    first = head.weights().hidden[0].weight
    before = first.detach().clone()
    for batch in batches(agent.config, 2):
        assert agent.update(batch)["behavior/actor_grad_norm"] > 0
    assert first.shape[1] == feature_dim + skill_dim
    assert ((first - before)[:, feature_dim:] != 0).any(0).all()
    judged = torch.zeros(2, feature_dim + skill_dim)
    judged[1, -1] = 1.0
    here, there = layers.scalar_head(judged, head.weights())
    assert here != there


def test_both_values_see_the_skill_alike():
    agent = build("no_mi", value__skill=True, planner__value="task", skill__length=4)
    agent.task_value.load_state_dict(agent.value.state_dict())
    for batch in batches(agent.config, 2):  # without an intrinsic reward there is nothing to tell them apart
        metrics = agent.update(batch)
        assert metrics["behavior/task_value_loss"] == metrics["behavior/value_loss"]


def test_a_native_backend_leaves_plans_to_the_reference_where_the_value_sees_the_skill():
    overrides = {"value__skill": True, "skill__length": 3, "planner__noise": "tensors"}
    try:
        with pytest.warns(UserWarning, match="plans are rolled out by the reference"):
            native = build(backend="cpp", **overrides)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    reference = build(**overrides)
    for batch in batches(native.config, 3):
        ours, expected = native.update(batch, diagnose=True), reference.update(batch, diagnose=True)
        for key, value in expected.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5, msg=key)
    np.testing.assert_allclose(acts(native, 5)[0], acts(reference, 5)[0], rtol=1e-4, atol=1e-4)


def test_pretraining_the_world_model_leaves_behaviour_alone():
    agent = build()
    before = copy.deepcopy(agent.modules.state_dict())
    metrics = agent.update(next(batches(agent.config)), behavior=False)
    after = agent.modules.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"world_model"}
    assert all(name.startswith("world_model/") for name in metrics)


def test_diagnosing_changes_nothing_but_what_is_reported():
    plain, watched = build(), build()
    for batch in batches(plain.config, 2):
        plain.update(batch)
        metrics = watched.update(batch, diagnose=True)
    assert {"planner/elite_overlap", "planner/value_spread", "planner/rollout_noise"} < metrics.keys()
    assert {"behavior/task_grad_norm", "behavior/intrinsic_grad_norm", "behavior/saturation"} < metrics.keys()
    assert {"behavior/log_q_minus_log_p"} < metrics.keys()
    for a, b in zip(plain.modules.parameters(), watched.modules.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_carry_of_a_run_does_not_draw_on_the_training_noise():
    agent = build()
    before = agent.noise.state_dict()
    agent.policy(np.zeros((1, OBS), np.float32), agent.initial_carry(1, noise=Noise(3)))
    after = agent.noise.state_dict()
    assert before.keys() == after.keys()


def test_a_skill_can_be_held():
    agent = build()
    rng, carry = np.random.default_rng(0), agent.hold(agent.initial_carry(2), [0.5, -1.0, 2.0])
    for _ in range(agent.config.skill.length + 2):
        _, carry = agent.policy(rng.normal(size=(2, OBS)).astype(np.float32), carry)
    assert carry.skill.tolist() == [[0.5, -1.0, 2.0]] * 2
    each = agent.hold(carry, np.arange(6.0).reshape(2, 3))
    assert each.skill.tolist() == [[0, 1, 2], [3, 4, 5]] and each.step is carry.step
    given = np.ones((2, 3), np.float32)
    held = agent.hold(carry, given)
    given[:] = 7
    assert held.skill.tolist() == [[1.0] * 3] * 2
    with pytest.raises(ValueError, match=r"must be finite, not \[nan, 0.0, 0.0\]"):
        agent.hold(carry, [np.nan, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"\[3\] or \[2, 3\], not \[2\]"):
        agent.hold(carry, [1.0, 2.0])
    with pytest.raises(ValueError, match="dreamer has no skills"):
        build("dreamer").hold(build("dreamer").initial_carry(1), [0.0, 0.0, 0.0])
