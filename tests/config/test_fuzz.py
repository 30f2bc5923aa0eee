"""Whatever the configuration says: it is refused by name, or an agent with it acts and learns."""

import dataclasses
import json
import math
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import ALGORITHMS, PRESETS, Config, base_config, check, from_dict, replace, to_dict
from lsp_fast.errors import ConfigError
from lsp_fast.models.world_model import SequenceBatch

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def leaves(cls=Config, prefix=""):
    """Every dotted name with the type it asks for."""
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from leaves(hints[f.name], f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, hints[f.name]


LEAVES = dict(leaves())
# What says where and how long, not what: an agent is built on the CPU whatever these are. `train.precision` asks for
# a backend's instruction, which the reference here has not.
ELSEWHERE = {"device", "backend", "threads", "preset", "algorithm", "task", "train.precision"}
SIZED = sorted(set(LEAVES) - ELSEWHERE)


def small(hint):
    """Values of a field's own type: bounds, ordinary ones, and some that must be refused."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(-1, 5)
    return st.one_of(st.sampled_from([0.0, -0.0, 1e-30, 1.0, 1e3, -1.0, math.nan, math.inf]), st.floats(0, 2))


@given(st.dictionaries(st.sampled_from(sorted(LEAVES)), JUNK, min_size=1, max_size=3))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_junk_is_refused_or_survives_json(values):
    config = replace(Config(), values)
    try:
        check(config)
    except ConfigError as error:
        assert any(name in str(error) for name in values)
        return
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@given(st.recursive(JUNK, lambda inner: st.dictionaries(st.sampled_from(["model", "seed", "x"]), inner, max_size=3)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_json_is_a_configuration_or_refused(data):
    try:
        from_dict(data)
    except ConfigError:
        return
    raise AssertionError("accepted")


@given(st.sampled_from(sorted(ALGORITHMS)), st.data())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_what_is_accepted_acts_and_learns(algorithm, data):
    names = data.draw(st.lists(st.sampled_from(SIZED), min_size=1, max_size=4, unique=True))
    values = {name: data.draw(small(LEAVES[name]), label=name) for name in names}
    config = replace(base_config("smoke", algorithm), {"device": "cpu", "backend": "reference", **values})
    try:
        check(config)
    except ConfigError:
        return
    agent = ImaginationAgent(3, 2, config)
    b, length = config.train.batch_size, config.train.batch_length
    batch = SequenceBatch(
        torch.rand(b, length, 3),
        torch.rand(b, length, 2),
        torch.rand(b, length),
        torch.zeros(b, length),
        torch.zeros(b, length, dtype=torch.bool),
    )
    metrics = agent.update(batch, diagnose=True)
    assert all(value.shape == () for value in metrics.values())
    actions, _ = agent.policy(np.zeros((1, 3), np.float32), agent.initial_carry(1, explore=True))
    assert actions.shape == (1, 2)


def test_the_presets_are_accepted():
    for preset in PRESETS:
        for algorithm in ALGORITHMS:
            check(base_config(preset, algorithm))
