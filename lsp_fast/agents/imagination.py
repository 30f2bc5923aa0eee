"""The agent that learns and plans in imagination: LSP, its ablations, Dreamer and PlaNet are rows of configuration."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lsp_fast import ops, processes
from lsp_fast.agents import acting
from lsp_fast.agents.acting import Carry
from lsp_fast.agents.base import Agent
from lsp_fast.agents.behavior_update import update_behavior
from lsp_fast.backends import REFERENCE, learning_backend
from lsp_fast.backends.cudagraph import Graphed, on_a_gpu
from lsp_fast.config import Config
from lsp_fast.experience.replay import Batch, Replay
from lsp_fast.learning.balance import Balance
from lsp_fast.learning.behavior import Parts
from lsp_fast.learning.compiled import behavior_parts, compiled
from lsp_fast.learning.optimizer import Optimizer
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.models.heads import Actor, Value
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.models.world_model import SequenceBatch, WorldModel
from lsp_fast.noise import AskedNoise, GivenNoise, Noise
from lsp_fast.observed import Plain
from lsp_fast.ops import densities, layers
from lsp_fast.ops.types import PlanWeights, State, detach, features, map_state
from lsp_fast.planning.planner import Planner, moved_on

MODE_SAMPLES = 100  # the deterministic action is the densest of these [D]


class ImaginationAgent(Agent):
    """World model, skill-conditioned policy, value, and the planner of skills; or world model and planner of actions.

    Args:
        observation: O; or the shape of frames; or both, as of `Observed.plain`.
        action_dim: A.
        config: checked; its device and backend may be `auto`.

    Raises:
        ConfigError, BackendUnavailable: the device or backend named is unknown or cannot be had.
    """

    def __init__(self, observation: Plain | Sequence[int], action_dim: int, config: Config) -> None:
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
                feature_dim, c.skill_dim, action_dim, c.actor, initial.generator("init/actor"), c.skill.input_scale
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
                feature_dim, c.value, initial.generator("init/task_value"), seen, remembers=False
            )
        if c.skill.intrinsic and c.skill.mi == "predict":
            modules["predictor"] = self.predictor = SkillPredictor(
                feature_dim, c.skill, c.predictor, c.model, initial.generator("init/predictor")
            )
        self.balance = None
        if c.skill.beta_kind == "gradient" and c.skill.intrinsic:
            modules["balance"] = self.balance = Balance(c.skill)
        self.modules = nn.ModuleDict(modules).to(self.device)
        self.optimizers = {
            k: Optimizer(m, rates[k], c, self.device, self.backend) for k, m in modules.items() if k in rates
        }
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
                functools.partial(self._update, behavior=kind[0], diagnose=kind[1], balance=kind[2]),
                "learning",
                self.noise.generators,
                enabled=c.train.cuda_graph,
                scalars=True,
            )
            for kind in itertools.product((True, False), repeat=3)
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
            plan=torch.zeros(batch, *c.plan_shape(self.action_dim), device=device) if c.plans_from_last else None,
            committed=torch.zeros(batch, dtype=torch.bool, device=device) if explore and c.collect.commit else None,
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
    def policy(
        self, observation: np.ndarray | Tensor | Mapping[str, np.ndarray], carry: Carry
    ) -> tuple[np.ndarray, Carry]:
        """Act: encode, step the posterior, plan where a plan is due, sample or take the mode. Without a
        policy: plan actions and take the first one's mean.

        Args:
            observation: [N, O], or frames [N, 64, 64, 3] of uint8, one per environment; or both, as their environment
                gives it or as {"frame": [N, 64, 64, 3], "vector": [N, V]}.
            carry: from `initial_carry`, or from the call before.

        Returns:
            actions [N, A] float32 in [-1, 1], and the carry of the next call.

        Raises:
            ValueError: an observation of another shape. Numbers are not looked at: on a GPU that would wait for it.
        """
        obs = self.checked(observation, len(carry.step))
        what = acting.now(self.config, carry)
        with self._alone():
            if on_a_gpu(obs) and self.config.train.cuda_graph and len(what.unique()) == 1:
                after = self._replayed_step(obs, carry, what)
            else:
                after = self._step(obs, carry, what, graphed=True)
        return after.action.cpu().numpy(), replace(after, step=carry.step + 1, noise=carry.noise)

    def _step(self, obs: Tensor, carry: Carry, what: Tensor, graphed: bool = False) -> Carry:
        """What `policy` does on the device; nothing is read there.

        Args:
            what: [N] on the CPU, from `acting.now`.
            graphed: a plan is a graph of its own; False within what is captured as a whole.
        """
        n, noise, chosen = len(what), carry.noise, carry.committed
        latent = noise.normal("act/latent", n, self.config.model.stoch)
        state = self.world_model.filter(carry.state, carry.action, obs, latent)
        skill, plan = carry.skill, carry.plan
        if self.actor is None:
            action, plan = self._plan_first_action(state, carry, graphed)
            if carry.explore:
                action = self.explored(action, noise)
        else:
            if (what != acting.HOLD).any():
                skill, plan = self._plan_skills(state, carry, what, graphed)
            if chosen is not None and skill is not None and not carry.hold:
                skill, chosen = acting.committed(self.config.collect.commit, carry, skill, what, self.upload)
            action = self.act(state, skill, noise, explore=carry.explore)
        return replace(carry, state=state, action=action, skill=skill, plan=plan, committed=chosen)

    def act(self, state: State, skill: Tensor | None, noise: Noise, *, explore: bool) -> Tensor:
        """The policy's action in each state, [N, A]: sampled with the exploration's noise on it, or the mode.

        Args:
            state: [N, ...]
            skill: [N, Z], in force; None without skills.
        """
        assert self.actor is not None
        policy, n = layers.actor(features(state), skill, self.actor.weights()), len(state.stoch)
        if explore:
            return self.explored(layers.act(policy, noise.normal("act/action", n, self.action_dim)), noise)
        if self.config.actor.eval_action == "tanh_mean":
            return layers.act(policy, None)
        return densities.densest_action(policy, noise.normal("act/mode", MODE_SAMPLES, n, self.action_dim))

    def explored(self, action: Tensor, noise: Noise) -> Tensor:
        """Actions [N, A] as they are while collecting."""
        extra = noise.normal("act/exploration", *action.shape)
        return (action + self.exploration * extra).clamp(-1, 1)

    def propose(
        self, state: State, noise: Noise, *, explore: bool, last: Tensor | None = None, graphed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What a plan from each state begins with, a skill [N, Z] or an action [N, A], and the plan's mean [N, P, .].

        Args:
            state: [N, ...]
            explore: plan as in imagination and sample the skill. An action is always the mean of its plan.
            last: means of the last plans, as `Planner.prior` takes them.
            graphed: as in `_step`.
        """
        over_skills = self.actor is not None
        plan = self.planner.distribution(
            state, noise, "act", explore=explore and over_skills, last=last, graphed=graphed
        )  # fmt: skip
        first = plan.mean[:, 0]  # [N, Z]; of a plan only the first skill is acted on
        if over_skills and (explore or self.config.skill.source == "random"):
            first = first + plan.std[:, 0] * noise.normal("act/skill", *first.shape)
        return first, plan.mean

    def _replayed_step(self, obs: Tensor, carry: Carry, what: Tensor) -> Carry:
        """`_step` as a graph, one for each thing that all rows do. Its numbers are drawn outside, so that
        one graph serves every stream and episode."""
        kind = int(what[0]), carry.explore, len(what), carry.hold
        if kind not in self._acting:
            # What it draws shows when it is done for the first time.
            asked = AskedNoise(carry.noise)
            after = self._step(obs, replace(carry, noise=asked), what)
            step = functools.partial(self._step_of_tensors, carry, what)
            self._acting[kind] = asked.asked, Graphed(step, "acting")
            return after
        asked, step = self._acting[kind]
        if kind[0] != acting.HOLD:
            self.planner.imagine_heads()  # a replay would not look whether weights have changed
        drawn = [getattr(carry.noise, how)(stream, *shape) for how, stream, shape in asked]
        stoch, deter, action, *kept = step(obs, *carry.state, carry.action, *carry.kept().values(), *drawn)
        return replace(carry, state=State(stoch, deter), action=action, **dict(zip(carry.kept(), kept, strict=True)))

    def _step_of_tensors(self, like: Carry, what: Tensor, obs: Tensor, stoch: Tensor, deter: Tensor, *rest: Tensor):
        """`_step` as a function of tensors alone."""
        action, names = rest[0], list(like.kept())
        kept, drawn = rest[1 : 1 + len(names)], rest[1 + len(names) :]
        carry = replace(like, state=State(stoch, deter), action=action, noise=GivenNoise(drawn))
        after = self._step(obs, replace(carry, **dict(zip(names, kept, strict=True))), what)
        return [*after.state, after.action, *after.kept().values()]

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

    def _plan_skills(self, state: State, carry: Carry, what: Tensor, graphed: bool) -> tuple[Tensor, Tensor | None]:
        """The skill of every row, a new one where it is due, else the one that is held; and the plans' means."""
        assert carry.skill is not None
        due = what != acting.HOLD
        rows = None if due.all() else self.upload(due.nonzero()[:, 0])
        last = acting.at_hand(carry.plan, what, self.upload)
        if rows is not None:
            state, last = map_state(lambda x: x[rows], state), None if last is None else last[rows]
        skill, mean = self.propose(state, carry.noise, explore=carry.explore, last=last, graphed=graphed)
        if rows is None:
            return skill, None if carry.plan is None else mean
        kept = None if carry.plan is None else carry.plan.index_copy(0, rows, mean)
        return carry.skill.index_copy(0, rows, skill), kept

    def _plan_first_action(self, state: State, carry: Carry, graphed: bool) -> tuple[Tensor, Tensor | None]:
        """The mean of the first action of a plan from each state (SPEC section 5, planet): [N, A], and the plan."""
        last = None if carry.plan is None else moved_on(carry.plan)
        action, mean = self.propose(state, carry.noise, explore=False, last=last, graphed=graphed)
        return action, None if carry.plan is None else mean

    # Batch -> gradient

    def fit(self, replay: Replay) -> None:
        """The observation's normaliser, where there is one."""
        if self.config.model.normalize_observations and self.observed.vector:
            found = zip(*processes.all_gather_object((replay.num_rows, *replay.observation_statistics())), strict=True)
            self.world_model.fit_normalizer(*(self.upload(torch.as_tensor(x)) for x in processes.pooled(*found)))

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
        learns = behavior and self.actor is not None
        balance = learns and self.balance is not None and "actor" not in self.frozen and self.balance.due()
        kind = behavior or self.actor is None, learns and diagnose, balance
        with self._alone():
            return self._learn[kind](*batch)

    def _update(
        self, *tensors: Tensor, behavior: bool = True, diagnose: bool = False, balance: bool = False
    ) -> dict[str, Tensor]:
        """`update` as a function of tensors."""
        c, batch = self.config, SequenceBatch(*tensors)
        sequences, length = batch.reward.shape
        latent = self.noise.normal("world_model/latent", length, sequences, c.model.stoch)
        with self.autocast():
            model = self.model_loss(batch, latent)
        metrics = {f"world_model/{k}": v for k, v in model.metrics.items()}
        metrics["world_model/grad_norm"] = self.optimizers["world_model"].step(model.loss)
        if behavior and self.actor is not None:
            start = map_state(lambda x: x.flatten(0, 1), detach(model.states))  # [L B, ...]
            live = 1 - batch.terminal.T.flatten() if c.predicts_terminations else None  # [L B]
            metrics |= update_behavior(self, start, live, batch, diagnose, balance)
        self.planner.pack()
        return metrics

    def _alone(self) -> AbstractContextManager:
        # PyTorch's share is small operations, unless it is convolutions. Its threads spin where they wait for each
        # other: beside a busy process, a step that takes 0.2 ms on one thread took 8 on two.
        return nullcontext() if self.pixels else self.backend.alone()

    def autocast(self) -> torch.autocast:
        """Within it learning computes in bf16 where `train.autocast` asks for that."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.autocast)
