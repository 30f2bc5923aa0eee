"""The agent's clock: environment steps, as a tensor that is right wherever the agent acts or learns."""

import numpy as np
import pytest
import torch

from lsp_fast import agents, load
from lsp_fast.agents import ImaginationAgent
from lsp_fast.storage import checkpoint
from lsp_fast.training.loop import train
from lsp_fast.training.trainer import Trainer

TASK = "gym:Pendulum-v1"


class Decaying(ImaginationAgent):
    """Explores less and less, as docs/adding-a-variant.md has it: its actions come to rest in the middle of the run."""

    def policy(self, observation, carry):
        action, after = super().policy(observation, carry)
        if not carry.explore:
            return action, after
        left = (1 - 2 * self.env_steps / self.config.env_steps).clamp(min=0)
        return np.clip(action + 0.3 * left.numpy(), -1, 1).astype(np.float32), after

    def update(self, batch, **options):
        return super().update(batch, **options) | {"clock": self.env_steps.clone()}


@pytest.fixture
def decaying(monkeypatch):
    monkeypatch.setattr(agents, "make", lambda observation, action_dim, config, goals=None: Decaying(
        observation, action_dim, config
    ))  # fmt: skip


@pytest.mark.parametrize("overlap", [False, True])
def test_the_clock_counts_the_steps_that_were_made(smoke, tmp_path, decaying, overlap):
    config = smoke(task=TASK, env_steps=460, collect__prefill=400, collect__num_envs=2, train__overlap=overlap)
    trainer = Trainer(config, tmp_path)
    agent, storage = trainer.agent, trainer.agent.env_steps.data_ptr()
    acted, seen, policy, learn = [], [], agent.policy, trainer.learner.agent.update
    agent.policy = lambda *a: (acted.append((int(agent.env_steps), trainer.env_steps)), policy(*a))[1]
    agent.update = lambda *a, **k: (seen.append((int(agent.env_steps), trainer.env_steps)), learn(*a, **k))[1]
    while trainer.env_steps < 460:
        trainer.learn_due()
        trainer.collect()
        assert agent.env_steps == trainer.env_steps
    assert len(acted) > 5 and len(seen) > 2 and all(clock == steps for clock, steps in acted + seen)
    assert agent.env_steps.data_ptr() == storage and agent.env_steps.dtype == torch.int64


def test_a_resumed_run_and_a_loaded_agent_know_the_time(smoke, tmp_path, decaying):
    values = {"task": TASK, "collect__prefill": 200, "train__eval_every": 250, "train__checkpoint_every": 100}
    whole = train(smoke(**values, env_steps=600), tmp_path / "whole", progress=False)
    state = checkpoint.load(sorted((tmp_path / "whole" / "checkpoints").iterdir())[0])
    again = Trainer(smoke(**values, env_steps=600), tmp_path / "whole" / "replay", state)
    assert again.agent.env_steps == state["env_steps"] > 0
    part = tmp_path / "part"
    folder = part / "checkpoints"
    original = Trainer.collect

    class Pulled(Exception):
        pass

    def until(self):
        if self.env_steps == 370:
            raise Pulled
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "collect", until)
        with pytest.raises(Pulled):
            train(smoke(**values, env_steps=600), part, progress=False)
    assert checkpoint.load_latest(folder)["env_steps"] < 370
    resumed = train(smoke(**values, env_steps=600), part, progress=False)
    ours, theirs = (checkpoint.load(result.checkpoint)["agent"]["modules"] for result in (resumed, whole))
    assert resumed.resumed_at > 200 and all(torch.equal(x, theirs[name]) for name, x in ours.items())
    assert resumed.score == whole.score
    assert load(part).env_steps == 600


@pytest.mark.gpu
def test_a_captured_graph_reads_the_clock_anew(smoke):
    from lsp_fast.backends.cudagraph import capture

    agent = ImaginationAgent(3, 1, smoke(device="cuda", backend="auto"))
    replay = capture(lambda x: x * agent.env_steps, torch.ones((), device="cuda"))
    for steps in (7, 12_000):
        agent.at(steps)
        assert replay(torch.ones((), device="cuda")) == steps
