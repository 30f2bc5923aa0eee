"""What a run will need, against what it took."""

import re
import subprocess
import sys

import numpy as np
import pytest

from lsp_fast import machine
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.experience.replay import Replay
from lsp_fast.models.conv import SHAPE
from lsp_fast.storage import checkpoint, resources
from lsp_fast.training.loop import train
from lsp_fast.training.trainer import Trainer


def estimate(config):
    agent = ImaginationAgent(17, 6, config)
    parameters = sum(p.numel() for p in agent.modules.parameters())
    return resources.estimate(config, "reference", 17, 6, parameters), parameters


def test_the_disk_is_enough_and_not_far_too_much(smoke, tmp_path):
    config = smoke(env_steps=2500, train__log_every=10, train__checkpoint_every=100)
    train(config, tmp_path / "run", progress=False)
    taken = machine.folder_size(tmp_path / "run")
    needs, _ = estimate(config)
    assert taken < needs.disk < 4 * taken + 2_000_000


def test_a_checkpoint_and_the_replay_are_counted_whole(smoke):
    small, parameters = estimate(make_config("paper", device="cpu", env_steps=1_000_000))
    rows = 500_000 * (4 * (17 + 6 + 2) + 1)
    assert small.disk > rows + 3 * (checkpoint.KEEP + 1) * 4 * parameters
    assert small.memory > rows + machine.process_memory()
    half, _ = estimate(make_config("paper", device="cpu", env_steps=500_000))
    assert small.disk - half.disk > rows / 2
    capped, _ = estimate(make_config("paper", device="cpu", env_steps=1_000_000, collect__replay_capacity=1000))
    assert capped.memory < small.memory - rows and capped.disk == small.disk


def test_planning_from_more_states_needs_more_memory():
    few, many = (estimate(make_config("paper", device="cpu", behavior__plan_states=n))[0] for n in (100, 2500))
    assert many.memory > few.memory + 500_000_000


@pytest.mark.slow
def test_the_goals_that_hiro_keeps_are_counted(smoke, tmp_path):
    config = smoke("hiro", env_steps=2500, train__log_every=10, train__checkpoint_every=100)
    trainer = Trainer(config, tmp_path / "replay")
    parameters = sum(p.numel() for p in trainer.agent.modules.parameters())
    with_goals, without = (
        resources.estimate(config, "reference", 17, 6, parameters, extras=n) for n in (trainer.replay.extras_dim, 0)
    )
    assert with_goals.disk - without.disk >= 1250 * 18 * 4
    train(config, tmp_path / "run", progress=False)
    taken = machine.folder_size(tmp_path / "run")
    assert taken < with_goals.disk < 4 * taken + 2_000_000


def test_frames_are_counted_in_bytes():
    config = make_config("cpu", device="cpu", obs="pixels")
    agent = ImaginationAgent(SHAPE, 6, config)
    parameters = sum(p.numel() for p in agent.modules.parameters())
    frames = resources.estimate(config, "reference", 64 * 64 * 3, 6, parameters)
    numbers = resources.estimate(make_config("cpu", device="cpu"), "reference", 64 * 64 * 3, 6, parameters)
    rows = config.env_steps // 2
    assert rows * 64 * 64 * 3 < frames.disk < numbers.disk - rows * 64 * 64 * 3 * 2
    assert frames.memory > resources.estimate(make_config("cpu", device="cpu"), "reference", 17, 6, parameters).memory


def test_both_are_counted_in_bytes_too():
    needs = {}
    for obs, sizes in (("pixels", SHAPE), ("both", (SHAPE, 17))):
        config = make_config("cpu", device="cpu", obs=obs)
        agent = ImaginationAgent(sizes, 6, config)
        replay = Replay(10, agent.observation, 6, dtype=np.uint8)
        width = replay._rows.observation.itemsize * replay.observation_dim
        assert width == 64 * 64 * 3 + 4 * 17 * (obs == "both")
        needs[obs] = resources.estimate(config, "reference", replay.observation_dim, 6, 0)
    rows = make_config("cpu").env_steps // 2
    assert rows * 4 * 17 <= needs["both"].disk - needs["pixels"].disk < 1.1 * rows * 4 * 17
    assert needs["both"].memory > needs["pixels"].memory + rows * 4 * 17


def test_a_gpus_memory_is_counted_apart():
    config = make_config("gpu", device="cpu", backend="reference")
    host, parameters = estimate(config)
    needs = resources.estimate(config, "triton", 17, 6, parameters, gpu=True)
    assert needs.memory < host.memory and needs.disk == host.disk
    assert 1e9 < needs.gpu < 80e9 and "of the GPU's" in str(needs) and "GPU" not in str(host)


def test_memory_available_is_known_here():
    assert 0 < machine.memory_available() < 1e14
    assert machine.process_memory() > 50e6


def test_room_is_looked_for_where_the_folder_will_lie(tmp_path):
    assert machine.disk_free(tmp_path / "a" / "b") == pytest.approx(machine.disk_free(tmp_path), rel=0.01)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.0 kB"), (999_000, "999 kB"), (2_345_678, "2.3 MB"), (12e9, "12 GB"), (np.int64(5e12), "5000 GB")],
)
def test_sizes_for_people(size, text):
    assert machine.size_text(size) == text


MEASURED = """
import sys
from lsp_fast import machine
from lsp_fast.cli import main
assert main(sys.argv[1:]) == 0
print("took", machine.process_memory() / 1e6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["lsp", "dreamer"])
def test_the_memory_is_enough_and_at_most_a_seventh_too_much(tmp_path, algorithm):
    """What is loaded and compiled only later is counted; a short run of small networks is nearly all of that."""
    command = f"train --preset smoke --algorithm {algorithm} --device cpu --logdir {tmp_path / 'run'}"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command.split()], capture_output=True, text=True, check=True
    )
    [said] = re.findall(r"needs about ([\d.]+) MB of memory", done.stderr)
    [took] = re.findall(r"took ([\d.]+)", done.stdout)
    assert float(took) <= float(said) <= 1.15 * float(took)


def test_what_comes_later_and_what_is_held_of_small_blocks_is_counted():
    def beyond(preset):
        needs = resources.estimate(make_config(preset, device="cpu", env_steps=1200), "reference", 17, 6, 0)
        return needs.memory - machine.process_memory() - resources.LATER

    assert 0 < beyond("smoke") < 10_000_000 and beyond("paper") > resources.HELD
