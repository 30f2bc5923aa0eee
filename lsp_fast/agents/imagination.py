"""The agent that learns and plans in imagination: LSP, its ablations, Dreamer and PlaNet are rows of configuration."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lsp_fast import ops
from lsp_fast.agents.base import Agent
from lsp_fast.backends import REFERENCE, learning_backend
from lsp_fast.backends.cudagraph import Graphed, on_a_gpu
from lsp_fast.config import Config
from lsp_fast.experience.replay import Batch, Replay
from lsp_fast.learning.behavior import BehaviorModels, Parts, behavior_losses
from lsp_fast.learning.compiled import behavior_parts, compiled
from lsp_fast.learning.optimizer import Optimizer
from lsp_fast.learning.values import follow, value_weights, with_replayed_values
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.models.heads import Actor, Value
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.models.world_model import SequenceBatch, WorldModel
from lsp_fast.noise import AskedNoise, GivenNoise, Noise
from lsp_fast.ops import densities, layers
from lsp_fast.ops.types import Normal, PlanWeights, State, detach, features, map_state
from lsp_fast.planning.health import planner_health
from lsp_fast.planning.planner import Planner

MODE_SAMPLES = 100  # the deterministic action is the densest of these [D]


@dataclass(frozen=True)
class Carry:
    """What an episode's policy remembers from step to step, and the randomness it draws on.

    Rows are environments. `explore` acts as while collecting: sampled skills and actions, exploration noise.
    """

    state: State  # [N, ...]
    action: Tensor  # [N, A], the last one
    skill: Tensor | None  # [N, Z], held; None without skills
    step: Tensor  # [N] int64, agent steps since the episode began; on the CPU, it decides what is planned
    noise: Noise
    explore: bool
    hold: bool = False
    """Keep `skill` to the end, instead of planning another one every K steps."""
    plan: Tensor | None = None  # [N, P, Z], mean of the last plan; None unless plans begin from it

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "state": tuple(self.state),
            "action": self.action,
            "skill": self.skill,
            "step": self.step,
            "noise": self.noise.state_dict(),
            "plan": self.plan,
        }

    def loaded(self, state: dict[str, Any], env_steps: int = 0) -> Carry:
        """This one as `state_dict` found it, after so many environment steps."""
        self.noise.load_state_dict(state["noise"], env_steps)
        device = self.action.device
        return replace(
            self,
            state=State(*(x.to(device) for x in state["state"])),
            action=state["action"].to(device),
            skill=None if state["skill"] is None else state["skill"].to(device),
            step=state["step"],
            plan=None if state.get("plan") is None else state["plan"].to(device),
        )


class ImaginationAgent(Agent):
    """World model, skill-conditioned policy, value, and the planner of skills; or world model and planner of actions.

    Args:
        observation: O; or the shape of frames.
        action_dim: A.
        config: checked; its device and backend may be `auto`.

    Raises:
        ConfigError, BackendUnavailable: the device or backend named is unknown or cannot be had.
    """

    def __init__(self, observation: int | Sequence[int], action_dim: int, config: Config) -> None:
        super().__init__(observation, action_dim, config)
        c = config
        if c.value.skill and c.skill.source == "planned" and self.backend.imagine_heads is not ops.imagine_heads:
            warnings.warn(
                f"value.skill: plans are rolled out by the reference, since backend {self.backend.name!r} knows values "
                "of features alone",
                stacklevel=2,
            )
        # Weights are drawn on the CPU, from a stream each, so that a seed gives the same ones on every device and
        # whichever modules there are.
        initial = Noise(c.seed)
        feature_dim = c.model.stoch + c.model.deter
        seen = c.skill_dim if c.value.skill else 0
        self.world_model = WorldModel(
            self.observation,
            action_dim,
            c.model,
            c.behavior.gamma,
            initial.generator("init/world_model"),
            discount_head=c.predicts_terminations,
        )
        modules: dict[str, nn.Module] = {"world_model": self.world_model}
        self.actor = self.value = None
        if c.planner.over == "skills":
            modules["actor"] = self.actor = Actor(
                feature_dim, c.skill_dim, action_dim, c.actor, initial.generator("init/actor")
            )
            modules["value"] = self.value = Value(feature_dim, c.value, initial.generator("init/value"), seen)
        rates = {
            "world_model": c.model.learning_rate,
            "actor": c.actor.learning_rate,
            "value": c.value.learning_rate,
            "task_value": c.value.learning_rate,
            "predictor": c.predictor.learning_rate,
        }
        self.task_value = self.predictor = None
        if c.planner.value == "task" and c.skill.source == "planned":
            modules["task_value"] = self.task_value = Value(
                feature_dim, c.value, initial.generator("init/task_value"), seen
            )
        if c.skill.intrinsic and c.skill.mi == "predict":
            modules["predictor"] = self.predictor = SkillPredictor(
                feature_dim, c.skill, c.predictor, c.model, initial.generator("init/predictor")
            )
        self.modules = nn.ModuleDict(modules).to(self.device)
        self.optimizers = {k: Optimizer(m, rates[k], c, self.device, self.backend) for k, m in modules.items()}
        self.planner = Planner(c, self.plan_weights, self.backend)
        # By themselves, so that compiled ones can take their place.
        self.learner = learning_backend(self.backend, c.train.precision)
        learner = REFERENCE if c.train.compile else self.learner
        if c.train.observe != "auto":
            observe = ops.observe_scan if c.train.observe == "scan" else ops.observe
            learner = learner._replace(observe=observe, world_model=None)
        self.model_loss = functools.partial(world_model_loss, self.world_model, backend=learner)
        self.behavior_parts = Parts()
        if c.train.compile:
            self.model_loss, self.behavior_parts = compiled(self.model_loss), behavior_parts()
        self._learn = {
            kind: Graphed(
                functools.partial(self._update, behavior=kind[0], diagnose=kind[1]),
                "learning",
                self.noise.generators,
                enabled=c.train.cuda_graph,
                scalars=True,
            )
            for kind in itertools.product((True, False), repeat=2)
        }
        self._acting: dict[tuple, tuple[list, Graphed]] = {}

    def plan_weights(self) -> PlanWeights:
        """The live parameters that scoring a plan needs."""
        planner_value = self.task_value or self.value
        return PlanWeights(
            self.world_model.rssm.prior_weights(),
            None if self.actor is None else self.actor.weights(),
            self.world_model.reward.weights(),
            None if planner_value is None else planner_value.weights(),
            self.world_model.discount_weights(),
        )

    # Observation -> action

    def initial_carry(self, batch: int, *, explore: bool = False, noise: Noise | None = None) -> Carry:
        """Memory for `batch` episodes that begin now.

        Args:
            explore: act as while collecting; otherwise as in evaluation, with the mean plan and the policy's mode.
            noise: randomness of these episodes; by default that of the run's seed, the same at every call.
        """
        c, device = self.config, self.device
        return Carry(
            self.world_model.rssm.initial(batch),
            torch.zeros(batch, self.action_dim, device=device),
            None if c.skill.source == "none" else torch.zeros(batch, c.skill.dim, device=device),
            torch.zeros(batch, dtype=torch.int64),
            noise if noise is not None else Noise(c.seed, device),
            explore,
            plan=torch.zeros(batch, *c.plan_shape(self.action_dim), device=device) if c.planner.warm_start else None,
        )

    def reset(self, carry: Carry, is_first: np.ndarray | Tensor) -> Carry:
        """Forget the episodes where `is_first` [N] is true: the observation to come is a new episode's first."""
        mask = torch.as_tensor(is_first, dtype=torch.bool)
        if not mask.any():
            return carry
        keep = self.upload((~mask).float())[:, None]
        return replace(
            carry,
            state=map_state(lambda x: x * keep, carry.state),
            action=carry.action * keep,
            step=torch.where(mask, 0, carry.step),
            plan=None if carry.plan is None else carry.plan * keep[:, None],
        )

    @torch.no_grad()
    def policy(self, observation: np.ndarray | Tensor, carry: Carry) -> tuple[np.ndarray, Carry]:
        """Act: encode, step the posterior, plan where a skill has been held K steps, sample or take the mode. Without a
        policy: plan actions and take the first one's mean.

        Args:
            observation: [N, O], or frames [N, 64, 64, 3] of uint8, one per environment.
            carry: from `initial_carry`, or from the call before.

        Returns:
            actions [N, A] float32 in [-1, 1], and the carry of the next call.

        Raises:
            ValueError: an observation of another shape. Numbers are not looked at: on a GPU that would wait for it.
        """
        obs = self.checked(observation, len(carry.step))
        due = self._due(carry)
        with self._alone():
            if on_a_gpu(obs) and self.config.train.cuda_graph and (due.all() or not due.any()):
                after = self._replayed_step(obs, carry, due)
            else:
                after = self._step(obs, carry, due, graphed=True)
        return after.action.cpu().numpy(), replace(after, step=carry.step + 1, noise=carry.noise)

    def _due(self, carry: Carry) -> Tensor:
        """[N] bool, on the CPU: which rows plan now."""
        if self.actor is None:
            return torch.ones_like(carry.step, dtype=torch.bool)
        if carry.skill is None or carry.hold:
            return torch.zeros_like(carry.step, dtype=torch.bool)
        return carry.step % self.config.skill.length == 0

    def _step(self, obs: Tensor, carry: Carry, due: Tensor, graphed: bool = False) -> Carry:
        """What `policy` does on the device; nothing is read there.

        Args:
            due: [N] bool, on the CPU.
            graphed: a plan is a graph of its own; False within what is captured as a whole.
        """
        n, noise = len(due), carry.noise
        latent = noise.normal("act/latent", n, self.config.model.stoch)
        state = self.world_model.filter(carry.state, carry.action, obs, latent)
        skill, plan = carry.skill, carry.plan
        if self.actor is None:
            action, plan = self._plan_first_action(state, carry, graphed)
        else:
            if due.any():
                skill, plan = self._plan_skills(state, carry, due, graphed)
            policy = layers.actor(features(state), skill, self.actor.weights())
            if carry.explore:
                action = layers.act(policy, noise.normal("act/action", n, self.action_dim))
            elif self.config.actor.eval_action == "tanh_mean":
                action = layers.act(policy, None)
            else:
                action = densities.densest_action(policy, noise.normal("act/mode", MODE_SAMPLES, n, self.action_dim))
        if carry.explore:
            extra = noise.normal("act/exploration", n, self.action_dim)
            action = (action + self.config.collect.exploration_noise * extra).clamp(-1, 1)
        return replace(carry, state=state, action=action, skill=skill, plan=plan)

    def _replayed_step(self, obs: Tensor, carry: Carry, due: Tensor) -> Carry:
        """`_step` as a graph, one where all rows plan and one where none does. Its numbers are drawn outside, so that
        one graph serves every stream and episode."""
        kind = bool(due.any()), carry.explore, len(due)
        if kind not in self._acting:
            # What it draws shows when it is done for the first time.
            asked = AskedNoise(carry.noise)
            after = self._step(obs, replace(carry, noise=asked), due)
            step = functools.partial(self._step_of_tensors, carry.explore, due)
            self._acting[kind] = asked.asked, Graphed(step, "acting")
            return after
        asked, step = self._acting[kind]
        if kind[0]:
            self.planner.imagine_heads()  # a replay would not look whether weights have changed
        drawn = [getattr(carry.noise, how)(stream, *shape) for how, stream, shape in asked]
        kept = [x for x in (carry.skill, carry.plan) if x is not None]
        stoch, deter, action, *kept = step(obs, *carry.state, carry.action, *kept, *drawn)
        skill = None if carry.skill is None else kept.pop(0)
        return replace(carry, state=State(stoch, deter), action=action, skill=skill, plan=kept[0] if kept else None)

    def _step_of_tensors(self, explore: bool, due: Tensor, obs: Tensor, stoch: Tensor, deter: Tensor, *rest: Tensor):
        """`_step` as a function of tensors alone."""
        action, *drawn = rest
        skill = None if self.config.skill.source == "none" else drawn.pop(0)
        plan = drawn.pop(0) if self.config.planner.warm_start else None
        carry = Carry(State(stoch, deter), action, skill, due, GivenNoise(drawn), explore, plan=plan)
        after = self._step(obs, carry, due)
        return [x for x in (*after.state, after.action, after.skill, after.plan) if x is not None]

    def hold(self, carry: Carry, skill: Sequence[float] | np.ndarray | Tensor) -> Carry:
        """Keep one skill to the end, instead of planning another one every K steps; episodes that follow keep it, too.

        Args:
            carry: from `initial_carry`, or from a step before.
            skill: [Z] for all rows, or [N, Z].

        Returns:
            the carry to go on with.

        Raises:
            ValueError: an agent without skills, a skill of another shape, or one that is not finite.
        """
        if carry.skill is None:
            raise ValueError(f"{self.config.algorithm} has no skills to hold")
        given = torch.as_tensor(skill, dtype=torch.float32, device=self.device)
        if given.shape not in (carry.skill.shape, carry.skill.shape[1:]):
            wanted = f"{list(carry.skill.shape[1:])} or {list(carry.skill.shape)}"
            raise ValueError(f"a skill must be of shape {wanted}, not {list(given.shape)}")
        if not given.isfinite().all():
            raise ValueError(f"a skill must be finite, not {given.tolist()}")
        # A copy: an array that the caller goes on to change is not what is held.
        return replace(carry, skill=given.expand_as(carry.skill).clone(), hold=True)

    def _plan_skills(self, state: State, carry: Carry, due: Tensor, graphed: bool) -> tuple[Tensor, Tensor | None]:
        """The skill of every row, a new one where it is due, else the one that is held; and the plans' means."""
        assert carry.skill is not None
        rows = None if due.all() else self.upload(due.nonzero()[:, 0])
        last = carry.plan
        if rows is not None:
            state, last = map_state(lambda x: x[rows], state), None if last is None else last[rows]
        plan = self.planner.distribution(
            state, carry.noise, "act", explore=carry.explore, last=last, graphed=graphed
        )  # fmt: skip
        skill = plan.mean[:, 0]  # [rows, Z]; of a plan only the first skill is acted on
        if carry.explore or self.config.skill.source == "random":
            skill = skill + plan.std[:, 0] * carry.noise.normal("act/skill", *skill.shape)
        if rows is None:
            return skill, None if carry.plan is None else plan.mean
        kept = None if carry.plan is None else carry.plan.index_copy(0, rows, plan.mean)
        return carry.skill.index_copy(0, rows, skill), kept

    def _plan_first_action(self, state: State, carry: Carry, graphed: bool) -> tuple[Tensor, Tensor | None]:
        """The mean of the first action of a plan from each state (SPEC section 5, planet): [N, A], and the plan."""
        plan = self.planner.distribution(state, carry.noise, "act", explore=False, last=carry.plan, graphed=graphed)
        return plan.mean[:, 0], None if carry.plan is None else plan.mean

    # Batch -> gradient

    def fit(self, replay: Replay) -> None:
        """The observation's normaliser, where there is one."""
        if self.config.model.normalize_observations and not self.pixels:
            self.world_model.fit_normalizer(*(self.upload(torch.as_tensor(x)) for x in replay.observation_statistics()))

    def sample(self, replay: Replay, rng: np.random.Generator) -> Batch:
        """Sequences, [B, L, ...]."""
        return replay.sample(rng, self.config.train.batch_size, self.config.train.batch_length)

    def update(self, batch: Sequence[Tensor], *, behavior: bool = True, diagnose: bool = False) -> dict[str, Tensor]:
        """One training update of all modules from a batch of sequences.

        Args:
            batch: the fields of a `SequenceBatch`, [B, L, ...] on the agent's device.
            behavior: False trains the world model alone.
            diagnose: also measure the planner's health and each reward's share of the actor's gradient.

        Returns:
            metrics: 0-d tensors on the device; reading them synchronises.
        """
        # Without a behaviour all updates are alike.
        kind = (True, False) if self.actor is None else (behavior, behavior and diagnose)
        with self._alone():
            return self._learn[kind](*batch)

    def _update(self, *tensors: Tensor, behavior: bool = True, diagnose: bool = False) -> dict[str, Tensor]:
        """`update` as a function of tensors."""
        c, batch = self.config, SequenceBatch(*tensors)
        sequences, length = batch.reward.shape
        latent = self.noise.normal("world_model/latent", length, sequences, c.model.stoch)
        with self._autocast():
            model = self.model_loss(batch, latent)
        metrics = {f"world_model/{k}": v for k, v in model.metrics.items()}
        metrics["world_model/grad_norm"] = self.optimizers["world_model"].step(model.loss)
        if behavior and self.actor is not None:
            start = map_state(lambda x: x.flatten(0, 1), detach(model.states))  # [L B, ...]
            live = 1 - batch.terminal.T.flatten() if c.predicts_terminations else None  # [L B]
            metrics |= self._update_behavior(start, live, diagnose, batch)
        self.planner.pack()
        return metrics

    def _update_behavior(
        self, start: State, live: Tensor | None, diagnose: bool, batch: SequenceBatch
    ) -> dict[str, Tensor]:
        c, total, states = self.config, len(start.stoch), start
        if 0 < c.behavior.plan_states < total:
            rows = self.noise.choice("behavior/starts", total, total)
            if live is not None:
                # States that nothing follows come last, and are taken only where there are no others.
                rows = rows[(1 - live[rows]).argsort(stable=True)]
                live = live[rows[: c.behavior.plan_states]]
            rows = rows[: c.behavior.plan_states]
            start = map_state(lambda x: x[rows], start)
        assert self.value is not None
        metrics: dict[str, Tensor] = {}
        if diagnose and c.skill.source == "planned":
            health = planner_health(self.planner, start, self.noise)
            metrics |= {f"planner/{k}": v for k, v in health.items()}
        skills, plan = None, None
        if c.skill.source != "none":
            plan = self.planner.distribution(start, self.noise, "behavior", explore=True)
            if c.skill.source == "planned":
                metrics["planner/std"] = plan.std.mean()
            # Several skills of one plan are several rollouts from its state.
            start = map_state(lambda x: x.repeat_interleave(c.skill.per_plan, 0), start)
            live = None if live is None else live.repeat_interleave(c.skill.per_plan)
            plan = Normal(*(x.repeat_interleave(c.skill.per_plan, 0).transpose(0, 1) for x in plan))  # [P, N, Z]
            skills = plan.mean + plan.std * self.noise.normal("behavior/skills", *plan.mean.shape)
        heads = value_weights(self.value, self.task_value)
        models = BehaviorModels(self.plan_weights(), predictor=self.predictor, **heads)
        with self._autocast():
            # Diagnosis takes several gradients of one loss, which a compiled one does not give.
            parts = Parts() if diagnose else self.behavior_parts
            losses = behavior_losses(
                start, skills, plan, models, self.noise, c, self.learner, live, diagnose=diagnose, parts=parts
            )
            losses = with_replayed_values(losses, states, batch, models, c, self.learner)
        metrics |= {f"behavior/{k}": v for k, v in losses.metrics.items()}
        if diagnose:
            assert losses.task_return is not None
            metrics["behavior/task_grad_norm"] = self.optimizers["actor"].norm(losses.task_return)
            if losses.intrinsic_return is not None:
                metrics["behavior/intrinsic_grad_norm"] = self.optimizers["actor"].norm(losses.intrinsic_return)
        # Every gradient is taken before its own module changes; the others' losses do not run through that module.
        by_module = {name: getattr(losses, name) for name in ("actor", "value", "task_value", "predictor")}
        for name, loss in by_module.items():
            if loss is not None:
                metrics[f"behavior/{name}_loss"] = loss.detach()
                if name in self.frozen:
                    continue
                metrics[f"behavior/{name}_grad_norm"] = self.optimizers[name].step(loss)
        follow(self.value, self.task_value)
        return metrics

    def _alone(self) -> AbstractContextManager:
        # PyTorch's share is small operations, unless it is convolutions. Its threads spin where they wait for each
        # other: beside a busy process, a step that takes 0.2 ms on one thread took 8 on two.
        return nullcontext() if self.pixels else self.backend.alone()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.autocast)
