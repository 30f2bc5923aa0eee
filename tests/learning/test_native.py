"""An agent whose learning runs in C++ learns what the reference's does, with every option, on any number of threads."""

import copy

import numpy as np
import pytest
import torch
from agents.test_update import OBS, batches, build

from lsp_fast import ops
from lsp_fast.backends import cpp, cpp_learning
from lsp_fast.models import world_model
from lsp_fast.ops import densities

OPTIONS = {
    "discount head, task value": {"model__discount_head": "on", "planner__value": "task"},
    "starts": {"skill__length": 3, "train__batch_size": 3, "train__batch_length": 5, "behavior__plan_states": 7},
    "compose": {"skill__mi": "compose"},
    "value sees the skill": {"value__skill": True, "predictor__inputs": "per_step"},
    "ends": {"predictor__inputs": "ends", "skill__intrinsic_form": "end"},
    "every": {"skill__intrinsic_form": "every"},
    "several plans": {"skill__per_plan": 3, "planner__warm_start": True},
    "normalised": {"model__normalize_observations": True},
    "slow and replayed values": {"value__slow": 0.1, "value__replay": 0.3, "planner__value": "task"},
    "slow value": {"value__slow": 0.01, "value__learning_rate": 1e-2},
    "symlog": {"model__normaliser": "symlog"},
    "normed": {"model__norm": True},
    "balanced": {"model__kl_balance": 0.8, "model__free_nats": 0.0},
}


def assert_learns_alike(updates=3, diagnose=(1,), **overrides):
    native, plain = build(backend="cpp", **overrides), build(**overrides)
    for i, batch in enumerate(batches(plain.config, updates)):
        got, want = (agent.update(batch, diagnose=i in diagnose) for agent in (native, plain))
        assert got.keys() == want.keys()
        for name, value in want.items():
            error, scale = (got[name] - value).abs().item(), max(value.abs().item(), 1e-2)
            assert error <= 2e-4 * scale, f"{name} of update {i}: off by {error} of {scale}"


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_learns_alike(option):
    assert_learns_alike(**OPTIONS[option])


def test_layers_that_are_normed_are_said_to_be_pytorchs_once():
    world_model._say_once.cache_clear()
    agent = build(backend="cpp", model__norm=True)
    with pytest.warns(UserWarning, match=r"model\.norm: PyTorch computes encoder and decoder") as told:
        for batch in batches(agent.config, 2):
            agent.update(batch)
    assert len(told) == 1


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("algorithm", ["lsp", "dreamer", "planet"])
def test_the_native_operations_are_what_an_update_calls(algorithm, composed, monkeypatch):
    called = set()
    parts = "mlp_forward", "observe_forward", "imagine_forward", "log_prob", "kl_divergence", "entropy"
    for name in (*parts, "world_model", "behavior"):
        function = getattr(cpp.load(), name)
        monkeypatch.setattr(cpp.load(), name, lambda *x, name=name, function=function: called.add(name) or function(*x))
    for place, name in (
        (ops, "mlp"), (ops, "observe"), (ops, "imagine"),
        (densities, "log_prob"), (densities, "kl_divergence"), (densities, "entropy"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, lambda *x, name=name: pytest.fail(f"the reference's {name} was called"))
    # A discount head is what whole losses do not know.
    agent = build(algorithm, "cpp", model__discount_head="on" if composed else "off")
    agent.update(next(batches(agent.config)))
    imagines = algorithm != "planet"
    if composed:
        imagined = {"imagine_forward", "entropy"} if imagines else set()
        assert called == {"mlp_forward", "observe_forward", "log_prob", "kl_divergence"} | imagined
    else:
        assert called == {"world_model"} | ({"behavior"} if imagines else set())


def test_an_updates_bits_do_not_depend_on_the_number_of_threads():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            agent = build(backend="cpp")
            for batch in batches(agent.config, 3):
                agent.update(batch)
            assert torch.get_num_threads() == threads
            found.append(copy.deepcopy(agent.modules.state_dict()))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[k], v) for k, v in found[0].items())


def test_a_frozen_policy_keeps_its_bytes():
    agent = build(backend="cpp")
    agent.frozen = {"actor", "predictor"}
    held = {k: v.clone() for k, v in agent.modules.state_dict().items()}
    for batch in batches(agent.config, 2):
        agent.update(batch)
    moved = {k.split(".")[0] for k, v in agent.modules.state_dict().items() if not torch.equal(v, held[k])}
    assert moved == {"world_model", "value"}


def test_a_failed_update_gives_pytorch_its_threads_back():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), cpp.alone():
        assert torch.get_num_threads() == 1 and cpp_learning._threads() == before
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("algorithm", ["lsp", "dreamer", "planet", "hiro"])
def test_pytorch_keeps_to_one_thread_while_it_acts_and_learns(algorithm, monkeypatch):
    # Its threads wait for each other by spinning: beside a busy process a step took forty times as long.
    before, seen = torch.get_num_threads(), []
    agent = build(algorithm, "cpp")
    monkeypatch.setattr(torch, "tanh", lambda x, tanh=torch.tanh: seen.append(torch.get_num_threads()) or tanh(x))
    torch.set_num_threads(3)
    try:
        agent.policy(np.zeros((2, OBS), np.float32), agent.initial_carry(2))
        agent.update(next(batches(agent.config)))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen) <= {1}
    assert seen or algorithm == "planet"
