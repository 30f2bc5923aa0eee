"""A whole run on the smoke preset: its folder, its counts, its seed, its resume (SPEC section 1)."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from lsp_fast import checkpoint
from lsp_fast.errors import ConfigError
from lsp_fast.evaluate import load
from lsp_fast.logger import read_rows
from lsp_fast.runs import RunFolder
from lsp_fast.train import Due, Trainer, train


@pytest.fixture(scope="module")
def run(smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(smoke(), folder, progress=False)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_holds_the_run(run):
    assert run.finished and run.checkpoint.exists() and run.curve.exists()
    names = {p.name for p in run.folder.iterdir()}
    assert {"config.json", "metrics.jsonl", "scores.json", "checkpoints", "replay", "learning_curve.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    [scores] = json.loads(run.scores.read_text())
    assert (scores["task"], scores["method"], scores["seed"]) == ("cheetah_run", "lsp", 0)
    assert scores["xs"] == [1000, 1200] and len(scores["ys"]) == 2
    assert scores["ys"][-1] == run.score


def test_the_metrics_tell_the_planners_health(run):
    rows = read_rows(run.folder / "metrics.jsonl")
    named = set().union(*rows)
    assert {
        "planner/elite_overlap",
        "planner/value_spread",
        "planner/rollout_noise",
        "behavior/log_q_minus_log_p",
        "behavior/saturation",
        "train/return",
        "agent_steps",
        "updates",
    } <= named
    assert rows == sorted(rows, key=lambda row: row["env_steps"])


def test_updates_are_those_that_are_due(smoke, run):
    c = smoke()
    assert run.env_steps == 1200
    assert run.updates == c.train.pretrain + (1200 - c.collect.prefill) // c.train.train_every


def test_the_same_seed_is_the_same_run(smoke, run, tmp_path):
    again = train(smoke(), tmp_path / "again", progress=False)
    a, b = weights(run.checkpoint), weights(again.checkpoint)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert told(run.folder) == told(again.folder)


def test_the_same_command_on_a_finished_run_changes_nothing(smoke, run):
    before = files(run.folder)
    again = train(smoke(), run.folder, progress=False)
    assert again.resumed_at == run.env_steps and run.resumed_at == 0
    assert again.finished and again.checkpoint == run.checkpoint and again.score == run.score
    assert files(run.folder) == before


def test_another_configuration_is_refused_and_named(smoke, run):
    before = files(run.folder)
    with pytest.raises(ConfigError, match=r"skill\.beta: 0\.1 there, 0\.5 asked for"):
        train(smoke(skill__beta=0.5), run.folder, progress=False)
    assert files(run.folder) == before


def test_a_folder_that_holds_something_else_is_refused(smoke, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds no run"):
        train(smoke(), tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_goes_on_with_its_replay(smoke, tmp_path):
    first = train(smoke(), tmp_path / "run", progress=False)
    state = checkpoint.load(first.checkpoint)
    trainer = Trainer(smoke(), tmp_path / "run" / "replay", state)
    assert trainer.replay.num_episodes == 1 and trainer.updates == first.updates
    longer = train(smoke(env_steps=1300), tmp_path / "run", progress=False)
    assert longer.env_steps == 1300 and longer.updates == first.updates + 100 // 20
    [scores] = json.loads(longer.scores.read_text())
    assert scores["xs"] == [1000, 1200, 1300]
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["env_steps"] for row in rows if "updates" in row][-2:] == [1200, 1300]


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(smoke, tmp_path, monkeypatch):
    learn = Trainer.learn

    def interrupted(self):
        if self.updates == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(self)

    monkeypatch.setattr(Trainer, "learn", interrupted)
    result = train(smoke(), tmp_path / "run", progress=False)
    assert not result.finished and result.updates == 5
    monkeypatch.undo()
    assert train(smoke(), tmp_path / "run", progress=False).finished
    train(smoke(), tmp_path / "whole", progress=False)
    assert told(tmp_path / "run") == told(tmp_path / "whole")


def test_ctrl_c_within_the_last_updates_is_no_end(smoke, tmp_path, monkeypatch):
    config = smoke(env_steps=1000, train__pretrain=6, train__eval_every=2000)
    learn = Trainer.learn
    for stop_at in (1, 3):
        monkeypatch.setattr(
            Trainer,
            "learn",
            lambda self, n=stop_at: (self.updates == n and os.kill(os.getpid(), signal.SIGINT), learn(self)),
        )
        result = train(config, tmp_path / "run", progress=False)
        assert not result.finished and result.score is None and result.updates == stop_at + 1
    monkeypatch.undo()
    result = train(config, tmp_path / "run", progress=False)
    assert result.finished and result.updates == checkpoint.load(result.checkpoint)["updates"] == 6
    whole = train(config, tmp_path / "whole", progress=False)
    assert told(tmp_path / "run") == told(tmp_path / "whole") and result.score == whole.score


def test_a_damaged_last_checkpoint_is_made_again(smoke, tmp_path):
    first = train(smoke(), tmp_path / "run", progress=False)
    expected = weights(first.checkpoint)
    first.checkpoint.write_bytes(first.checkpoint.read_bytes()[:100])
    again = train(smoke(), tmp_path / "run", progress=False)
    assert again.resumed_at == 1100 and again.checkpoint == first.checkpoint
    assert all(torch.equal(value, expected[name]) for name, value in weights(again.checkpoint).items())


TIMED = ("seconds", "updates_per_second")


def told(folder):
    """The metrics of a run, but for what the clock says."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def weights(path):
    return checkpoint.load(path)["agent"]["modules"]


