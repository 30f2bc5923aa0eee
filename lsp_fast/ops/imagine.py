"""Rolling the world model out under the policy: contract and plain PyTorch reference."""

from __future__ import annotations

import torch
from torch import Tensor

from lsp_fast.ops import layers
from lsp_fast.ops.types import ActorWeights, ImagineNoise, Normal, PriorWeights, Rollout, State, features


def imagine(
    start: State,
    prior: PriorWeights,
    actor: ActorWeights,
    skills: Tensor | None,
    skill_length: int,
    noise: ImagineNoise,
) -> Rollout:
    """Imagine H steps from every start state (SPEC sections 3 and 4).

        a_t = tanh(mean + std * noise) of actor([s_t, h_t, z]),   h_{t+1} = GRU(.),   s_{t+1} ~ p(. | h_{t+1})

    Args:
        start: [N, ...]. H and N are the noise's.
        prior, actor: weights. Gradients flow through states and actions, not from the actor's input into the state [D].
        skills: [P, N, Z], each held `skill_length` steps, the last one to the end; None without skills.
        skill_length: K >= 1.
        noise: standard normal numbers; without `action` noise the policy's tanh(mean) acts.

    Returns:
        Rollout: the H states after the start, the actions that led to them, and the policy they were drawn from.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_imagine(start, prior, actor, skills, skill_length, noise)
    state, states, actions, policies = start, [], [], []
    for t in range(noise.stoch.shape[0]):
        skill = None if skills is None else skills[min(t // skill_length, skills.shape[0] - 1)]
        policy = layers.actor(features(state).detach(), skill, actor)
        action = layers.act(policy, None if noise.action is None else noise.action[t])
        deter = layers.advance(state, action, prior)
        p = layers.prior(deter, prior)
        state = State(p.mean + p.std * noise.stoch[t], deter)
        states.append(state)
        actions.append(action)
        policies.append(policy)
    return Rollout(
        State(*(torch.stack(x) for x in zip(*states, strict=True))),
        torch.stack(actions),
        Normal(*(torch.stack(x) for x in zip(*policies, strict=True))),
    )


def held_skills(skills: Tensor, skill_length: int, steps: int) -> Tensor:
    """The skill held in each state of a rollout, the start being the first: [P, N, Z] -> [steps, N, Z].

    It is the one that `imagine` acts by in that state; the last one is held to the end.
    """
    # One by one: indexing with a list would copy the list to the device at every call.
    return torch.stack([skills[min(t // skill_length, len(skills) - 1)] for t in range(steps)])


def imagine_actions(start: State, prior: PriorWeights, actions: Tensor, stoch_noise: Tensor) -> State:
    """Imagine what given actions lead to, as `imagine` does what a policy's do.

    Args:
        start: [N, ...]
        actions: [H, N, A]
        stoch_noise: [H, N, S]

    Returns:
        The H states after the start, [H, N, ...].

    Raises:
        ValueError: shapes that do not fit.
    """
    check_imagine_actions(start, prior, actions, stoch_noise)
    if len(actions) != len(stoch_noise):
        raise ValueError(f"{len(actions)} actions for {len(stoch_noise)} imagined steps")
    state, states = start, []
    for t in range(len(actions)):
        deter = layers.advance(state, actions[t], prior)
        p = layers.prior(deter, prior)
        state = State(p.mean + p.std * stoch_noise[t], deter)
        states.append(state)
    return State(*(torch.stack(x) for x in zip(*states, strict=True)))


def check_imagine_actions(start: State, prior: PriorWeights, actions: Tensor, stoch_noise: Tensor) -> None:
    """Raise ValueError unless these are [., N, A] and [H, N, S]."""
    n, s = start.stoch.shape
    wanted = {"actions": (actions, prior.inp.weight.shape[1] - s), "noise.stoch": (stoch_noise, s)}
    for name, (given, width) in wanted.items():
        if given.dim() != 3 or given.shape[1:] != (n, width) or len(given) == 0:
            raise ValueError(f"imagine from {n} states: {name} {tuple(given.shape)} must be [H, {n}, {width}], H >= 1")


def check_imagine(
    start: State,
    prior: PriorWeights,
    actor: ActorWeights,
    skills: Tensor | None,
    skill_length: int,
    noise: ImagineNoise,
) -> None:
    """Raise ValueError unless the shapes are those of the contract."""
    n, s = start.stoch.shape
    action_dim = prior.inp.weight.shape[1] - s
    problems = []
    if start.deter.shape != (n, prior.gru.weight_hh.shape[1]):
        problems.append(f"start.deter {tuple(start.deter.shape)}")
    if noise.stoch.dim() != 3 or noise.stoch.shape[1:] != (n, s) or len(noise.stoch) == 0:
        problems.append(f"noise.stoch {tuple(noise.stoch.shape)}")
    if noise.action is not None and noise.action.shape != (*noise.stoch.shape[:2], action_dim):
        problems.append(f"noise.action {tuple(noise.action.shape)}")
    if skills is not None and (skills.dim() != 3 or skills.shape[1] != n or len(skills) == 0):
        problems.append(f"skills {tuple(skills.shape)}")
    skill_dim = actor.mlp.hidden[0].weight.shape[1] - s - start.deter.shape[-1]
    if skill_dim != (0 if skills is None else skills.shape[-1]):
        problems.append(f"an actor of {skill_dim} skill dimensions")
    if skill_length < 1:
        problems.append(f"skill_length {skill_length}")
    if problems:
        raise ValueError(f"imagine from {n} states of {s} stochastic dimensions does not fit {', '.join(problems)}")
