"""Planning's rollouts alone at the paper's sizes: C++ beside eager PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Work

from lsp_fast import ops
from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import cpp
from lsp_fast.config import make_config
from lsp_fast.ops.types import ImagineNoise, State


def works() -> Iterator[Work]:
    """One CEM iteration's rollouts from 32 start states (learning) and from one (acting)."""
    for starts in (32, 1):
        yield rollouts("paper", starts)


def rollouts(preset: str, starts: int) -> Work:
    """`starts` x G rollouts of H steps with reward and value at each."""
    agent = ImaginationAgent(17, 6, make_config(preset, device="cpu", backend="reference"))
    c, w = agent.config, agent.plan_weights()
    rows, steps = starts * c.planner.candidates, c.behavior.horizon
    start = State(torch.randn(rows, c.model.stoch), torch.randn(rows, c.model.deter).tanh())
    noise = ImagineNoise(torch.randn(steps, rows, c.model.stoch), torch.randn(steps, rows, 6))
    arguments = (start, w.prior, w.actor, torch.randn(1, rows, 3), c.skill.length, noise, (w.reward, w.value))
    torch.testing.assert_close(cpp.imagine_heads(*arguments), ops.imagine_heads(*arguments), rtol=1e-3, atol=1e-4)
    return Work(
        f"imagine_heads, {preset} preset, {starts} x {c.planner.candidates} x {steps}",
        "eager",
        {"eager": lambda: ops.imagine_heads(*arguments), "C++": lambda: cpp.imagine_heads(*arguments)},
    )
