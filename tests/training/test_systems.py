"""Every system of the paper's comparison: it trains, evaluates, checkpoints and goes on (SPEC section 5)."""

import json

import pytest
import torch

from lsp_fast.config import ALGORITHMS
from lsp_fast.evaluate import Evaluator, load
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training.loop import train


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_and_one_in_two_parts_are_the_same(smoke, tmp_path, algorithm):
    values = {"train__eval_every": 600, "train__log_every": 100}
    whole = train(smoke(algorithm, env_steps=1130, **values), tmp_path / "whole", progress=False)
    train(smoke(algorithm, env_steps=1060, **values), tmp_path / "parts", progress=False)
    parts = train(smoke(algorithm, env_steps=1130, **values), tmp_path / "parts", progress=False)
    assert whole.finished and parts.finished and parts.resumed_at == 1060
    assert whole.updates == parts.updates > 0
    a, b = (checkpoint.load(result.checkpoint)["agent"]["modules"] for result in (whole, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert whole.score == parts.score
    [row] = json.loads(whole.scores.read_text())
    assert row["method"] == algorithm and row["xs"] == [1000, 1130]
    metrics = set().union(*read_rows(whole.folder / "metrics.jsonl"))
    assert any(name.endswith("loss") for name in metrics)

    agent = load(whole.folder, device="cpu")
    assert (
        Evaluator(agent.config, 1).run_agent(agent, 3).returns == Evaluator(agent.config, 1).run_agent(agent, 3).returns
    )
