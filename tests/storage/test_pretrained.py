"""Agents that come with the package: `pretrained:NAME` is read wherever a run's folder is."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lsp_fast
from lsp_fast import envs, evaluate
from lsp_fast.cli import main
from lsp_fast.config import Config
from lsp_fast.errors import CheckpointError, LspFastError
from lsp_fast.storage import pretrained, sources
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.loop import train

NAMES = pretrained.names()


def test_there_are_three():
    assert len(NAMES) == 3


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_and_tells_how_it_was_made(name):
    path = pretrained.FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 2_000_000
    made = pretrained.describe(name)["made"]
    assert made["command"].startswith("lsp-fast train ") and f"--task {name}" in made["command"]
    assert len(made["scores"]["returns"]) >= 10 and made["scores"]["mean"] > 300
    assert {"seed", "env_steps", "version", "machine"} <= made.keys()


def test_the_page_says_what_their_files_say():
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == NAMES
    for name, env_steps, mean in rows:
        told = pretrained.describe(name)
        scores = told["made"]["scores"]
        assert (int(env_steps.replace(",", "")), float(mean)) == (told["env_steps"], scores["mean"])
        assert scores["episodes"] == len(scores["returns"]) == 20 and told["made"]["seed"] == 0
        assert scores["mean"] == pytest.approx(np.mean(scores["returns"]), abs=0.1)
        assert (told["config"]["algorithm"], told["config"]["preset"]) == ("lsp", "cpu")


@pytest.mark.parametrize("name", NAMES)
def test_each_acts(name):
    """100 agent steps, far above what chance earns there."""
    agent = lsp_fast.load(f"pretrained:{name}", device="cpu")
    env = envs.make(name)
    observation, _ = env.reset(seed=0)
    carry, rewards = agent.initial_carry(1), []
    for _ in range(100):
        action, carry = agent.policy(observation[None], carry)
        observation, reward, *_ = env.step(action[0])
        rewards.append(reward)
    assert np.mean(rewards[50:]) > 0.4  # of 2, two environment steps each


@pytest.fixture(scope="module")
def written(smoke, tmp_path_factory):
    """A run, and what is written of it."""
    folder = tmp_path_factory.mktemp("pretrained")
    train(smoke(env_steps=1000, task="walker_walk"), folder / "run", progress=False)
    config, state = sources.read_run(folder / "run")
    pretrained.write(config, state, {"command": "lsp-fast train"}, "walker", folder / "kept")
    return folder, config, state


def test_weights_are_those_of_the_run_up_to_sixteen_bits(written):
    folder, config, state = written
    read_config, read_state = pretrained.read("walker", folder / "kept")
    assert read_config == config
    assert {k: read_state[k] for k in ("env_steps", "observation", "action_dim", "goals")} == {
        k: state[k] for k in ("env_steps", "observation", "action_dim", "goals")
    }
    theirs, ours = state["agent"]["modules"], read_state["agent"]["modules"]
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype
        tolerance = 2e-3 if tensor.numel() >= pretrained.SMALL else 0
        torch.testing.assert_close(ours[key], tensor, rtol=tolerance, atol=1e-7 if tolerance else 0)


def test_a_run_of_ours_becomes_one(written, tmp_path, monkeypatch):
    """Scored as it is written, and without what concerns the machine that made it."""
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    spec = importlib.util.spec_from_file_location("making_pretrained", benchmarks / "pretrained.py")
    making = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(making)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    run = shutil.copytree(written[0] / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text()) | {"log": ["wandb"], "max_minutes": 5.0, "threads": 3}
    (run / "config.json").write_text(json.dumps(config))
    made = making.make(run, "walker", "lsp-fast train", 2, 7)
    told = pretrained.describe("walker")
    assert told["made"] == made and made["command"] == "lsp-fast train" and made["env_steps"] == 1000
    agent = lsp_fast.load("pretrained:walker", device="cpu")
    with evaluate.Evaluator(agent.config, 2) as evaluator:
        assert made["scores"]["returns"] == [round(x, 1) for x in evaluator.run_agent(agent, 7).returns]
    ours = pretrained.read("walker")[0]
    assert (ours.device, ours.threads, ours.log, ours.max_minutes) == ("auto", 0, Config().log, 0)
    assert ours.model == written[1].model


def test_a_weight_that_sixteen_bits_cannot_hold_is_refused(written, tmp_path):
    _, config, state = written
    modules = {"large": torch.full((2000,), 1e6)}
    with pytest.raises(LspFastError, match="65504"):
        pretrained.write(config, {**state, "agent": {"modules": modules}}, {}, "x", tmp_path)
    assert not list(tmp_path.iterdir())


def test_steps_of_another_version_are_refused():
    with pytest.raises(CheckpointError, match="has learned for 100000 environment steps, not 5"):
        sources.read_state("pretrained:cheetah_run", 5)


def test_damaged_files_are_named(written, tmp_path):
    folder = written[0] / "kept"
    (tmp_path / "walker.json").write_text((folder / "walker.json").read_text())
    with pytest.raises(CheckpointError, match="install the package anew"):
        pretrained.read("walker", tmp_path)
    (tmp_path / "walker.safetensors").write_bytes((folder / "walker.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="install the package anew"):
        pretrained.read("walker", tmp_path)
    (tmp_path / "walker.json").write_text("{")
    with pytest.raises(CheckpointError, match="install the package anew"):
        pretrained.read("walker", tmp_path)


def test_a_transfer_begins_from_one_and_goes_on(tmp_path, capsys):
    source = NAMES[0]
    weights = pretrained.read(source)[1]["agent"]["modules"]
    argv = ["transfer", "--source", f"pretrained:{source}", "--task", source, "--freeze-policy", "--device", "cpu"]
    argv += ["--logdir", str(tmp_path / "run"), "--env-steps"]
    assert main([*argv, "600"]) == 0
    config = RunFolder(tmp_path / "run").read_config()
    taken = config.transfer.source, config.transfer.source_env_steps
    assert taken == (f"pretrained:{source}", pretrained.describe(source)["env_steps"])
    assert main([*argv, "1200"]) == 0, capsys.readouterr().err
    state = sources.read_state(tmp_path / "run")
    assert state["env_steps"] == 1200
    for key, tensor in state["agent"]["modules"].items():
        if key.startswith("actor"):
            assert torch.equal(tensor, weights[key])


@pytest.mark.parametrize(
    "argv, said",
    [
        ("evaluate", "name one agent: --logdir FOLDER of a run, or --pretrained NAME"),
        ("evaluate --pretrained x --logdir y", "name one agent"),
        ("evaluate --pretrained walker_runs", "did you mean pretrained:walker_run?"),
        ("skills", "name one agent"),
        ("skills --pretrained nothing", "there is no pretrained:nothing"),
        ("evaluate --logdir pretrained:nothing", "there is no pretrained:nothing"),
        ("transfer --source pretrained:nothing --task walker_run", "there is no pretrained:nothing"),
        ("transfer --source pretrained:cheetah_run --task cheetah_run --relabel", "comes without experience"),
        ("transfer --source pretrained:cheetah_run --task walker_run", "nothing can be taken over"),
    ],
)
def test_what_cannot_be_is_refused(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*argv.split(), "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_evaluate_and_skills_take_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "cheetah_run"
    assert main(["evaluate", "--pretrained", name, "--episodes", "1", "--device", "cpu"]) == 0
    assert float(capsys.readouterr().out.split()[1]) > 500
    assert main(["skills", "--pretrained", name, "--count", "2", "--env-steps", "8", "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "runs/cheetah_run-skills/skills.json").read_text())["task"] == name
