"""Runs made before the modules moved into wings (commit a9e9230) go on, evaluate, plot and sweep as they did there.

`tests/data/before_wings` holds three folders and what that commit made of them: a run on the arena, its relabelled
transfer, and a HIRO stopped in the middle of an episode.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lsp_fast import evaluate
from lsp_fast.cli import main
from lsp_fast.config import make_config, replace, to_dict
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.sweeps import sweep
from lsp_fast.training.loop import train

DATA = Path(__file__).parents[1] / "data" / "before_wings"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def arithmetic() -> str:
    """A digest of this machine's float32: where it differs, the same code gives other last digits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 102, generator=generator)
    for width in (16, 48, 400):
        x = F.elu(F.linear(x, torch.randn(width, x.shape[1], generator=generator) / 10))
        x = torch.tanh(x) + F.softplus(x) * torch.sigmoid(x) + torch.exp(-x * x)
    return hashlib.sha256(x.sum(0).numpy().tobytes() + torch.__version__.encode()).hexdigest()


SAME = arithmetic() == EXPECTED["arithmetic"]


NEWER = {"planner/plan_value", "planner/gain", "planner/gain_error", "skill/information", "skill/action_spread"}
"""Metrics that these runs did not log."""
OTHER = {"behavior/log_q_minus_log_p"}
"""Metrics that have changed their meaning: p did not have epsilon's variance."""


def agree(found, expected):
    """Equal to the last digit; on a machine that rounds differently, the first losses to 1e-3."""
    if SAME:
        left_out = NEWER | OTHER
        assert {k: v for k, v in found.items() if k not in left_out} == {
            k: expected[k] for k in expected.keys() - OTHER
        }
    else:
        losses = {k: v for k, v in expected.items() if k.startswith(("world_model/", "hiro/")) and k.endswith("loss")}
        assert {k: found[k] for k in losses} == pytest.approx(losses, rel=1e-3)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Copies in a folder of their own; the transfer names its source relative to it."""
    for name in ("source", "transfer", "hiro"):
        shutil.copytree(DATA / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["source", "transfer", "hiro"])
def test_an_older_run_evaluates_and_goes_on(runs, name):
    expected = EXPECTED[name]
    agent = evaluate.load(name, device="cpu", backend="reference")
    returns = evaluate.Evaluator(agent.config, 2).run_agent(agent, 7).returns
    assert len(returns) == 2
    assert not SAME or returns == expected["returns"]
    had = len(Path(name, "metrics.jsonl").read_text().splitlines())
    # As today's command asks: `auto` keeps what the run began with.
    config = replace(RunFolder(name).read_config(), {"env_steps": expected["env_steps"], "planner.noise": "auto"})
    assert train(config, name, progress=False).finished
    rows = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()][had:]
    assert len(rows) == len(expected["rows"])
    for found, told in zip(rows, expected["rows"], strict=True):
        agree({k: v for k, v in found.items() if k not in ("seconds", "updates_per_second")}, told)
    assert RunFolder(name).read_config().planner.noise == "tensors"


def test_older_runs_are_plotted_and_a_sweep_finds_them_finished(runs, capsys):
    assert main(["plot", "source", "transfer", "hiro", "--out", "curves.png"]) == 0
    table = capsys.readouterr().out
    assert "quadruped_obstacles  lsp" in table and "lsp, relabelled" in table and "hiro_mi" in table
    Path("again.toml").write_text(
        'preset = "smoke"\ndevice = "cpu"\nenv_steps = 1300\ncollect.prefill = 600\n'
        '[[tasks]]\ntask = "gym:Pendulum-v1"\n[[methods]]\nalgorithm = "hiro_mi"\n'
    )
    shutil.copytree("hiro", "out/gym-Pendulum-v1-hiro_mi-0")
    [cell] = sweep.read("again.toml", "out")
    assert cell.finished and cell.env_steps == cell.logged_env_steps == 1300


def test_an_older_dreamer_run_goes_on_by_todays_command_with_as_many_rollouts(tmp_path):
    asked, folder = make_config("cpu", "dreamer", task="walker_walk"), RunFolder(tmp_path / "run")
    older = to_dict(asked)
    del older["behavior"]["starts"]
    folder.path.mkdir()
    folder.config.write_text(json.dumps(older))
    for _ in range(2):  # it then says so itself
        config = folder.continued(asked)
        assert config.start_states == 32 and asked.start_states == 128
        assert folder.find(config) is None
        folder.claim(config)
    folder.release()
