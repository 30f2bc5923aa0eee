"""What ops take and return. Weight tuples hold a module's parameters themselves, never copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Dense(NamedTuple):
    """A linear layer: y = x @ weight.T + bias."""

    weight: Tensor  # [out, in]
    bias: Tensor  # [out]


class MLPWeights(NamedTuple):
    """Layers with ELU between them; `out` None ends with the last hidden layer's ELU."""

    hidden: tuple[Dense, ...]
    out: Dense | None

    @property
    def input_dim(self) -> int:
        """Width of what it reads."""
        first = self.hidden[0] if self.hidden else self.out
        assert first is not None
        return first.weight.shape[1]


class GRUWeights(NamedTuple):
    """torch.nn.GRUCell's parameters, gates in the order reset, update, new."""

    weight_ih: Tensor  # [3D, in]
    weight_hh: Tensor  # [3D, D]
    bias_ih: Tensor  # [3D]
    bias_hh: Tensor  # [3D]


class PriorWeights(NamedTuple):
    """The RSSM's transition (SPEC section 2): Linear([s, a]) ELU -> GRU -> Linear ELU -> Linear -> mean, std."""

    inp: Dense  # [hidden, S + A]
    gru: GRUWeights
    hidden: Dense  # [hidden, D]
    out: Dense  # [2S, hidden]
    min_std: float


class PosteriorWeights(NamedTuple):
    """The RSSM's filter (SPEC section 2): Linear([h, embedding]) ELU -> Linear -> mean, std."""

    hidden: Dense  # [hidden, D + E]
    out: Dense  # [2S, hidden]
    min_std: float


class ActorWeights(NamedTuple):
    """Policy (SPEC section 3): MLP([features, skill]) -> tanh-normal."""

    mlp: MLPWeights
    mean_scale: float
    init_std: float
    min_std: float


class WorldModelWeights(NamedTuple):
    """All that a world model of vectors is trained by, without a discount head."""

    encoder: MLPWeights  # ends with a hidden layer
    prior: PriorWeights
    posterior: PosteriorWeights
    decoder: MLPWeights
    reward: MLPWeights


class State(NamedTuple):
    """Latent state of the RSSM."""

    stoch: Tensor  # [..., S]
    deter: Tensor  # [..., D]


class Normal(NamedTuple):
    """A diagonal normal distribution."""

    mean: Tensor
    std: Tensor


class ImagineNoise(NamedTuple):
    """Standard normal numbers of a rollout; `action` None takes tanh(mean) for the action."""

    stoch: Tensor  # [H, N, S]
    action: Tensor | None  # [H, N, A]


class Rollout(NamedTuple):
    """An imagined trajectory; the start state is not in it."""

    states: State  # [H, N, ...]
    actions: Tensor  # [H, N, A], actions[t] led to states[t]
    policy: Normal  # [H, N, A], what actions[t] was drawn from, before the tanh


class Information(NamedTuple):
    """What the intrinsic reward is computed from."""

    predictor: MLPWeights
    seen: Sequence[int]
    """Which states of a segment it sees, beside the first."""
    shares: Sequence[float]
    """What each step gets of its segment's log q, beta included."""
    noise: float
    """Deviation of the noise on its input."""
    bounds: tuple[float, float]
    """Of its standard deviation."""
    intrinsic: Tensor
    fit: Tensor
    """Standard normal, [J, N, I], for the reward and for its own loss."""


class PlanWeights(NamedTuple):
    """All that scoring a plan needs. Without an actor plans are actions; without a value they are scored by rewards.
    The value's input is [features], or [features, skill]."""

    prior: PriorWeights
    actor: ActorWeights | None
    reward: MLPWeights
    value: MLPWeights | None
    discount: MLPWeights | None

    @property
    def heads(self) -> tuple[MLPWeights, ...]:
        """Reward and, where there is one, value and discount."""
        return tuple(head for head in (self.reward, self.value, self.discount) if head is not None)

    @property
    def action_dim(self) -> int:
        """A."""
        return self.prior.inp.weight.shape[1] - self.prior.out.weight.shape[0] // 2

    @property
    def value_sees_skill(self) -> bool:
        """Whether the value judges a state together with the skill held in it."""
        return self.value is not None and self.value.input_dim != feature_dim(self.prior)


class PlanNoise(NamedTuple):
    """Standard normal numbers of a whole plan of N states; `action` None rolls out tanh(mean).

    R is N * G, a state's candidates side by side, or N where a state's candidates share what its rollouts draw.
    """

    candidates: Tensor  # [I, N, G, P, Z]
    stoch: Tensor  # [I, H, R, S]
    action: Tensor | None  # [I, H, R, A]


class PlanKey(NamedTuple):
    """The noise of a whole plan as a generator's key: `lsp_fast.ops.philox.plan_noise` gives the numbers, and a native
    plan computes them where it uses them."""

    key: Tensor  # [2] int64 on the CPU or the GPU, words of 32 bits
    iterations: int  # I
    candidates: int  # G
    steps: int  # H
    sample: bool
    """Actions too; else tanh(mean)."""
    shared: bool
    """By a state's candidates."""


class PlanRules(NamedTuple):
    """How a plan is refined and scored (SPEC section 4)."""

    num_elites: int
    skill_length: int
    """K, steps that each of a plan's skills (or actions) is held."""
    gamma: float
    """Discount where there is no discount head."""
    lam: float
    by_sum: bool = False
    """Score by the discounted rewards' sum and the last value instead of the lambda-return at the first state."""
    floor: float = 1e-6
    """Added to the elites' variance."""
    clip: float | None = None
    """Bound of every number of a candidate."""
    precision: str = "fp32"
    """What matrix products multiply, `fp32` or `bf16`."""


def feature_dim(prior: PriorWeights) -> int:
    """F = S + D."""
    return prior.out.weight.shape[0] // 2 + prior.gru.weight_hh.shape[1]


def features(state: State) -> Tensor:
    """[s, h], what every head sees: [..., S + D]."""
    return torch.cat([state.stoch, state.deter], -1)


def map_state(function, state: State) -> State:
    """Apply a tensor function to both parts."""
    return State(function(state.stoch), function(state.deter))


def detach(state: State) -> State:
    """The same values without their history."""
    return map_state(Tensor.detach, state)
