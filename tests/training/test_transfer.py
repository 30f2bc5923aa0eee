"""From one task of the arena to another, on the smoke preset (SPEC section 5)."""

import json

import numpy as np
import pytest
import torch

from lsp_fast import cli
from lsp_fast.config import ALGORITHMS
from lsp_fast.errors import CheckpointError, ConfigError
from lsp_fast.experience.relabel import relabeller
from lsp_fast.experience.replay import Replay
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.loop import train, transfer
from lsp_fast.training.trainer import Trainer
from lsp_fast.training.transfer import transfer_config

TARGET = "quadruped_getup_reach"


@pytest.fixture(scope="module")
def source(smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "walk"
    train(smoke(task="quadruped_getup_walk", model__normalize_observations=True), folder, progress=False)
    return folder


def content(folder):
    return {p.relative_to(folder): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def modules(path):
    return checkpoint.load(path)["agent"]["modules"]


def newest(folder):
    return checkpoint.list_checkpoints(RunFolder(folder).checkpoints)[-1]


def rewards(folder, config):
    state = checkpoint.load(newest(folder))
    replay = Trainer(config, folder / "replay", state).replay
    return replay, state


def told(folder):
    timed = {"seconds", "updates_per_second"}
    return [{k: v for k, v in row.items() if k not in timed} for row in read_rows(folder / "metrics.jsonl")]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_transfer_takes_over_everything_and_leaves_the_source_alone(source, tmp_path, frozen):
    before = content(source)
    config = transfer_config(source, tmp_path / "reach", TARGET, transfer__freeze_policy=frozen)
    trainer = Trainer(config, tmp_path / "replay")
    taken = modules(newest(source))
    assert all(torch.equal(x, taken[name]) for name, x in trainer.agent.modules.state_dict().items())
    assert not any(o.adam.state for o in trainer.agent.optimizers.values())
    result = transfer(source, tmp_path / "reach", TARGET, progress=False, transfer__freeze_policy=frozen)
    assert result.finished and result.updates >= 10
    learned = modules(result.checkpoint)
    same = {name for name, x in learned.items() if torch.equal(x, taken[name])}
    kept = {name for name in learned if name.startswith(("actor.", "predictor."))}
    normaliser = {"world_model.observation_mean", "world_model.observation_std"}
    assert same == (kept | normaliser if frozen else normaliser)
    assert content(source) == before
    [scores] = json.loads(result.scores.read_text())
    assert scores["method"] == ("lsp, fixed policy" if frozen else "lsp")
    assert {"eval/success", "train/success"} <= set().union(*map(dict.keys, read_rows(result.folder / "metrics.jsonl")))


def test_the_loaded_policy_fills_the_replay(source, tmp_path, monkeypatch):
    explored = []
    policy = Trainer.collect

    def watched(self):
        explored.append(self.collector.explorer.bit_generator.state["state"]["state"])
        return policy(self)

    monkeypatch.setattr(Trainer, "collect", watched)
    transfer(source, tmp_path / "reach", TARGET, progress=False)
    assert len(set(explored)) == 1  # nobody drew a random action


def test_relabelled_experience_comes_first(source, smoke, tmp_path):
    result = transfer(source, tmp_path / "reach", TARGET, progress=False, transfer__relabel=True)
    assert result.finished
    config = RunFolder(tmp_path / "reach").read_config()
    replay, state = rewards(tmp_path / "reach", config)
    old = Replay(10_000, 87, 12, extras_dim=23)
    old.load(source / "replay", json.loads(checkpoint.load(newest(source))["replay"]), borrow=True)
    # The source's episodes, with the target task's rewards; learning begins at once.
    assert replay.num_episodes >= old.num_episodes and state["prefilled"] == 2
    assert np.array_equal(replay._rows.observation[: old.num_rows], old._rows.observation[: old.num_rows])
    new, was = replay._rows.reward[: old.num_rows], old._rows.reward[: old.num_rows]
    assert not np.allclose(new, was) and new.min() >= 0 and new.max() <= 2
    expected = Replay(10_000, 87, 12, extras_dim=23)
    expected.load(source / "replay", json.loads(checkpoint.load(newest(source))["replay"]), borrow=True)
    [episode] = list(expected.episodes())
    wanted = relabeller("quadruped_getup_walk", TARGET, 2)(episode)
    assert np.array_equal(new[: len(wanted)], wanted) and len(np.unique(wanted)) > 10


@pytest.mark.parametrize("relabel", [True, False])
def test_a_stopped_transfer_goes_on_to_the_same_end(source, tmp_path, monkeypatch, relabel):
    learn = Trainer.learn

    def killed(self):
        if self.updates == 5:
            raise KeyboardInterrupt
        learn(self)

    options = {"progress": False, "transfer__relabel": relabel}
    monkeypatch.setattr(Trainer, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        transfer(source, tmp_path / "run", TARGET, **options)
    monkeypatch.undo()
    result = transfer(source, tmp_path / "run", TARGET, **options)
    whole = transfer(source, tmp_path / "whole", TARGET, **options)
    a, b = modules(result.checkpoint), modules(whole.checkpoint)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert told(tmp_path / "run") == told(tmp_path / "whole")


def test_a_transfer_stays_what_it_was_begun_as_whatever_becomes_of_its_source(smoke, tmp_path, monkeypatch):
    walk, reach = tmp_path / "walk", tmp_path / "reach"
    start = {"task": "quadruped_getup_walk", "train__checkpoint_every": 50}
    train(smoke(env_steps=1000, **start), walk, progress=False)
    collect = Trainer.collect

    def killed(self):
        if self.env_steps == 300:
            raise KeyboardInterrupt
        return collect(self)

    monkeypatch.setattr(Trainer, "collect", killed)
    with pytest.raises(KeyboardInterrupt):  # before the prefill has ended
        transfer(walk, reach, TARGET, progress=False, transfer__freeze_policy=True)
    monkeypatch.undo()
    train(smoke(env_steps=1200, **start), walk, progress=False)
    assert not (walk / "checkpoints" / "000001000.pt").exists()
    monkeypatch.chdir(tmp_path)
    result = transfer("walk", reach, TARGET, progress=False)
    config = RunFolder(reach).read_config()
    assert result.finished and result.env_steps == 1000 and config.transfer.source_env_steps == 1000
    assert config.transfer.freeze_policy
    # And one from it is a transfer of its own.
    assert not transfer_config(reach, tmp_path / "more", TARGET).transfer.freeze_policy


def test_networks_of_another_size_are_named(source, tmp_path):
    with pytest.raises(ConfigError, match=r"not this run's \(predictor.*skill\.length"):
        transfer(source, tmp_path / "x", TARGET, progress=False, skill__length=5)
    with pytest.raises(ConfigError, match=r"model\.normaliser = 'symlog': the source's networks know .* 'prefill'"):
        transfer(source, tmp_path / "x", TARGET, progress=False, model__normaliser="symlog")
    with pytest.raises(ConfigError, match=r"skill\.input_scale = 3\.0: the source's policy knows skills 1\.0 times"):
        transfer(source, tmp_path / "x", TARGET, progress=False, skill__input_scale=3.0)
    assert not (tmp_path / "x").exists()


def test_a_longer_skill_is_loaded(source, tmp_path):
    config = transfer_config(
        source, tmp_path / "x", TARGET, skill__length=30, behavior__horizon=60, behavior__plan_states=2
    )
    assert Trainer(config, tmp_path / "replay").agent.config.skills_per_rollout == 2


def test_what_does_not_fit_is_refused_before_anything_is_written(source, smoke, tmp_path):
    with pytest.raises(ConfigError, match=r"102 and 12"):
        transfer(source, tmp_path / "x", "quadruped_cove", progress=False)
    with pytest.raises(ConfigError, match="the source itself"):
        transfer(source, source, TARGET, progress=False)
    with pytest.raises(CheckpointError, match="holds no run"):
        transfer(tmp_path / "none", tmp_path / "x", TARGET, progress=False)
    cheetah = tmp_path / "cheetah"
    train(smoke(env_steps=1000, train__pretrain=1), cheetah, progress=False)
    with pytest.raises(ConfigError, match="not one of the arena"):
        transfer(cheetah, tmp_path / "x", "cheetah_run", progress=False, transfer__relabel=True)
    assert not (tmp_path / "x").exists()
    assert transfer(cheetah, tmp_path / "again", "cheetah_run", progress=False).finished


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "lsp"])
def test_every_algorithm_is_taken_over(smoke, tmp_path, algorithm):
    config = smoke(algorithm, task="quadruped_getup_walk", env_steps=1000, train__pretrain=1)
    train(config, tmp_path / "walk", progress=False)
    frozen = {"transfer__freeze_policy": not algorithm.startswith("hiro")}
    assert transfer(tmp_path / "walk", tmp_path / "reach", TARGET, progress=False, **frozen).finished


def test_the_command(source, tmp_path, capsys):
    logdir = tmp_path / "reach"
    command = ["transfer", "--source", str(source), "--task", TARGET, "--logdir", str(logdir), "--freeze-policy"]
    assert cli.main([*command, "--env-steps", "1100"]) == 0
    assert str(logdir) in capsys.readouterr().out
    config = RunFolder(logdir).read_config()
    assert config.transfer.freeze_policy and not config.transfer.relabel and config.env_steps == 1100
    assert cli.main([*command, "--env-steps", "1100"]) == 0  # goes on, and has nothing left to do
    assert cli.main(["transfer", "--source", str(tmp_path / "none"), "--task", TARGET]) == 2
