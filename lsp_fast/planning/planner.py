"""The planner: from states to the distribution that skills (or actions) are drawn from (SPEC sections 4 and 5)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.backends.cudagraph import Graphed
from lsp_fast.config import Config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import Normal, PlanKey, PlanNoise, PlanRules, PlanWeights, State
from lsp_fast.planning.cem import CEMResult
from lsp_fast.planning.plan import bind_heads, plan


class Packed(NamedTuple):
    """Weights where a backend reads them."""

    backend: Backend
    heads: Any  # imagine_heads of them
    versions: list[int]  # of the live weights when they were copied


class Planner:
    """Plans by the cross-entropy method from any number of states, each on its own; or draws from N(0, I).

    Args:
        config: checked; how it plans, and what.
        weights: gives the live parameters that scoring a plan needs.
        backend: scores candidates and selects elites.
    """

    def __init__(self, config: Config, weights: Callable[[], PlanWeights], backend: Backend) -> None:
        self.config, self.weights, self.backend = config, weights, backend
        self.rules = plan_rules(config, backend)
        self._packed: Packed | None = None
        graphs = config.train.cuda_graph
        self._graphs = {
            sample: Graphed(functools.partial(self._plan, sample), "planning", enabled=graphs)
            for sample in (True, False)
        }

    @functools.cached_property
    def action_dim(self) -> int:
        """A."""
        return self.weights().action_dim

    def prior(self, start: State, last: Tensor | None = None) -> Normal:
        """What a plan begins from, mean and std [N, P, Z]: N(0, I) [O], or the mean of the last plan, moved on.

        Args:
            start: [N, ...]
            last: means of the episodes' last plans [N, P, Z], zeros where there was none.
        """
        n = start.stoch.shape[0]
        zeros = start.stoch.new_zeros(n, *self.config.plan_shape(self.action_dim))
        return Normal(zeros if last is None else moved_on(last), torch.ones_like(zeros))

    def draw(self, noise: Noise, stream: str, states: int, *, sample: bool) -> PlanNoise | PlanKey:
        """Noise of one whole plan from that many start states; `sample` acts as in training, with sampled actions."""
        c, p, n = self.config, self.config.planner, states
        sample = sample and p.over == "skills"  # planned actions are what they are
        if self.backend.draws_by_key(p.noise):
            key = noise.words(f"{stream}/plan_key", 2)
            return PlanKey(key, p.iterations, p.candidates, c.behavior.horizon, sample, p.shared_noise)
        rollouts = (p.iterations, c.behavior.horizon, n if p.shared_noise else n * p.candidates)
        return PlanNoise(
            noise.normal(f"{stream}/candidates", p.iterations, n, p.candidates, *c.plan_shape(self.action_dim)),
            noise.normal(f"{stream}/plan_latent", *rollouts, c.model.stoch),
            noise.normal(f"{stream}/plan_action", *rollouts, self.action_dim) if sample else None,
        )

    def search(self, start: State, noise: PlanNoise | PlanKey, prior: Normal | None = None) -> CEMResult:
        """One plan from every state, without gradients, and all that it found on the way.

        Args:
            start: [N, ...]
            noise: as `draw` gives it.
            prior: mean and std [N, P, Z] to begin from; by default N(0, I).
        """
        prior, heads = prior or self.prior(start), self.imagine_heads()
        return plan(start, self.weights(), noise, prior, self.rules, self.backend, heads)

    def pack(self) -> None:
        """Copy today's weights to where the backend reads them, if it does not read the live ones.

        An update ends with this, so that it is part of the update's graph: what a graph changes, nobody else sees.
        """
        if self._packed is not None:
            self._packed = Packed(self._packed.backend, self._packed.heads, self._versions())
            self._packed.heads.pack()

    def imagine_heads(self) -> Callable[..., Tensor] | None:
        """`imagine_heads` of the live weights, packed anew where they changed; None where the backend packs none."""
        backend = self.backend
        if backend.pack_heads is None or backend.plan is not None or self.weights().value_sees_skill:
            return None
        if self._packed is None or self._packed.backend is not backend:
            heads = bind_heads(self.weights(), self.rules.precision, backend)
            self._packed = Packed(backend, heads, self._versions())
        elif self._packed.versions != self._versions():
            self.pack()
        return self._packed.heads

    def _versions(self) -> list[int]:
        """PyTorch counts the changes of every tensor that are made outside of graphs."""
        return [x._version for x in tree_leaves(self.weights()) if isinstance(x, Tensor)]

    def plan(self, start: State, noise: PlanNoise | PlanKey, prior: Normal) -> Normal:
        """The mean and std [N, P, Z] that `search` ends with; on a GPU replayed as a graph of its own.

        Noise comes in from outside, so that one graph serves every stream and episode.
        """
        self.imagine_heads()  # a replay would not look whether weights have changed
        if isinstance(noise, PlanKey):
            return self._graphs[noise.sample](*start, *prior, noise.key)
        return self._graphs[noise.action is not None](*start, *prior, *(x for x in noise if x is not None))

    def distribution(
        self,
        start: State,
        noise: Noise,
        stream: str,
        *,
        explore: bool,
        last: Tensor | None = None,
        graphed: bool = False,
    ) -> Normal:
        """The distribution that skills are drawn from in each start state.

        Args:
            start: [N, ...]
            noise, stream: where the plan's noise comes from; the stream names its purpose.
            explore: in imagination and while collecting: plans are scored with sampled actions, and epsilon is added to
                the planned mean. In evaluation neither.
            last: as `prior` takes it.
            graphed: plan by a graph of its own; False within what is captured as a whole.

        Returns:
            mean and std, [N, P, Z]; of N(0, I) for random skills.
        """
        prior, c = self.prior(start, last), self.config
        if c.skill.source == "random":
            return prior
        drawn = self.draw(noise, stream, len(start.stoch), sample=explore)
        if graphed:
            found = self.plan(start, drawn, prior)
        else:
            result = self.search(start, drawn, prior)
            found = Normal(result.mean, result.std)
        if not explore:
            return found
        epsilon_std = c.skill.noise if c.skill.noise_kind == "std" else c.skill.noise**0.5
        epsilon = epsilon_std * noise.normal(f"{stream}/epsilon", *found.mean.shape)
        return Normal(found.mean + epsilon, found.std)

    def _plan(self, sample: bool, stoch: Tensor, deter: Tensor, mean: Tensor, std: Tensor, *numbers: Tensor) -> Normal:
        """`plan` as a function of tensors alone."""
        p = self.config.planner
        if len(numbers) == 1:
            steps = self.config.behavior.horizon
            noise = PlanKey(numbers[0], p.iterations, p.candidates, steps, sample, p.shared_noise)
        else:
            noise = PlanNoise(numbers[0], numbers[1], numbers[2] if sample else None)
        result = self.search(State(stoch, deter), noise, Normal(mean, std))
        return Normal(result.mean, result.std)


def plan_rules(config: Config, backend: Backend = REFERENCE) -> PlanRules:
    """How this configuration scores and refits on that backend."""
    p, b = config.planner, config.behavior
    chosen = "bf16" if backend.multiplies_bf16 else "fp32"
    return PlanRules(
        p.elites,
        config.skill.length if p.over == "skills" else 1,
        b.gamma,
        b.lam,
        by_sum=p.objective == "sum",
        floor=p.std_floor,
        clip=None if p.over == "skills" else 1.0,
        precision=chosen if p.precision == "auto" else p.precision,
    )


def moved_on(last: Tensor) -> Tensor:
    """Means of the plans [N, P, Z] once their first entry has been acted on: the others, the last one twice."""
    return torch.cat([last[:, 1:], last[:, -1:]], 1)
