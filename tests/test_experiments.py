"""The experiments' files name tasks, algorithms and values that there are, and transfers that fit."""

import tomllib
from pathlib import Path

import pytest

from lsp_fast import envs
from lsp_fast.config import ALGORITHMS, make_config
from lsp_fast.relabel import relabeller

FOLDER = Path(__file__).parents[1] / "experiments"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_a_transfer_can_be_begun(path):
    plan = tomllib.loads(path.read_text())
    assert set(plan) == {"preset", "seeds", "source", "target", "runs"} and plan["seeds"] == [0, 1, 2]
    source, target = plan["source"], plan["target"]
    spaces = []
    for run in plan["runs"]:
        assert set(run) <= {"algorithm", "freeze_policy", "relabel"} and run["algorithm"] in ALGORITHMS
        for task in (source, target):
            changes = {"env_steps": task["env_steps"]}
            if "horizon" in task and run["algorithm"] != "dreamer":
                changes |= {"skill__length": task["skill_length"], "behavior__horizon": task["horizon"]}
            make_config(plan["preset"], run["algorithm"], task=task["task"], **changes)
        if run.get("relabel"):
            relabeller(source["task"], target["task"], 2)
    for task in (source, target):
        env = envs.make(task["task"])
        spaces.append((env.observation_space.shape, env.action_space.shape))
    assert spaces[0] == spaces[1]


def test_there_is_one_for_each_of_the_papers_transfers():
    assert len(list(FOLDER.glob("*.toml"))) == 3
