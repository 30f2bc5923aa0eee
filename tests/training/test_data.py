"""Runs that begin with recorded data, and what becomes of a run's own (docs/data.md)."""

import json
import shutil

import gymnasium
import minari
import numpy as np
import pytest
import torch
from experience.recorded.made import stored

from lsp_fast.cli import main
from lsp_fast.config import from_dict, make_config, method_name, replace, to_dict
from lsp_fast.envs.dmc import DmcEnv
from lsp_fast.envs.gym import GymEnv
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.experience.recorded import exchange, folder, npz
from lsp_fast.experience.recorded.form import About, Asked
from lsp_fast.experience.relabel import UNTOLD
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.sweeps import sweep
from lsp_fast.training import data, preflight
from lsp_fast.training.loop import train, transfer
from lsp_fast.training.schedule import Phase
from lsp_fast.training.trainer import Trainer

PENDULUM = "gym:Pendulum-v1"
TIMED = {"seconds", "updates_per_second"}


def recorded(path, about=None, **made):
    """An imported replay of three episodes of the pendulum's shapes."""
    about = about or About(PENDULUM, 2)
    exchange.export_replay(
        stored(**{"lengths": (60, 50, 40), "action_dim": 1, "about": about, **made}), path / "out", npz.write_npz
    )
    exchange.import_recording(path / "out", path / "in", Asked())
    return path / "in"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(smoke, source):
    def make(algorithm="lsp", **values):
        return smoke(algorithm, **{"task": PENDULUM, "data": str(source), "env_steps": 300, **values})

    return make


def told(path):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_rows(path / "metrics.jsonl")]


def final(path):
    run = RunFolder(path)
    [*_, newest] = checkpoint.list_checkpoints(run.checkpoints)
    return checkpoint.load(newest)


def test_the_replay_begins_with_the_data_and_learning_with_the_first_step(config, source):
    trainer = Trainer(config(model__normalize_observations=True), source)
    assert trainer.replay.num_rows == trainer.held == 61 + 51 + 41 and trainer.schedule.phase is Phase.RANDOM
    for ours, theirs in zip(trainer.replay.episodes(), folder.read_folder(source).episodes(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours[:5], theirs[:5], strict=True))
    assert trainer.collect() and trainer.schedule.phase is Phase.LEARNING and trainer.env_steps == 2
    # The scales of observations are the data's.
    mean, std = trainer.replay.observation_statistics()
    normaliser = trainer.agent.modules.state_dict()
    found = [v for k, v in normaliser.items() if "mean" in k and v.shape == mean.shape]
    assert any(np.allclose(v, mean) for v in found) and std.shape == mean.shape
    trainer.learn_due()
    assert trainer.updates == trainer.config.train.pretrain


def test_offline_no_environment_is_stepped_and_the_clock_goes_on(config, tmp_path, monkeypatch):
    steps = []
    own = GymEnv.step
    monkeypatch.setattr(GymEnv, "step", lambda self, action: steps.append(self) or own(self, action))
    trainer = Trainer(config(offline=True), tmp_path)
    steps.clear()  # every environment is tried once
    begins = [trainer.collect() for _ in range(20)]
    assert begins == [True] + [False] * 19 and not steps
    c = trainer.config
    assert trainer.env_steps == 20 * c.collect.num_envs * c.collect.action_repeat
    assert trainer.collector.agent_steps == 0 and trainer.replay.num_rows == 153
    due = c.train.pretrain + (trainer.env_steps - c.collect.num_envs * c.collect.action_repeat) // c.train.train_every
    assert trainer.schedule.updates_due(trainer.env_steps) == due


@pytest.mark.parametrize("offline", [False, True])
def test_a_run_goes_on_to_the_bit_and_needs_the_data_no_more(config, source, tmp_path, offline):
    here = shutil.copytree(source, tmp_path / "data")
    values = {"data": str(here), "offline": offline, "train__eval_every": 250, "train__checkpoint_every": 100}
    whole = train(config(**values), tmp_path / "whole", progress=False)
    stopped = config(**values, env_steps=140)
    train(stopped, tmp_path / "run", progress=False)
    shutil.rmtree(here)
    again = train(config(**values), tmp_path / "run", progress=False)
    assert whole.updates == again.updates > 0
    one, other = final(tmp_path / "whole"), final(tmp_path / "run")
    assert one["held"] == other["held"] == 153
    for name, value in one["agent"]["modules"].items():
        assert torch.equal(value, other["agent"]["modules"][name]), name
    # But for the evaluation that a run makes where it is to end.
    keep = [row for row in told(tmp_path / "run") if row["env_steps"] != 140]
    assert [row for row in told(tmp_path / "whole") if "eval/return" in row] == [r for r in keep if "eval/return" in r]


