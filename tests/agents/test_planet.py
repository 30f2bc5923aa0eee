"""PlaNet: CEM over actions on the same world model, no policy (SPEC section 5)."""

import numpy as np
import pytest
import torch

from lsp_fast import backends
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.errors import BackendUnavailable, ConfigError
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
from lsp_fast.planning.planner import Planner, plan_rules
from lsp_fast.training.loop import train

OBS, ACT = 5, 2


def build(algorithm="planet", **overrides):
    config = make_config("smoke", algorithm, **{"device": "cpu", "backend": "reference", **overrides})
    return ImaginationAgent(OBS, ACT, config)


def small(**overrides):
    sizes = {"planner__candidates": 40, "planner__elites": 8, "planner__iterations": 3, "behavior__horizon": 5}
    return build(**{**sizes, **overrides})


def batch(config, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (config.train.batch_size, config.train.batch_length)
    return SequenceBatch(
        torch.randn(*shape, OBS, generator=g),
        torch.rand(*shape, ACT, generator=g) * 2 - 1,
        torch.rand(shape, generator=g),
        torch.zeros(shape),
        torch.zeros(shape, dtype=torch.bool),
    )


def test_its_row_is_the_papers():
    c = make_config("paper", "planet")
    p, rules = c.planner, plan_rules(c)
    assert (c.behavior.horizon, p.candidates, p.elites, p.iterations) == (12, 1000, 100, 10)
    assert (rules.clip, rules.floor, rules.gamma, rules.by_sum, rules.skill_length) == (1.0, 0.0, 1.0, True, 1)
    with pytest.raises(ConfigError, match=r"planner\.over"):
        make_config("paper", "lsp", planner__over="actions")


def test_there_is_a_world_model_alone_and_it_learns_as_every_other_row_does():
    planet, dreamer = build(), build("dreamer")
    assert list(planet.modules) == list(planet.optimizers) == ["world_model"]
    for seed in range(3):
        metrics = planet.update(batch(planet.config, seed))
        dreamer.update(batch(dreamer.config, seed))
    assert not any(name.startswith("behavior") for name in metrics)
    state, same = planet.modules.state_dict(), dreamer.modules.state_dict()
    assert all(torch.equal(x, same[name]) for name, x in state.items())


def test_the_first_mean_action_is_taken_and_planned_anew_at_every_step():
    agent = small()
    noise, carry = Noise(3), agent.initial_carry(2, noise=Noise(3))
    rng = np.random.default_rng(0)
    for _ in range(3):
        observation = rng.normal(size=(2, OBS)).astype(np.float32)
        obs = torch.as_tensor(observation)
        latent = noise.normal("act/latent", 2, agent.config.model.stoch)
        state = agent.world_model.filter(carry.state, carry.action, obs, latent)
        drawn = agent.planner.draw(noise, "act", 2, sample=False)
        assert drawn.candidates.shape == (3, 2, 40, 5, ACT) and drawn.action is None
        plan = agent.planner.search(state, drawn)
        action, carry = agent.policy(observation, carry)
        assert torch.equal(torch.as_tensor(action), plan.mean[:, 0].detach()) and carry.skill is None


def test_exploring_adds_noise_and_stays_within_bounds():
    agent = small(collect__exploration_noise=5.0)
    observation = np.zeros((4, OBS), np.float32)
    quiet, _ = agent.policy(observation, agent.initial_carry(4))
    loud, _ = agent.policy(observation, agent.initial_carry(4, explore=True))
    assert np.abs(quiet).max() < 1 and np.abs(loud).max() == 1


def test_plans_find_the_action_that_is_rewarded():
    """A reward that is -|a - 0.5| shows in what is planned, through a model that is told so."""
    agent = small(planner__candidates=200, planner__elites=20, planner__iterations=8)
    target = torch.tensor([0.5, -0.25])

    def imagine_heads(start, prior, actor, actions, length, noise, heads, precision):
        assert actor is None and length == 1 and len(heads) == 1
        return -(actions - target).abs().sum(-1)[None]

    agent.planner.backend = backends.REFERENCE._replace(imagine_heads=imagine_heads)
    action, _ = agent.policy(np.zeros((3, OBS), np.float32), agent.initial_carry(3))
    np.testing.assert_allclose(action, target.expand(3, 2), atol=0.05)


def test_native_plans_are_the_references():
    try:
        backends.get("cpp")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    agent = small(planner__candidates=60)
    start = State(torch.randn(3, agent.config.model.stoch), torch.randn(3, agent.config.model.deter).tanh())
    drawn = agent.planner.draw(Noise(0), "x", 3, sample=False)
    planners = (Planner(agent.config, agent.plan_weights, backends.get(name)) for name in ("reference", "cpp"))
    expected, actual = (planner.search(start, drawn) for planner in planners)
    torch.testing.assert_close(actual.values[0], expected.values[0], rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    from lsp_fast.storage import checkpoint
    from lsp_fast.training.trainer import Trainer

    config = make_config(
        "smoke", "planet", device="cpu", planner__candidates=20, planner__elites=5, planner__iterations=2
    )
    whole = train(config, tmp_path / "whole", progress=False)
    learn = Trainer.learn

    def killed(self):
        if self.updates == 6:
            raise KeyboardInterrupt
        learn(self)

    monkeypatch.setattr(Trainer, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=False)
    monkeypatch.undo()
    result = train(config, tmp_path / "run", progress=False)
    a, b = (checkpoint.load(r.checkpoint)["agent"]["modules"] for r in (whole, result))
    assert result.score == whole.score and all(torch.equal(a[name], b[name]) for name in a)