def test_a_killed_run_ends_as_an_undisturbed_one(smoke, tmp_path, monkeypatch):
    config = smoke(
        env_steps=3000, collect__num_envs=2, train__checkpoint_every=100, train__log_every=70, train__eval_every=500
    )
    whole = train(config, tmp_path / "whole", progress=False)
    rng = np.random.default_rng(0)
    learn, collect = Trainer.learn, Trainer.collect
    left = 0

    def countdown(function):
        def killed(self):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt  # nothing is saved on this way out, as after SIGKILL
            return function(self)

        return killed

    monkeypatch.setattr(Trainer, "learn", countdown(learn))
    monkeypatch.setattr(Trainer, "collect", countdown(collect))
    result, kills = None, 0
    while result is None:
        left = int(rng.integers(50, 150)) if kills else 530
        try:
            result = train(config, tmp_path / "killed", progress=False)
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 2
    assert told(tmp_path / "killed") == told(tmp_path / "whole")
    a, b = weights(whole.checkpoint), weights(result.checkpoint)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole.scores.read_text() == result.scores.read_text()


def test_a_loaded_agent_is_the_trained_one(smoke, run):
    agent = load(run.folder, device="cpu", backend="reference")
    stored = checkpoint.load(run.checkpoint)["agent"]["modules"]
    assert all(torch.equal(value, stored[name]) for name, value in agent.modules.state_dict().items())
    assert RunFolder(run.folder).read_config() == smoke()


def test_a_loss_that_is_not_finite_stops_the_run(smoke, tmp_path, monkeypatch):
    from lsp_fast.errors import LspFastError
    from lsp_fast.replay import Replay

    sample = Replay.sample

    def poisoned(self, *args):
        batch = sample(self, *args)
        batch.reward[0, 0] = float("nan")
        return batch

    monkeypatch.setattr(Replay, "sample", poisoned)
    with pytest.raises(LspFastError, match="loss became nan in update 1"):
        train(smoke(), tmp_path / "run", progress=False)


def test_a_cadence_is_due_once_for_each_multiple():
    due = Due(10)
    assert [t for t in range(1, 60, 3) if due(t)] == [10, 22, 31, 40, 52]