def test_the_first_checkpoint_is_there_before_the_first_step(config, source, tmp_path, monkeypatch):
    from lsp_fast.training import loop

    class Quit(BaseException):
        pass

    def quits(run, stop):
        raise Quit

    monkeypatch.setattr(loop, "loop", quits)
    with pytest.raises(Quit):
        train(config(), tmp_path / "run", progress=False)
    assert final(tmp_path / "run")["env_steps"] == 0
    assert (tmp_path / "run" / "replay" / "reward.f32").stat().st_size == 4 * 153


REFUSED = {
    "another task": ({"task": "gym:MountainCarContinuous-v0"}, "it is of gym:Pendulum-v1, whose rewards are"),
    "another repeat": ({"collect__action_repeat": 4}, "a step of .* is of 2 environment steps; set --collect.action"),
    "too small a replay": ({"collect__replay_capacity": 140}, "holds more rows, and none is to be dropped; raise it"),
    "no data": ({"data": "nowhere"}, "nowhere does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(config, tmp_path, name):
    values, words = REFUSED[name]
    with pytest.raises(LspFastError, match=words):
        train(config(**values), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_other_shapes_are_refused_with_both(config, tmp_path):
    here = recorded(tmp_path, About("", 2), action_dim=2, observation=5)
    with pytest.raises(ConfigError, match=r"observations of 5 and actions of 2 .* where gym:Pendulum-v1 has 3 and 1"):
        train(config(data=str(here)), tmp_path / "run", progress=False)


def test_a_run_of_frames_begins_with_frames(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(DmcEnv, "render_frame", lambda self, width, height: np.zeros((height, width, 3), np.uint8))
    frames = {"observation": (64, 64, 3), "action_dim": 6, "lengths": (12, 9)}
    here = recorded(tmp_path, About("walker_walk", 2), **frames)
    values = {"task": "walker_walk", "data": str(here), "offline": True, "env_steps": 20, "train__eval_every": 0}
    assert train(smoke(**values, obs="pixels"), tmp_path / "run", progress=False).updates > 0
    for ours, theirs in zip(data.of_run(tmp_path / "run").episodes(), folder.read_folder(here).episodes(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for path in (here, tmp_path / "out"):  # imported, and as it was recorded
        with pytest.raises(ConfigError, match=r"obs = features: .* holds frames; set --obs pixels"):
            train(smoke(**{**values, "data": str(path)}), tmp_path / "other", progress=False)
    few = recorded(tmp_path / "few", About("walker_walk", 2), observation=24, action_dim=6)
    with pytest.raises(ConfigError, match=r"obs = pixels: .* holds features; set --obs features"):
        train(smoke(**{**values, "data": str(few)}, obs="pixels"), tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


class Seen(gymnasium.Env):
    """Observes frames alone."""

    observation_space = gymnasium.spaces.Box(0, 255, (48, 48, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-3, 3, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros((48, 48, 3), np.uint8), {}

    def step(self, action):
        return np.full((48, 48, 3), 9, np.uint8), 1.0, False, False, {}


def test_of_a_task_that_observes_frames_alone_they_go_out_and_come_back(smoke, tmp_path, monkeypatch):
    gymnasium.register("RecordedFrames-v0", f"{__name__}:Seen", max_episode_steps=20)
    monkeypatch.chdir(tmp_path)
    task = "gym:RecordedFrames-v0"
    values = {
        "task": task,
        "obs": "pixels",
        "observation__resize": True,
        "train__eval_every": 0,
        "collect__prefill": 40,
    }
    train(smoke(**values, env_steps=50, collect__action_repeat=1), tmp_path / "run", progress=False)
    assert main(["data", "export", "run", "out-v0"]) == 0
    assert main(["data", "import", "out-v0", "in", "--task", task]) == 0
    again = folder.read_folder(tmp_path / "in")
    assert again.observation == (64, 64, 3) and (again.about.action_low, again.about.action_high) == ((-3,), (3,))
    made = minari.MinariDataset(tmp_path / "out-v0" / "data").recover_environment()
    assert made.observation_space.shape == (64, 64, 3)
    made.close()
    del gymnasium.registry["RecordedFrames-v0"]
    gymnasium.register("RecordedFrames-v0", Seen, max_episode_steps=20)  # as one does in a notebook
    with pytest.warns(UserWarning, match="the dataset will not say how its environment is made: Callable found"):
        assert main(["data", "export", "run", "bare-v0"]) == 0
    assert minari.MinariDataset(tmp_path / "bare-v0" / "data").total_episodes > 0


def test_a_recording_that_says_all_is_taken_as_it_is_and_another_asks_for_an_import(config, source, tmp_path):
    one = Trainer(config(), tmp_path).replay
    other = Trainer(config(data=str(source.parent / "out")), tmp_path).replay
    for ours, theirs in zip(one.episodes(), other.episodes(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    silent = shutil.copytree(source.parent / "out", tmp_path / "silent")
    (silent / "lsp_fast.json").unlink()
    with pytest.raises(LspFastError, match="does not say how many environment steps"):
        Trainer(config(data=str(silent)), tmp_path)


def test_hiro_takes_data_as_steps_without_a_goal(config, tmp_path):
    trainer = Trainer(config("hiro"), tmp_path)
    assert trainer.replay.extras_dim > 0
    assert not any(rows.extras.any() for rows in trainer.replay.episodes())
    trainer.collect()
    trainer.learn()


def test_numbers_beside_the_rows_stay_with_data_of_their_kind_and_relabelling_asks_for_them(smoke, tmp_path):
    """A run's own export has what relabelling needs; others' data has not."""
    walk = smoke(task="quadruped_getup_walk", env_steps=1000)
    train(walk, tmp_path / "walk", progress=False)
    given = data.of_run(tmp_path / "walk")
    assert given.extras_dim == 23 and given.about.extras == "relabel"
    exchange.export_replay(given, tmp_path / "out", npz.write_npz)
    trainer = Trainer(replace(walk, {"data": str(tmp_path / "out")}), tmp_path / "x")
    assert all(
        np.array_equal(a.extras, b.extras) for a, b in zip(trainer.replay.episodes(), given.episodes(), strict=True)
    )
    about = (tmp_path / "out" / "lsp_fast.json").read_text()
    (tmp_path / "out" / "lsp_fast.json").write_text(about.replace('"relabel"', '"hiro state"'))  # of another kind
    other = Trainer(replace(walk, {"data": str(tmp_path / "out")}), tmp_path / "x").replay
    assert all((rows.extras == UNTOLD).all() for rows in other.episodes())
    (tmp_path / "out" / "lsp_fast.json").write_text(about)
    for path in (tmp_path / "out").glob("*.npz"):
        arrays = dict(np.load(path))
        np.savez(path, **{k: v for k, v in arrays.items() if k != "extras"})
    bare = replace(walk, {"data": str(tmp_path / "out"), "env_steps": 20, "train.eval_every": 0})
    assert all((rows.extras == UNTOLD).all() for rows in Trainer(bare, tmp_path / "x").replay.episodes())
    train(bare, tmp_path / "bare", progress=False)
    with pytest.raises(ConfigError, match="holds recorded data, which does not tell what the rewards follow from"):
        transfer(tmp_path / "bare", tmp_path / "reach", "quadruped_getup_reach", progress=False, transfer__relabel=True)


def test_a_run_that_learned_where_more_can_be_had_is_read_here(config, tmp_path):
    train(config(offline=True, env_steps=60, train__eval_every=0), tmp_path / "run", progress=False)
    there = tmp_path / "run" / "config.json"
    told = json.loads(there.read_text()) | {"device": "cuda", "backend": "cpp"}
    told["train"] |= {"precision": "bf16", "matmul": "tf32", "observe": "auto"}
    there.write_text(json.dumps(told))
    assert data.of_run(tmp_path / "run").lengths == [61, 51, 41]


def test_a_run_that_learned_offline_goes_on_online(config, tmp_path):
    train(config(offline=True, env_steps=100, train__eval_every=0), tmp_path / "off", progress=False)
    again = transfer(tmp_path / "off", tmp_path / "on", PENDULUM, progress=False, env_steps=600, train__eval_every=0)
    assert again.finished
    begun = RunFolder(tmp_path / "on").read_config()
    assert (begun.data, begun.offline) == ("", False)


def test_runs_without_evaluations_end_and_end_again(config, tmp_path):
    off = config(offline=True, env_steps=60, train__eval_every=0)
    result = train(off, tmp_path / "run", progress=False)
    assert result.finished and result.score is None and result.curve is None
    rows = told(tmp_path / "run")
    assert rows[-1]["env_steps"] == 60 and not any("eval/return" in row for row in rows)
    assert train(off, tmp_path / "run", progress=False).finished and told(tmp_path / "run") == rows


def test_the_estimates_count_the_data(config, tmp_path, monkeypatch):
    asked = []
    own = preflight.resources.estimate
    monkeypatch.setattr(preflight.resources, "estimate", lambda *a, **k: asked.append(k["held"]) or own(*a, **k))
    trainer = Trainer(config(), tmp_path)
    preflight.check_resources(config(), trainer, RunFolder(tmp_path))
    assert asked == [153]
    c, rows = config(), {"extras": 0, "held": 0}
    more = own(c, "cpp", 3, 1, 0, **rows | {"held": 10_000}).disk - own(c, "cpp", 3, 1, 0, **rows).disk
    assert more == 10_000 * (4 * (3 + 1 + 2) + 1)
    assert own(replace(c, {"offline": True}), "cpp", 3, 1, 0, **rows).disk < own(c, "cpp", 3, 1, 0, **rows).disk


def test_the_values_are_checked_and_named_in_curves():
    with pytest.raises(ConfigError, match="offline = True: there is nothing to learn from"):
        make_config("smoke", "lsp", offline=True)
    with pytest.raises(ConfigError, match="a run that takes another one over begins with that one's policy"):
        make_config("smoke", "lsp", data="x", transfer__source="y")
    names = [make_config("smoke", "lsp", **v).method for v in ({}, {"data": "x"}, {"data": "x", "offline": True})]
    assert names == ["lsp", "lsp, with data", "lsp, offline"]
    old = to_dict(make_config("smoke", "lsp"))
    del old["data"], old["offline"]  # as runs before wrote it
    assert from_dict(old) == make_config("smoke", "lsp") and method_name(old) == "lsp"


def test_a_sweep_names_data_by_whole_paths_and_its_transfers_begin_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.toml").write_text(
        f'preset = "smoke"\ndevice = "cpu"\ndata = "d"\noffline = true\n[[tasks]]\ntask = "{PENDULUM}"\n'
        f'[[methods]]\nalgorithm = "lsp"\n[target]\ntask = "{PENDULUM}"\n'
    )
    first, second = sweep.read(tmp_path / "e.toml", tmp_path / "out")
    assert first.config.data == str(tmp_path / "d") and first.config.offline
    assert second.config.data == "" and not second.config.offline


def test_several_processes_deal_out_the_episodes(config, source, tmp_path, monkeypatch):
    every = [rows.reward.sum().item() for rows in folder.read_folder(source).episodes()]
    monkeypatch.setattr(data.processes, "count", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(data.processes, "rank", lambda rank=rank: rank)
        replay = Trainer(config(), tmp_path).replay
        assert [rows.reward.sum().item() for rows in replay.episodes()] == every[rank::2]
    few = recorded(tmp_path, lengths=(9,))
    with pytest.raises(ConfigError, match=r"processes = 2: .* holds 1 episodes, and each takes some; set it to 1"):
        Trainer(config(data=str(few)), tmp_path)


@pytest.mark.slow
def test_two_processes_learn_offline_from_shares_that_their_run_gives_back(config, source, tmp_path):
    values = {"processes": 2, "offline": True, "env_steps": 60, "train__eval_every": 0, "collect__num_envs": 2}
    assert train(config(**values), tmp_path / "run", progress=False).finished
    found = [rows.reward.sum().item() for rows in data.of_run(tmp_path / "run").episodes()]
    every = [rows.reward.sum().item() for rows in folder.read_folder(source).episodes()]
    assert found == every[::2] + every[1::2]
    assert train(config(**{**values, "env_steps": 80}), tmp_path / "run", progress=False).finished


def test_commands_from_one_run_to_the_next(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train(config(offline=True, env_steps=60, train__eval_every=0), "run", progress=False)
    assert main(["data", "export", "run", "out-v0", "--author", "me"]) == 0
    assert "3, of which the task ended 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out-v0" / "data" / "metadata.json").read_text())["lsp_fast"]["action_high"] == [2.0]
    assert main(["data", "import", "out-v0", "in", "--task", PENDULUM]) == 0
    assert "lsp-fast train --data in --task gym:Pendulum-v1 --collect.action-repeat 2" in capsys.readouterr().out
    assert main(["data", "export", "in", "again", "--format", "npz"]) == 0
    assert len(list((tmp_path / "again").glob("*.npz"))) == 3
    command = f"train --preset smoke --device cpu --task {PENDULUM} --data again --offline --env-steps 20 --logdir last"
    assert main(f"{command} --train.eval-every 0".split()) == 0
    assert RunFolder(tmp_path / "last").read_config().data == str(tmp_path / "again")  # found from every folder
    ours, first = (list(data.of_run(tmp_path / name).episodes()) for name in ("run", "last"))
    assert all(np.array_equal(a, b) for x, y in zip(ours, first, strict=True) for a, b in zip(x, y, strict=True))
