"""Agents that come with the package: `pretrained:NAME` is read wherever a run's folder is."""

import json

import numpy as np
import pytest
import torch

import lsp_fast
from lsp_fast import envs
from lsp_fast.cli import main
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


def test_a_weight_that_sixteen_bits_cannot_hold_is_refused(written, tmp_path):
    _, config, state = written
    modules = {"large": torch.full((2000,), 1e6)}
    with pytest.raises(LspFastError, match="65504"):
        pretrained.write(config, {**state, "agent": {"modules": modules}}, {}, "x", tmp_path)
    assert not list(tmp_path.iterdir())


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
    assert (
        config.transfer.source == f"pretrained:{source}"
        and config.transfer.source_env_steps == pretrained.describe(source)["env_steps"]
    )
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
