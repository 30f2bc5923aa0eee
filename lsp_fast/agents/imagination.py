"""The agent that learns and plans in imagination: LSP, its ablations, Dreamer and PlaNet are rows of configuration."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lsp_fast import backends, ops
from lsp_fast.behavior import behavior_losses
from lsp_fast.config import Config
from lsp_fast.cudagraph import Graphed
from lsp_fast.models.heads import Actor, Value
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.models.world_model import SequenceBatch, WorldModel
from lsp_fast.noise import Noise
from lsp_fast.ops import layers
from lsp_fast.ops.types import Normal, PlanKey, PlanNoise, PlanWeights, State, detach, features, map_state
from lsp_fast.planning.health import planner_health
from lsp_fast.planning.skills import draw_plan_noise, plan_skills, skill_distribution

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


class Optimizer:
    """Adam over one module, with the gradient's norm clipped; it touches that module's parameters only."""

    def __init__(self, module: nn.Module, learning_rate: float, config: Config, device: torch.device) -> None:
        self.parameters = list(module.parameters())
        self.grad_clip = config.optimizer.grad_clip
        self.adam = torch.optim.Adam(
            self.parameters, lr=learning_rate, eps=config.optimizer.eps, fused=True, capturable=device.type == "cuda"
        )

    def step(self, loss: Tensor, retain_graph: bool = False) -> Tensor:
        """Take one step down the loss and return the gradient's norm before clipping, 0-d."""
        gradients = torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        self.adam.step()
        return norm

    def load_state_dict(self, state: dict) -> None:
        """Restore Adam's moments, in place where there are some already: a captured graph goes on using them."""
        held = {parameter: dict(moments) for parameter, moments in self.adam.state.items()}
        capturable = [group["capturable"] for group in self.adam.param_groups]
        self.adam.load_state_dict(state)
        for group, value in zip(self.adam.param_groups, capturable, strict=True):
            group["capturable"] = value  # the device's matter, not the checkpoint's
        for parameter, moments in held.items():
            restored = self.adam.state[parameter]
            for name, tensor in moments.items():
                # What Adam has not stepped yet has no moments: they are zero.
                restored[name] = tensor.copy_(restored[name]) if name in restored else tensor.zero_()

    def norm(self, objective: Tensor) -> Tensor:
        """Norm of an objective's gradient, 0-d, without taking a step; the graph is kept."""
        gradients = torch.autograd.grad(objective, self.parameters, retain_graph=True)
        return nn.utils.get_total_norm(gradients)


