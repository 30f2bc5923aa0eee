"""A whole run on the smoke preset: its folder, its counts, its seed, its resume (SPEC section 1)."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from lsp_fast import machine
from lsp_fast.errors import CheckpointError, ConfigError, LspFastError
from lsp_fast.evaluate import load
from lsp_fast.experience.replay import Replay
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.learner import Learner, NotFinite
from lsp_fast.training.loop import train
from lsp_fast.training.run import Run
from lsp_fast.training.schedule import Schedule
from lsp_fast.training.trainer import Trainer


@pytest.fixture(scope="module")
def run(smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(smoke(), folder, progress=False)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_holds_the_run(run):
    assert run.finished and run.checkpoint.exists() and run.curve.exists()
    names = {p.name for p in run.folder.iterdir()}
    written = {"config.json", "made_with.json", "metrics.jsonl", "scores.json", "learning_curve.png"}
    assert written | {"checkpoints", "replay"} <= names
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
        "planner/gain",
        "planner/gain_error",
        "skill/information",
        "skill/action_spread",
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


def test_a_run_out_of_time_ends_with_a_checkpoint_to_go_on_from(smoke, tmp_path):
    # Every start has time for one pass of the loop at most; the same command ends in the same run.
    while not (result := train(smoke(max_minutes=0.03), tmp_path / "run", progress=False)).finished:
        assert result.timed_out and result.checkpoint.exists()
    assert not result.timed_out
    train(smoke(), tmp_path / "whole", progress=False)
    assert told(tmp_path / "run") == told(tmp_path / "whole")


@pytest.mark.parametrize("envs", [1, 3])
def test_environments_that_step_beside_learning_are_the_same_run_every_time(smoke, tmp_path, monkeypatch, envs):
    """Bit for bit, after an interruption too, though another run than one after the other."""
    config = smoke(train__overlap=True, collect__num_envs=envs, env_steps=1000 * envs + 400)
    whole = train(config, tmp_path / "whole", progress=False)
    assert whole.updates >= 20
    learn = Trainer.learn

    def interrupted(self):
        if self.updates in (1, 5, 11):
            os.kill(os.getpid(), signal.SIGINT)
        return learn(self)

    monkeypatch.setattr(Trainer, "learn", interrupted)
    starts = 1
    while not (result := train(config, tmp_path / "run", progress=False)).finished:
        starts += 1
    assert starts == 4
    a, b = weights(whole.checkpoint), weights(result.checkpoint)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert told(tmp_path / "run") == told(tmp_path / "whole")


def test_what_goes_wrong_beside_the_environments_is_told_as_ever(smoke, tmp_path, monkeypatch):
    learn = Trainer.learn

    def broken(self):
        if self.updates == 4:
            with torch.no_grad():
                next(self.agent.actor.parameters()).fill_(torch.nan)
        learn(self)

    monkeypatch.setattr(Trainer, "learn", broken)
    with pytest.raises(LspFastError, match="became nan in update 5"):
        train(smoke(train__overlap=True), tmp_path / "run", progress=False)


def test_a_damaged_last_checkpoint_is_made_again(smoke, tmp_path):
    first = train(smoke(), tmp_path / "run", progress=False)
    expected = weights(first.checkpoint)
    first.checkpoint.write_bytes(first.checkpoint.read_bytes()[:100])
    with pytest.warns(UserWarning, match="000001100.pt, is used"):
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


def test_a_loaded_agent_is_the_trained_one(smoke, run):
    agent = load(run.folder, device="cpu", backend="reference")
    stored = checkpoint.load(run.checkpoint)["agent"]["modules"]
    assert all(torch.equal(value, stored[name]) for name, value in agent.modules.state_dict().items())
    assert RunFolder(run.folder).read_config() == smoke()


def test_an_agent_that_learned_in_bf16_acts_where_nothing_multiplies_it(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["train"]["precision"] = "bf16"
    (folder / "config.json").write_text(json.dumps(config))
    ours, theirs = (load(f, device="cpu", backend="reference") for f in (run.folder, folder))
    observation = np.ones((1, *ours.observation_shape), np.float32)
    np.testing.assert_array_equal(*(a.policy(observation, a.initial_carry(1))[0] for a in (ours, theirs)))


@pytest.mark.parametrize(("value", "field"), [(float("nan"), "reward"), (float("inf"), "observation")])
def test_a_batch_that_is_not_finite_is_located_and_the_checkpoint_is_from_before(
    smoke, tmp_path, monkeypatch, value, field
):
    sample, learn = Replay.sample, Trainer.learn
    at = {}

    def poisoned(self, rng, *args):
        state = rng.bit_generator.state
        batch = sample(self, rng, *args)
        if at["update"] == 7:
            drawn = np.random.default_rng()
            drawn.bit_generator.state = state
            at["episode"], at["row"] = (int(x[2]) for x in self.draw(drawn, *args))
            getattr(batch, field)[2, 3] = value
        return batch

    def counted(self):
        at["update"], at["env_steps"] = self.updates + 1, self.env_steps
        learn(self)

    monkeypatch.setattr(Replay, "sample", poisoned)
    monkeypatch.setattr(Trainer, "learn", counted)
    with pytest.raises(LspFastError) as error:
        train(smoke(), tmp_path / "run", progress=False)
    text = str(error.value)
    assert f"in update 7 at {at['env_steps']} environment steps" in text
    assert f"{value} as {field} of sequence 2, row 3: row {at['row'] + 3} of episode {at['episode']} " in text
    newest = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert f"{newest} is from before it" in text
    monkeypatch.undo()
    assert all(value.isfinite().all() for value in weights(newest).values())
    assert train(smoke(), tmp_path / "run", progress=False).finished


def test_weights_that_break_are_not_saved(smoke, tmp_path, monkeypatch):
    learn = Trainer.learn

    def broken(self):
        if self.updates == 1:  # behind the first checkpoint, which is made before the first update
            with torch.no_grad():
                self.agent.actor.mlp.out.bias[0] = float("nan")
        learn(self)

    monkeypatch.setattr(Trainer, "learn", broken)
    with pytest.raises(LspFastError, match=r"became nan in update .*batch is finite; its 8 rows each begin at"):
        train(smoke(train__pretrain_world_model_only=False), tmp_path / "run", progress=False)
    [kept] = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    assert all(value.isfinite().all() for value in weights(kept).values())


@pytest.mark.parametrize("overlap", [False, True])
def test_weights_that_a_gpu_broke_are_named_before_they_act(smoke, tmp_path, monkeypatch, overlap):
    learn = Trainer.learn

    def broken(self):
        if self.updates == 4:
            next(self.agent.modules["actor"].parameters()).data[:] = torch.nan
        try:
            learn(self)
        except NotFinite:  # nobody looks there
            self.learner.updates += 1

    monkeypatch.setattr(Trainer, "learn", broken)
    with pytest.raises(LspFastError, match="became NaN or infinite within the first"):
        train(smoke(train__overlap=overlap), tmp_path / "run", progress=False)


def test_a_checkpoint_waits_for_what_a_gpu_found(smoke, tmp_path, monkeypatch):
    # `learn` does not read the flag on a GPU; saving does.
    due, learn = Schedule.updates_due, Learner.learn

    def found(self, env_steps, **how):
        metrics = learn(self, env_steps, **how)
        if self.updates == 3:
            self.finite = torch.tensor(False)
        return metrics

    monkeypatch.setattr(Learner, "learn", found)
    monkeypatch.setattr(Schedule, "updates_due", lambda self, env_steps: min(due(self, env_steps), 3))
    with pytest.raises(LspFastError, match="within the first 3 updates"):
        train(smoke(), tmp_path / "run", progress=False)
    assert [p.stem for p in checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")] == ["000001000"]


def test_a_stop_and_a_kill_at_the_same_step_repeat_no_row(smoke, tmp_path, monkeypatch):
    learn, collect = Trainer.learn, Trainer.collect

    def stopped(self):  # in the middle of the updates that are owed at 1000 environment steps, before they are scored
        if self.updates == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        learn(self)

    monkeypatch.setattr(Trainer, "learn", stopped)
    assert not train(smoke(), tmp_path / "run", progress=False).finished

    def killed(self):  # after they were, and before the next checkpoint
        if self.env_steps >= 1040:
            raise KeyboardInterrupt
        return collect(self)

    monkeypatch.setattr(Trainer, "collect", killed)
    with pytest.raises(KeyboardInterrupt):
        train(smoke(), tmp_path / "run", progress=False)
    assert told(tmp_path / "run")[-1]["env_steps"] == 1000
    monkeypatch.undo()
    train(smoke(), tmp_path / "run", progress=False)
    train(smoke(), tmp_path / "whole", progress=False)
    assert told(tmp_path / "run") == told(tmp_path / "whole")


def test_two_processes_do_not_share_a_folder(smoke, run):
    before = files(run.folder)
    holder = RunFolder(run.folder)
    holder.lock()
    try:
        with pytest.raises(ConfigError, match="another process is training in"):
            train(smoke(env_steps=1300), run.folder, progress=False)
    finally:
        holder.release()
    assert files(run.folder) == before
    assert train(smoke(), run.folder, progress=False).finished


def test_a_checkpoint_of_another_shape_is_named(smoke, tmp_path):
    first = train(smoke(env_steps=1000), tmp_path / "run", progress=False)
    state = checkpoint.load(first.checkpoint)
    for path in checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints"):
        path.unlink()
    for change in ({"agent": {"modules": {}}}, {"sampler": "{"}, {"due": {}}, {"driver": {"next_episode": 1}}):
        checkpoint.save(tmp_path / "run" / "checkpoints", 1000, {**state, **change})
        with pytest.raises(CheckpointError, match="does not fit"):
            train(smoke(env_steps=1000), tmp_path / "run", progress=False)


def test_a_profile_is_a_trace_of_three_updates_and_changes_nothing(smoke, run, tmp_path):
    traced = train(smoke(), tmp_path / "run", progress=False, profile=True)
    events = json.loads(traced.trace.read_text())["traceEvents"]
    assert {event["name"] for event in events if "ProfilerStep" in event.get("name", "")} == {
        f"ProfilerStep#{2 + 2 + i}" for i in range(3)
    }
    assert told(tmp_path / "run") == told(run.folder)
    short = train(smoke(env_steps=1000), tmp_path / "short", progress=False, profile=True)
    assert short.trace is None and not (tmp_path / "short" / "trace.json").exists()


def test_what_the_run_needs_is_said_first(smoke, tmp_path, capsys):
    train(smoke(env_steps=1000), tmp_path / "run")
    assert "of memory and" in capsys.readouterr().err.splitlines()[0]


def test_a_run_larger_than_the_disk_is_refused(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "disk_free", lambda folder: 1_000_000)
    with pytest.raises(ConfigError, match=r"will need .* of disk, and 1000 kB are free|1.0 MB are free"):
        train(smoke(), tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_stops_among_random_actions_goes_on_with_the_next_ones(smoke, tmp_path):
    config = smoke(collect__prefill=1100)
    whole = Trainer(config, tmp_path / "whole")
    for _ in range(20):
        whole.collect()
    state = {**whole.state_dict(), "env_steps": whole.env_steps}
    again = Trainer(config, tmp_path / "whole", state)
    for trainer in (whole, again):
        for _ in range(5):
            trainer.collect()
    a, b = (trainer.collector.driver.state()["actions"][0] for trainer in (whole, again))
    assert len(a) == 25 and np.array_equal(a, b) and len(np.unique(a[20:])) > 5


def test_the_policy_enters_a_running_episode_without_a_memory(smoke, tmp_path):
    trainer = Trainer(smoke(collect__prefill=1100), tmp_path / "replay")  # episodes have 1000 environment steps
    while not trainer.collect():
        pass
    carry = trainer.collector.carry
    assert trainer.env_steps == 1100 and not trainer.collector.driver.is_first.any()
    assert not any(x.any() for x in (*carry.state, carry.action, carry.step))
    trainer.collect()
    assert trainer.collector.carry.step.tolist() == [1] and trainer.collector.carry.skill.any()


def test_a_planner_that_chooses_by_chance_is_warned_of_once(monkeypatch):
    said = []
    monkeypatch.setattr("lsp_fast.training.run.announce", said.append)

    class Watched:
        _chance_said, _chance_since, env_steps = False, None, 0

    watched = Watched()
    gains = [(0, 1), (2000, 5), (3000, 2), (5500, -3), (6000, None), (7900, 0), (8000, 1), (20000, 0)]
    for watched.env_steps, gain in gains:
        row = {} if gain is None else {"planner/gain": float(gain), "planner/gain_error": 1.0}
        Run._watch_gain(watched, row)
        assert len(said) == (watched.env_steps >= 8000)  # 5 at 2000 was no chance
