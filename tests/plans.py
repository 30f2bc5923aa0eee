"""A plan to test with: its problem, drawn at random, and what it is compared by. Without the extension tests skip."""

import pytest
import torch
from rollouts import draw_plan_noise

from lsp_fast import backends
from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import cpp
from lsp_fast.config import make_config
from lsp_fast.errors import BackendUnavailable
from lsp_fast.noise import Noise
from lsp_fast.ops.types import Normal, State
from lsp_fast.planning.cem import CEMResult
from lsp_fast.planning.planner import plan_rules

try:
    cpp.load()
except BackendUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)

CPP = backends.get("cpp")
PARTS = CPP._replace(plan=None)


def build(states=3, seed=0, sample=True, preset="smoke", **overrides):
    """start, weights, noise and configuration of a plan with networks drawn at random."""
    given = {"planner__rollouts": "sampled", "planner__std_min": 0.0, "skill__input_scale": 1.0, **overrides}
    config = make_config(preset, device="cpu", backend="reference", seed=seed, **given)
    agent = ImaginationAgent(5, 2, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in agent.modules.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    start = State(
        torch.randn(states, config.model.stoch, generator=generator),
        torch.randn(states, config.model.deter, generator=generator).tanh(),
    )
    noise = draw_plan_noise(Noise(seed), "x", config, states, 2, sample)
    return start, agent.plan_weights(), noise, config


def double(x):
    if isinstance(x, torch.Tensor):
        return x.detach().double()
    if isinstance(x, tuple):
        parts = [double(y) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def assert_equal(a: CEMResult, b: CEMResult):
    for name, x, y in zip(CEMResult._fields, a, b, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype, name
        assert torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)), name


def plan(start, weights, noise, config, **options):
    shape = len(start.stoch), config.skills_per_rollout, config.skill.dim
    prior = Normal(torch.zeros(shape), torch.ones(shape))
    return CEMResult(*cpp.plan(start, weights, noise, prior, plan_rules(config), **options))
