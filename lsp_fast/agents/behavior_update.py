"""One update of the behaviour: from the posterior states of a batch to a step of actor, values and predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lsp_fast.learning.behavior import BehaviorModels, Parts, behavior_losses
from lsp_fast.learning.skill_health import skill_health
from lsp_fast.learning.starts import choose_starts, draw_skills
from lsp_fast.learning.values import follow, value_weights, with_replayed_values
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.ops.types import State
from lsp_fast.planning.health import planner_health

if TYPE_CHECKING:
    from lsp_fast.agents.imagination import ImaginationAgent


def update_behavior(
    agent: ImaginationAgent, state: State, live: Tensor | None, batch: SequenceBatch, diagnose: bool, balance: bool
) -> dict[str, Tensor]:
    """Choose starts, draw skills, imagine, and step every module but the world model (SPEC sections 3 and 4).

    Args:
        state: [L B, ...], all posterior states, detached.
        live: [L B], 0 at a terminal state, 1 at others; None: all are live.
        batch: what the states are of, [B, L, ...].
        diagnose: as `ImaginationAgent.update` takes it.
        balance: measure both rewards' gradients, and weigh the intrinsic one by them from the next update on.

    Returns:
        metrics: 0-d tensors.
    """
    c, noise = agent.config, agent.noise
    assert agent.value is not None
    metrics = skill_health(agent.planner, state, agent.predictor, noise) if diagnose else {}
    starts = choose_starts(state, live, noise, c)
    if diagnose and c.skill.source == "planned":
        health = planner_health(agent.planner, starts.planned, noise)
        metrics |= {f"planner/{k}": v for k, v in health.items()}
    rollouts = draw_skills(starts, agent.planner, noise)
    if rollouts.plan_std is not None:
        metrics["planner/std"] = rollouts.plan_std
    models = BehaviorModels(
        agent.plan_weights(),
        predictor=agent.predictor,
        beta=None if agent.balance is None else agent.balance.beta.clone(),  # it changes before all gradients are taken
        **value_weights(agent.value, agent.task_value),
    )
    split = diagnose or balance
    with agent.autocast():
        losses = behavior_losses(
            rollouts.start,
            rollouts.skills,
            rollouts.policy,
            models,
            noise,
            c,
            agent.learner,
            rollouts.live,
            diagnose=split,
            paid=rollouts.paid,
            # A split takes several gradients of one loss, which a compiled one does not give.
            parts=Parts() if split else agent.behavior_parts,
        )
        losses = with_replayed_values(losses, state, batch, models, c, agent.learner)
    metrics |= {f"behavior/{k}": v for k, v in losses.metrics.items()}
    if models.beta is not None:
        metrics["skill/beta"] = models.beta
    if split:
        assert losses.task_return is not None
        metrics["behavior/task_grad_norm"] = task = agent.optimizers["actor"].norm(losses.task_return)
        if losses.intrinsic_return is not None:
            told = agent.optimizers["actor"].norm(losses.intrinsic_return)
            metrics["behavior/intrinsic_grad_norm"] = told if models.beta is None else models.beta * told
            if balance and agent.balance is not None:
                agent.balance.measure(task, told)
    # Every gradient is taken before its own module changes; the others' losses do not run through that module.
    by_module = {
        "actor": losses.actor,
        "value": losses.value,
        "task_value": losses.task_value,
        "predictor": losses.predictor,
    }
    for name, loss in by_module.items():
        if loss is not None:
            metrics[f"behavior/{name}_loss"] = loss.detach()
            if name in agent.frozen:
                continue
            metrics[f"behavior/{name}_grad_norm"] = agent.optimizers[name].step(loss)
    follow(agent.value, agent.task_value, losses)
    if c.predictor.normalise and agent.predictor is not None and "predictor" not in agent.frozen:
        agent.predictor.follow(losses.feature)
    return metrics