class ImaginationAgent:
    """World model, skill-conditioned policy, value, and the planner of skills; or world model and planner of actions.

    Args:
        observation: O; or the shape of frames.
        action_dim: A.
        config: checked; its device and backend may be `auto`.

    Raises:
        ConfigError, BackendUnavailable: the device or backend named is unknown or cannot be had.
    """

    def __init__(self, observation: int | Sequence[int], action_dim: int, config: Config) -> None:
        self.config = c = config
        self.device = backends.device(c.device)
        self.backend = backends.get(c.backend, self.device)
        if c.value.skill and c.skill.source == "planned" and self.backend.imagine_heads is not ops.imagine_heads:
            warnings.warn(
                f"value.skill: plans are rolled out by the reference, since backend {self.backend.name!r} knows values "
                "of features alone",
                stacklevel=2,
            )
        self.observation: int | tuple[int, ...] = observation if isinstance(observation, int) else tuple(observation)
        self.observation_shape = (observation,) if isinstance(observation, int) else tuple(observation)
        self.action_dim = action_dim
        self.noise = Noise(c.seed, self.device)
        # Weights are drawn on the CPU, from a stream each, so that a seed gives the same ones on every device and
        # whichever modules there are.
        initial = Noise(c.seed)
        feature_dim = c.model.stoch + c.model.deter
        seen = c.skill_dim if c.value.skill else 0
        self.world_model = WorldModel(
            self.observation, action_dim, c.model, c.behavior.gamma, initial.generator("init/world_model")
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
        self.optimizers = {k: Optimizer(m, rates[k], c, self.device) for k, m in modules.items()}
        if self.device.type == "cuda":
            # Kernels run on the current device, whatever their tensors' is.
            torch.cuda.set_device(self.device)
            # A setting of the whole process; the Triton kernels go by it too.
            torch.set_float32_matmul_precision("high" if c.train.matmul == "tf32" else "highest")
        self.frozen = {"actor", "predictor"} if c.transfer.freeze_policy else set()
        graphs = c.train.cuda_graph
        self._plans = {
            sample: Graphed(functools.partial(self._plan, sample), "planning", enabled=graphs)
            for sample in (True, False)
        }
        self._learn = Graphed(self._update, "learning", self.noise.generators, enabled=graphs)

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
        skill = None if self.config.skill.source == "none" else torch.zeros(batch, self.config.skill.dim)
        return Carry(
            self.world_model.rssm.initial(batch),
            torch.zeros(batch, self.action_dim, device=self.device),
            None if skill is None else skill.to(self.device),
            torch.zeros(batch, dtype=torch.int64),
            noise if noise is not None else Noise(self.config.seed, self.device),
            explore,
        )

    def reset(self, carry: Carry, is_first: np.ndarray | Tensor) -> Carry:
        """Forget the episodes where `is_first` [N] is true: the observation to come is a new episode's first."""
        mask = torch.as_tensor(is_first, dtype=torch.bool)
        if not mask.any():
            return carry
        keep = (~mask).to(self.device, torch.float32)[:, None]
        return replace(
            carry,
            state=map_state(lambda x: x * keep, carry.state),
            action=carry.action * keep,
            step=torch.where(mask, 0, carry.step),
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
            ValueError: an observation of another shape, or one that is not finite.
        """
        dtype = torch.uint8 if self.world_model.pixels else torch.float32
        obs = torch.as_tensor(observation, dtype=dtype, device=self.device)
        n = len(carry.step)
        if obs.shape != (n, *self.observation_shape):
            raise ValueError(f"observation must be {[n, *self.observation_shape]}, not {list(obs.shape)}")
        noise = carry.noise
        latent = noise.normal("act/latent", n, self.config.model.stoch)
        state = self.world_model.filter(carry.state, carry.action, obs, latent)
        skill, policy = carry.skill, None
        if self.actor is None:
            action = self._plan_first_action(state, noise)
        else:
            skill = self._hold_or_plan(state, carry)
            policy = layers.actor(features(state), skill, self.actor.weights())
            if carry.explore:
                action = layers.act(policy, noise.normal("act/action", n, self.action_dim))
            elif self.config.actor.eval_action == "tanh_mean":
                action = layers.act(policy, None)
            else:
                action = densest_action(policy, noise.normal("act/mode", MODE_SAMPLES, n, self.action_dim))
        if carry.explore:
            extra = noise.normal("act/exploration", n, self.action_dim)
            action = (action + self.config.collect.exploration_noise * extra).clamp(-1, 1)
        return action.cpu().numpy(), replace(carry, state=state, action=action, skill=skill, step=carry.step + 1)

    def _hold_or_plan(self, state: State, carry: Carry) -> Tensor | None:
        """The skill of every row: a new one where t % K == 0, else the one that is held."""
        if carry.skill is None:
            return None
        if carry.hold:
            return carry.skill
        rows = (carry.step % self.config.skill.length == 0).nonzero()[:, 0].to(self.device)
        if len(rows) == 0:
            return carry.skill
        plan = skill_distribution(
            map_state(lambda x: x[rows], state),
            self.plan_weights(),
            carry.noise,
            "act",
            self.config,
            self.backend,
            explore=carry.explore,
            planner=self._plan_to_act,
        )
        skill = plan.mean[:, 0]  # [rows, Z]; of a plan only the first skill is acted on
        if carry.explore or self.config.skill.source == "random":
            skill = skill + plan.std[:, 0] * carry.noise.normal("act/skill", *skill.shape)
        return carry.skill.index_copy(0, rows, skill)

    def _plan_first_action(self, state: State, noise: Noise) -> Tensor:
        """The mean of the first action of a plan from each state (SPEC section 5, planet): [N, A]."""
        dims = (state.stoch.shape[-1], self.action_dim)
        drawn = draw_plan_noise(noise, "act", self.config, len(state.stoch), dims, sample=False)
        return self._plan_to_act(state, drawn).mean[:, 0]

    def _plan_to_act(self, start: State, drawn: PlanNoise | PlanKey) -> Normal:
        """Plan skills, on a GPU as a graph whose noise comes in from outside: it serves every stream and episode."""
        if isinstance(drawn, PlanKey):
            return self._plans[drawn.sample](*start, drawn.key)
        return self._plans[drawn.action is not None](*start, *(x for x in drawn if x is not None))

    def _plan(self, sample: bool, stoch: Tensor, deter: Tensor, *numbers: Tensor) -> Normal:
        """A plan's mean and std from tensors alone."""
        p = self.config.planner
        if len(numbers) == 1:
            steps = self.config.behavior.horizon
            drawn = PlanKey(numbers[0], p.iterations, p.candidates, steps, sample, p.shared_noise)
        else:
            drawn = PlanNoise(numbers[0], numbers[1], numbers[2] if sample else None)
        result = plan_skills(State(stoch, deter), self.plan_weights(), drawn, self.config, self.backend)
        return Normal(result.mean, result.std)

    # Batch -> gradient

    def update(self, batch: SequenceBatch, *, behavior: bool = True, diagnose: bool = False) -> dict[str, Tensor]:
        """One training update of all modules from a batch of sequences.

        Args:
            batch: [B, L, ...] on the agent's device.
            behavior: False trains the world model alone.
            diagnose: also measure the planner's health and each reward's share of the actor's gradient.

        Returns:
            metrics: 0-d tensors on the device; reading them synchronises.
        """
        if self.actor is None or (behavior and not diagnose):
            return self._learn(*batch)
        return self._update(*batch, behavior=behavior, diagnose=diagnose)

    def _update(self, *tensors: Tensor, behavior: bool = True, diagnose: bool = False) -> dict[str, Tensor]:
        """`update` as a function of tensors."""
        c, batch = self.config, SequenceBatch(*tensors)
        sequences, length = batch.reward.shape
        latent = self.noise.normal("world_model/latent", length, sequences, c.model.stoch)
        with self._autocast():
            model = self.world_model.loss(batch, latent)
        metrics = {f"world_model/{k}": v for k, v in model.metrics.items()}
        metrics["world_model/grad_norm"] = self.optimizers["world_model"].step(model.loss)
        if behavior and self.actor is not None:
            start = map_state(lambda x: x.flatten(0, 1), detach(model.states))  # [L B, ...]
            metrics |= self._update_behavior(start, diagnose)
        return metrics

    def _update_behavior(self, start: State, diagnose: bool) -> dict[str, Tensor]:
        c, total = self.config, len(start.stoch)
        if 0 < c.behavior.plan_states < total:
            rows = self.noise.choice("behavior/starts", total, c.behavior.plan_states)
            start = map_state(lambda x: x[rows], start)
        weights = self.plan_weights()
        assert self.value is not None
        metrics: dict[str, Tensor] = {}
        if diagnose and c.skill.source == "planned":
            health = planner_health(start, weights, self.noise, c, self.backend)
            metrics |= {f"planner/{k}": v for k, v in health.items()}
        skills, plan = None, None
        if c.skill.source != "none":
            plan = skill_distribution(start, weights, self.noise, "behavior", c, self.backend, explore=True)
            if c.skill.source == "planned":
                metrics["planner/std"] = plan.std.mean()
            # Several skills of one plan are several rollouts from its state.
            start = map_state(lambda x: x.repeat_interleave(c.skill.per_plan, 0), start)
            plan = Normal(*(x.repeat_interleave(c.skill.per_plan, 0).transpose(0, 1) for x in plan))  # [P, N, Z]
            skills = plan.mean + plan.std * self.noise.normal("behavior/skills", *plan.mean.shape)
        with self._autocast():
            losses = behavior_losses(
                start,
                skills,
                plan,
                weights,
                self.value.weights(),
                None if self.task_value is None else self.task_value.weights(),
                self.predictor,
                self.noise,
                c,
                self.backend,
            )
        metrics |= {f"behavior/{k}": v for k, v in losses.metrics.items()}
        if diagnose:
            metrics["behavior/task_grad_norm"] = self.optimizers["actor"].norm(losses.task_return)
            if losses.intrinsic_return is not None:
                metrics["behavior/intrinsic_grad_norm"] = self.optimizers["actor"].norm(losses.intrinsic_return)
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
                if name in self.frozen:
                    continue
                metrics[f"behavior/{name}_grad_norm"] = self.optimizers[name].step(loss)
        return metrics

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.autocast)

    # Checkpoints

    def state_dict(self) -> dict:
        """Weights, optimisers and noise: all that learning goes on from."""
        return {
            "modules": self.modules.state_dict(),
            "optimizers": {k: o.adam.state_dict() for k, o in self.optimizers.items()},
            "noise": self.noise.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` gave, in place: parameters keep their storage."""
        self.modules.load_state_dict(state["modules"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.noise.load_state_dict(state["noise"])


def densest_action(policy: Normal, noise: Tensor) -> Tensor:
    """The sample of highest density, [N, A], from noise [samples, N, A] [D]."""
    pre_tanh = policy.mean + policy.std * noise  # [samples, N, A]
    best = layers.tanh_normal_log_prob(pre_tanh, policy).sum(-1).argmax(0)  # [N]
    chosen = pre_tanh.gather(0, best[None, :, None].expand(1, -1, pre_tanh.shape[-1]))[0]
    return torch.tanh(chosen)
