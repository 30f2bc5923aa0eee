"""Options of behaviour in whole runs: they train, and go on to the same end (SPEC section 8)."""

import pytest
import torch

from lsp_fast.storage import checkpoint
from lsp_fast.training.loop import train

BRIEF = {
    "task": "gym:Pendulum-v1",  # episodes of 200 steps
    "collect__prefill": 200,
    "train__eval_every": 10_000,
    "train__checkpoint_every": 10_000,
}
OPTIONS = {
    "beta by gradients": {"skill__beta_kind": "gradient", "skill__beta_every": 4, "predictor__normalise": True},
    "random starts": {"skill__random_share": 0.5, "behavior__starts": 8, "skill__offset": "off"},
    "a policy that stays in range": {
        "skill__input_scale": 3.0, "actor__saturation": 0.1, "actor__entropy_kind": "range",
    },
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_a_run_and_one_in_two_parts_are_the_same(smoke, tmp_path, option):
    values = {**BRIEF, **OPTIONS[option]}
    whole = train(smoke(env_steps=620, **values), tmp_path / "whole", progress=False)
    train(smoke(env_steps=430, **values), tmp_path / "parts", progress=False)
    parts = train(smoke(env_steps=620, **values), tmp_path / "parts", progress=False)
    assert whole.finished and parts.finished and parts.resumed_at == 430 and whole.score == parts.score
    a, b = (checkpoint.load(result.checkpoint)["agent"]["modules"] for result in (whole, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
