"""TD3 (Fujimoto et al. 2018): a deterministic actor and two critics, as HIRO uses it on both its levels (SPEC 5)."""

from __future__ import annotations

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsp_fast.backends import Backend
from lsp_fast.config import Config
from lsp_fast.learning.optimizer import Optimizer
from lsp_fast.models.networks import Linear
from lsp_fast.noise import Noise


class ReluMLP(nn.Module):
    """Hidden layers with ReLU, then a linear output."""

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = [inputs, *[units] * layers, outputs]
        self.layers = nn.ModuleList([Linear(a, b, generator) for a, b in itertools.pairwise(widths)])

    def forward(self, x: Tensor) -> Tensor:
        *hidden, out = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return out(x)


class TD3(nn.Module):
    """Networks, their slow copies and the range of actions.

    Args:
        inputs: I, width of what actor and critics see.
        actions: A.
        config: sizes and constants.
        generator: draws the initial weights.
    """

    scale: Tensor

    def __init__(self, inputs: int, actions: int, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        h = config.hiro
        self.config, self.gamma = h, config.behavior.gamma
        self.actor = ReluMLP(inputs, h.units, h.layers, actions, generator)
        self.critics = nn.ModuleList([ReluMLP(inputs + actions, h.units, h.layers, 1, generator) for _ in range(2)])
        self.slow_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.slow_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.register_buffer("scale", torch.ones(actions))  # actions lie within ± it

    def act(self, x: Tensor, *, slow: bool = False) -> Tensor:
        """[..., I] -> [..., A]"""
        return self.scale * torch.tanh((self.slow_actor if slow else self.actor)(x))

    def judge(self, x: Tensor, action: Tensor, *, slow: bool = False) -> Tensor:
        """Both critics' values of actions: ([..., I], [..., A]) -> [2, ...]"""
        both = torch.cat([x, action], -1)
        return torch.stack([critic(both).squeeze(-1) for critic in (self.slow_critics if slow else self.critics)])

    @torch.no_grad()
    def target(self, reward: Tensor, terminal: Tensor, after: Tensor, noise: Tensor) -> Tensor:
        """r + gamma * the lower critic's value of the slow actor's action, smoothed by clipped noise.

        Args:
            reward, terminal: [N]
            after: [N, I], what is seen next.
            noise: [N, A], standard normal.
        """
        h = self.config
        smoothing = (h.smoothing * noise).clamp(-h.smoothing_clip, h.smoothing_clip) * self.scale
        action = torch.clamp(self.act(after, slow=True) + smoothing, -self.scale, self.scale)
        return reward + self.gamma * (1 - terminal) * self.judge(after, action, slow=True).amin(0)

    def critic_loss(self, before: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Huber, of both critics."""
        return sum((F.huber_loss(q, target) for q in self.judge(before, action)), target.new_zeros(()))

    def actor_loss(self, before: Tensor) -> Tensor:
        """The first critic's value of the actor's own actions, to be raised."""
        action = self.act(before)
        return -self.critics[0](torch.cat([before, action], -1)).mean()

    @torch.no_grad()
    def follow(self) -> None:
        """Move the slow copies a little towards what has been learned."""
        for slow, learned in ((self.slow_actor, self.actor), (self.slow_critics, self.critics)):
            for a, b in zip(slow.parameters(), learned.parameters(), strict=True):
                a.lerp_(b, self.config.tau)

    def optimizers(self, config: Config, device: torch.device, backend: Backend) -> dict[str, Optimizer]:
        """Of the actor and of the critics."""
        return {
            "actor": Optimizer(self.actor, self.config.actor_learning_rate, config, device, backend),
            "critics": Optimizer(self.critics, self.config.critic_learning_rate, config, device, backend),
        }


def learn(
    level: TD3,
    optimizers: dict[str, Optimizer],
    before: Tensor,
    action: Tensor,
    reward: Tensor,
    terminal: Tensor,
    after: Tensor,
    noise: Noise,
    stream: str,
    *,
    actor: bool,
) -> dict[str, Tensor]:
    """One step of both critics and, every few, of the actor and the slow copies.

    Args:
        before, after: [N, I]; action: [N, A]; reward, terminal: [N].
        noise, stream: where the smoothing comes from.
        actor: whether it is the actor's turn.

    Returns:
        losses and gradients' norms.
    """
    target = level.target(reward, terminal, after, noise.normal(stream, *action.shape))
    loss = level.critic_loss(before, action, target)
    metrics = {"critic_loss": loss.detach(), "critic_grad_norm": optimizers["critics"].step(loss)}
    metrics["value"] = target.mean()
    if actor:
        loss = level.actor_loss(before)
        metrics |= {"actor_loss": loss.detach(), "actor_grad_norm": optimizers["actor"].step(loss)}
        level.follow()
    return metrics
