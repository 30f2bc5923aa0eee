"""Terminations: when they are predicted, and that nothing is imagined from a state that nothing follows."""

import numpy as np
import pytest
import torch
from agents.test_update import batches, build

from lsp_fast.agents import behavior_update
from lsp_fast.config import from_dict, make_config, to_dict
from lsp_fast.envs import gym
from lsp_fast.learning.behavior import BehaviorModels, behavior_losses
from lsp_fast.ops.types import Normal, State
from lsp_fast.training import transfer


@pytest.mark.parametrize(
    ("task", "head", "predicted"),
    [
        (gym.PREFIX + "InvertedPendulum-v5", "auto", True),
        ("cheetah_run", "auto", False),
        ("quadruped_getup_walk", "auto", False),
        ("cheetah_run", "on", True),
        (gym.PREFIX + "InvertedPendulum-v5", "off", False),
    ],
)
def test_tasks_that_can_fail_have_a_discount_head(task, head, predicted):
    agent = build(task=task, model__discount_head=head)
    assert agent.config.predicts_terminations is (agent.world_model.discount is not None) is predicted


@pytest.mark.parametrize(
    ("task", "was", "now"),
    [("cheetah_run", False, "auto"), ("cheetah_run", True, "on"), ("gym:Hopper-v5", False, "off")],
)
def test_a_run_from_before_there_was_a_choice_goes_on_as_it_was(task, was, now):
    values = to_dict(make_config("smoke", task=task))
    values["model"]["discount_head"] = was
    config = from_dict(values)
    assert config.model.discount_head == now and config.predicts_terminations is was


@pytest.mark.parametrize("states", [4, 30, 0])
def test_no_imagination_starts_where_an_episode_ended(states, monkeypatch):
    agent = build(model__discount_head="on", behavior__plan_states=states)
    batch = next(batches(agent.config))
    rng = np.random.default_rng(0)
    terminal = torch.tensor(rng.uniform(size=batch.reward.shape) < 0.5, dtype=torch.float32)
    alive = int((1 - terminal).sum())
    seen = {}

    def spy(start, *rest, **named):
        seen["live"] = rest[-1]
        return behavior_losses(start, *rest, **named)

    monkeypatch.setattr(behavior_update, "behavior_losses", spy)
    metrics = agent.update(batch._replace(terminal=terminal), diagnose=True)
    assert all(value.isfinite() for value in metrics.values())
    each = agent.config.skill.per_plan
    # A choice takes terminal states only where there are no others; and then they count nothing.
    assert seen["live"].sum() == each * min(alive, states or alive)


def test_a_terminal_start_changes_nothing():
    agent = build(model__discount_head="on", planner__value="task")
    n, config = 6, agent.config
    live = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    g = torch.Generator().manual_seed(0)
    start = State(torch.randn(n, config.model.stoch, generator=g), torch.randn(n, config.model.deter, generator=g))
    skills = torch.randn(1, n, config.skill.dim, generator=g)
    models = BehaviorModels(
        agent.plan_weights(), agent.value.weights(), agent.task_value.weights(), agent.predictor
    )  # fmt: skip

    def losses(start, live):
        policy = Normal(torch.zeros_like(skills), torch.ones_like(skills))
        found = behavior_losses(start, skills, policy, models, build(seed=3).noise, config, agent.backend, live)
        return torch.stack([x.detach() for x in (found.actor, found.value, found.task_value, found.predictor)])

    other = State(*(torch.where(live[:, None] == 1, x, x + 5) for x in start))
    torch.testing.assert_close(losses(start, live), losses(other, live), rtol=0, atol=0)
    assert (losses(start, None) != losses(other, None)).all()
    # No mask, or one that nothing hides, is the same to the bit.
    torch.testing.assert_close(losses(start, None), losses(start, torch.ones(n)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("source", "task", "head"),
    [("cheetah_run", "gym:HalfCheetah-v5", "off"), ("gym:HalfCheetah-v5", "cheetah_run", "on"),
     ("cheetah_run", "cheetah_run", "auto")],
)  # fmt: skip
def test_a_transfer_keeps_the_head_that_the_source_has(source, task, head, monkeypatch, tmp_path):
    monkeypatch.setattr(transfer.RunFolder, "read_config", lambda self: make_config("smoke", task=source))
    monkeypatch.setattr(transfer.checkpoint, "load_latest", lambda folder: {"env_steps": 7})
    assert transfer.transfer_config(tmp_path / "a", tmp_path / "b", task).model.discount_head == head
