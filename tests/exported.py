"""Runs whose agents have learned nothing, to be exported, and a policy beside the agent that it was."""

import json

import numpy as np
import torch

from lsp_fast import agents
from lsp_fast.config import to_dict
from lsp_fast.evaluate import load_as
from lsp_fast.export import functions, policy, run
from lsp_fast.noise import Noise
from lsp_fast.storage import checkpoint

TASK, OBS, ACTIONS = "gym:Pendulum-v1", 3, 1
# Everything that a plan is made of, a few times: two skills a plan, two iterations.
SMALL = {
    "task": TASK,
    "env_steps": 1000,
    "behavior__horizon": 4,
    "skill__length": 3,
    "planner__iterations": 2,
}


class Given(Noise):
    """An agent's own numbers, kept for the policy by the names that it asks for."""

    def __init__(self):
        super().__init__(5)
        self.kept = {}

    def normal(self, stream, *shape):
        numbers = super().normal(stream, *shape)
        self.kept.setdefault(functions.noise_name(stream), []).append(numbers.numpy())
        return numbers

    def draw(self, name, shape):
        """The oldest numbers of that name."""
        found = self.kept[name].pop(0)
        assert found.shape == shape
        return found


def a_run(folder, config, observation=OBS, actions=ACTIONS):
    """A run's folder with an agent that has learned nothing, but for scales that are not 1."""
    agent = agents.make(observation, actions, config)
    torch.manual_seed(0)
    if hasattr(agent, "world_model") and config.model.normalize_observations and not agent.pixels:
        agent.world_model.fit_normalizer(torch.randn(observation), torch.rand(observation) + 0.5)
    if hasattr(agent, "high"):
        agent.high.scale.copy_(torch.rand(agent.goals.dim) + 0.5)
    for name, weights in agent.modules.named_parameters():
        if name.endswith("bias"):  # zeros would hide one that is left out
            weights.data.normal_(0, 0.1)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    state = {"agent": agent.state_dict(), "observation": observation, "action_dim": actions, "env_steps": 1000}
    checkpoint.save(folder / "checkpoints", 1000, state)
    return folder


def beside(folder, exported, steps, explore=False, resets=(), hold=None):
    """The largest difference of the policy's actions from `agent.policy`'s, on the same noise and observations."""
    agent, noise, rng = load_as(folder, **policy.PLAIN), Given(), np.random.default_rng(3)
    acting = run.Policy(exported, noise=noise.draw)
    center, scale = np.array(acting.about["action"]["center"]), np.array(acting.about["action"]["scale"])
    carry = agent.initial_carry(1, explore=explore, noise=noise)
    if hold is not None:
        carry = agent.hold(carry, hold)
        acting.hold(hold)
    differences, actions = [], []
    for t in range(steps):
        if t in resets:
            carry = agent.reset(carry, [True])
            acting.reset()
        observation = rng.normal(size=agent.observation_shape).astype(np.float32)
        if agent.pixels:
            observation = rng.integers(0, 256, agent.observation_shape).astype(np.uint8)
        expected, carry = agent.policy(observation[None], carry)
        actions.append(expected)
        differences.append(np.abs(acting.act(observation) - (center + scale * expected[0])) / scale)
        if acting.skill is not None:
            skill = carry.aim if hasattr(carry, "aim") else carry.skill
            np.testing.assert_allclose(acting.skill, skill[0].numpy(), atol=1e-4)
    assert not any(noise.kept.values())  # all that the agent drew
    assert np.std(actions) > 1e-3
    return float(np.max(differences))
