"""The experiments' files name tasks, algorithms and values that there are, and transfers that fit."""

import json
from pathlib import Path

import pytest

from lsp_fast import envs
from lsp_fast.config import ALGORITHMS
from lsp_fast.experience.relabel import relabeller
from lsp_fast.sweeps import sweep

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.toml"))
SCREENS = sorted((FOLDER / "screen").glob("*.toml"))


@pytest.mark.parametrize("path", FILES + SCREENS, ids=lambda path: path.stem)
def test_every_run_can_be_begun(path, tmp_path):
    cells = sweep.read(path, tmp_path)
    assert {cell.config.seed for cell in cells} == {0, 1, 2}
    by_folder = {cell.folder: cell for cell in cells}
    for cell in cells:
        if cell.source is None:
            continue
        source = by_folder[cell.source]
        pairs = {(cell.config.task, source.config.task)}
        if cell.config.transfer.relabel:
            for target, before in pairs:
                relabeller(before, target, 2)
    transfers = {(cell.config.task, by_folder[cell.source].config.task) for cell in cells if cell.source is not None}
    for tasks in transfers:
        spaces = [envs.make(task) for task in tasks]
        assert spaces[0].observation_space.shape == spaces[1].observation_space.shape
    assert list(tmp_path.iterdir()) == []


def methods(name):
    return {cell.config.method for cell in sweep.read(FOLDER / f"{name}.toml", "runs") if "from" in cell.folder.name
            or cell.source is None}  # fmt: skip


def test_there_is_one_for_each_of_the_papers_figures():
    assert {path.stem for path in FILES} == {
        "fig4", "fig5_getup_walk_to_reach", "fig5_walk_to_reach_relabelled", "fig6b", "fig8_obstacles_to_cove", "fig9",
        "systems_cpu", "shared_noise_cpu", "protocol_100k", "transfer_cpu",
    }  # fmt: skip
    cells = sweep.read(FOLDER / "fig4.toml", "runs")
    pixels = {cell.config.task for cell in cells if cell.config.obs == "pixels"}
    assert pixels == {"cheetah_run", "quadruped_run", "walker_run"}
    assert all(cell.config.env_steps == 1_000_000 and cell.config.preset == "gpu" for cell in cells)
    assert methods("fig4") == {"lsp", "dreamer", "random_skills", "rand_skills_init", "hiro_mi"}
    assert methods("fig5_getup_walk_to_reach") == {"lsp", "lsp, fixed policy", "dreamer", "hiro_mi"}
    assert "lsp, fixed policy, relabelled" in methods("fig5_walk_to_reach_relabelled")
    assert methods("fig6b") == {"lsp", "no_mi", "dreamer"}
    noises = {cell.config.predictor.noise for cell in sweep.read(FOLDER / "fig9.toml", "runs")}
    assert noises == {0, 0.1, 0.3, 1} and len(methods("fig9")) == 4
    assert methods("systems_cpu") == set(ALGORITHMS)


def test_long_skills_are_the_targets_alone():
    cells = sweep.read(FOLDER / "fig8_obstacles_to_cove.toml", "runs")
    lengths = {(cell.source is not None, cell.config.method): (cell.config.skill.length, cell.config.behavior.horizon)
               for cell in cells}  # fmt: skip
    assert lengths[False, "lsp"] == (10, 10) and lengths[True, "lsp, fixed policy"] == (30, 120)
    assert lengths[True, "dreamer"] == (10, 15)
    assert json.dumps([cell.overrides for cell in cells])  # all of it plain values


def test_the_protocol_gives_every_method_as_many_rollouts():
    cells = sweep.read(FOLDER / "protocol_100k.toml", "runs")
    assert len(cells) == 4 * 4 * 3 and methods("protocol_100k") == {"lsp", "no_mi", "dreamer", "random_skills"}
    assert {cell.config.task for cell in cells} == {"walker_walk", "cheetah_run", "walker_run", "quadruped_walk"}
    for c in (cell.config for cell in cells):
        per_plan = 1 if c.skill.source == "none" else c.skill.per_plan
        assert (c.env_steps, c.start_states * per_plan, c.obs) == (100_000, 128, "features")


def test_the_transfers_rows_of_one_method_share_a_source():
    cells = sweep.read(FOLDER / "transfer_cpu.toml", "runs")
    sources, targets = ([cell for cell in cells if (cell.source is None) == first] for first in (True, False))
    assert [cell.config.method for cell in sources] == ["lsp", "no_mi", "dreamer"] * 3
    assert [cell.config.method for cell in targets] == ["lsp", "lsp, fixed policy", "no_mi", "dreamer"] * 3
    assert {cell.config.env_steps for cell in sources} == {250_000}
    assert {(cell.config.task, cell.config.env_steps) for cell in targets} == {("quadruped_getup_reach", 100_000)}


@pytest.mark.parametrize("path", SCREENS, ids=lambda path: path.stem)
def test_a_screen_sets_a_mend_beside_what_is_there_and_is_explained(path):
    cells = [cell for cell in sweep.read(path, "runs") if cell.source is None]
    labels = list(dict.fromkeys(cell.config.method for cell in cells))
    assert len(labels) >= 2 and labels[0] in ("lsp", "no_mi")
    assert all(20_000 <= cell.config.env_steps <= 60_000 and cell.config.preset == "cpu" for cell in cells)
    assert f"| `{path.stem}` |" in (FOLDER / "README.md").read_text()
