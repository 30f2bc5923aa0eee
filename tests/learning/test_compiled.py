"""Learning that is filtered by the scan, or compiled, equals learning that is not.

Most tests trace as torch.compile does and leave out its code generator, which takes minutes; the slow ones use it.
"""

import copy
import json

import numpy as np
import pytest
import torch
from agents.test_update import STORED, batches, build, losses

from lsp_fast.config import ALGORITHMS, make_config
from lsp_fast.errors import BackendUnavailable, ConfigError
from lsp_fast.experience.replay import Batch
from lsp_fast.learning import compiled
from lsp_fast.training.learner import Learner, NotFinite

ROWS = [name for name in ALGORITHMS if not name.startswith("hiro")]


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()


def assert_learns_alike(updates=3, diagnose=(), tolerance=1e-4, **overrides):
    fast, plain = build(train__compile=True, **overrides), build(**overrides)
    for i, batch in enumerate(batches(plain.config, updates)):
        got, want = (agent.update(batch, diagnose=i in diagnose) for agent in (fast, plain))
        assert got.keys() == want.keys()
        for name, value in want.items():
            error, scale = (got[name] - value).abs().item(), max(value.abs().item(), 1e-2)
            assert error <= tolerance * scale, f"{name} of update {i}: off by {error} of {scale}"


@pytest.mark.parametrize("algorithm", ROWS)
def test_ten_updates_by_the_scan_reproduce_the_stored_losses(algorithm):
    stored = json.loads(STORED.read_text())[algorithm]
    for name, values in losses(algorithm, train__observe="scan").items():
        np.testing.assert_allclose(values, stored[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "algorithm", [row if row == "lsp" else pytest.param(row, marks=pytest.mark.slow) for row in ROWS]
)
def test_every_row_learns_alike_when_traced(algorithm, traced):
    assert_learns_alike(algorithm=algorithm, diagnose=(1,), train__observe="scan")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"train__observe": "steps"},
        {"model__discount_head": "on", "planner__value": "task"},
        {"skill__length": 3, "train__batch_size": 3, "train__batch_length": 5, "behavior__plan_states": 7},
        {"skill__mi": "compose"},
        {"value__skill": True, "predictor__inputs": "per_step"},
        {"backend": "cpp"},
        {
            "value__slow": 0.1,
            "value__replay": 0.3,
            "value__clip_targets": True,
            "planner__value": "task",
            "model__kl_balance": 0.8,
        },
    ],
)
def test_options_learn_alike_when_traced(overrides, traced):
    try:
        assert_learns_alike(updates=2, **{"train__observe": "scan", **overrides})
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_compiled_learning_goes_on_to_the_bit(traced):
    options = {"train__compile": True, "train__observe": "scan"}
    agent, sequences = build(**options), list(batches(build().config, 4))
    for batch in sequences[:2]:
        agent.update(batch)
    state = copy.deepcopy(agent.state_dict())
    torch._dynamo.reset()
    restored = build(**options)
    restored.load_state_dict(state)
    for batch in sequences[2:]:
        agent.update(batch)
        restored.update(batch)
    pairs = zip(agent.modules.parameters(), restored.modules.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_what_is_not_finite_is_located(traced):
    agent = build(train__compile=True, train__observe="scan")
    batch = next(batches(agent.config))
    batch.observation[2, 3] = torch.nan

    class Held:
        def draw(self, rng, sequences, length):
            return np.arange(sequences), np.zeros(sequences, int)

    agent.sample = lambda replay, rng: Batch(*(x.numpy() for x in batch))
    with pytest.raises(NotFinite, match=r"nan as observation of sequence 2, row 3"):
        Learner(agent, Held(), 0).learn(0)


@pytest.mark.parametrize("overrides", [{"train__compile": True}, {"train__observe": "scan"}])
def test_hiro_has_nothing_to_compile(overrides):
    with pytest.raises(ConfigError, match=r"train\.(compile|observe).*HIRO"):
        make_config("smoke", "hiro", **overrides)


def test_a_compiler_that_cannot_be_had_is_named(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "no_such_compiler")
    with pytest.raises(BackendUnavailable, match=r"train\.compile: .*--train\.no-compile"):
        compiled.check_compiler(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [{}, {"model__discount_head": "on", "skill__length": 2}])
def test_inductor_learns_alike(overrides):
    compiled.check_compiler(torch.device("cpu"))
    small = {"train__batch_length": 2, "behavior__horizon": 2, "skill__length": 1, "train__observe": "scan"}
    assert_learns_alike(updates=2, **{**small, **overrides})
