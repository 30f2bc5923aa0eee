"""Planning's inner loop: the C++ kernels against the float64 reference, on every instruction set this machine has."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import build, to_float

from lsp_fast import ops
from lsp_fast.backends import cpp
from lsp_fast.errors import BackendUnavailable
from lsp_fast.ops.types import ImagineNoise, MLPWeights, State

try:
    cpp.load()
except BackendUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)


def runs(isa):
    try:
        call(*build(rows=1), isa=isa)
    except ValueError:
        return False
    return True


def call(*arguments, isa="auto"):
    return cpp.imagine_heads(*to_float(arguments), isa=isa)


ISAS = [isa for isa in ("avx512", "avx2", "portable") if runs(isa)]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 15, 16, 17, 33, 70]),
    stoch=st.integers(1, 9),
    deter=st.integers(1, 18),
    action=st.integers(1, 9),
    skill=st.integers(0, 4),
    units=st.lists(st.integers(1, 19), min_size=1, max_size=4),
    heads=st.integers(0, 3),
    steps=st.integers(1, 7),
    plan=st.integers(1, 3),
    sampled=st.booleans(),
    isa=st.sampled_from(ISAS),
)
def test_native_equals_the_reference(isa, **sizes):
    arguments = build(**sizes)
    if not sizes["heads"]:
        assert call(*arguments, isa=isa).shape == (0, sizes["steps"], sizes["rows"])
        return
    expected = ops.imagine_heads(*arguments)
    np.testing.assert_allclose(call(*arguments, isa=isa), expected, rtol=2e-5, atol=2e-5)


def test_a_louder_skill_is_one_that_was_multiplied():
    start, prior, actor, skills, *rest = build()
    expected = ops.imagine_heads(start, prior, actor, 3 * skills, *rest)
    louder = start, prior, actor._replace(skill_scale=3.0), skills, *rest
    np.testing.assert_allclose(ops.imagine_heads(*louder), expected, rtol=1e-12)
    np.testing.assert_allclose(call(*louder), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_the_error_is_that_of_float32_at_full_width(isa):
    arguments = build(rows=40, stoch=30, deter=200, action=6, units=(200, 200), steps=10)
    exact = ops.imagine_heads(*arguments)
    reference = (ops.imagine_heads(*to_float(arguments)) - exact).norm()
    assert (call(*arguments, isa=isa) - exact).norm() <= 2 * reference


def test_results_do_not_depend_on_threads():
    arguments = build(rows=200, steps=4)
    one = call(*arguments)
    torch.set_num_threads(3)
    try:
        three = call(*arguments)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, three)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_own_row(isa, value):
    start, *rest = build(rows=6)
    start.stoch[2, 1] = value
    poisoned = call(start, *rest, isa=isa)
    expected = ops.imagine_heads(start, *rest)
    rows = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(poisoned[:, :, rows], expected[:, :, rows], rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(poisoned[:, :, 2].isnan(), expected[:, :, 2].isnan())


@pytest.mark.parametrize("isa", ISAS)
def test_large_inputs_saturate_as_in_the_reference(isa):
    start, *rest = build(rows=4)
    start.stoch.mul_(1e3)
    expected = ops.imagine_heads(start, *rest)
    np.testing.assert_allclose(call(start, *rest, isa=isa), expected, rtol=1e-3, atol=1e-3)


def test_wrong_shapes_and_names_are_refused():
    start, prior, actor, skills, length, noise, heads = build()
    bad = {
        "gru.input": (State(start.stoch, start.deter[:, :2]), prior, actor, skills, length, noise, heads),
        "stoch_noise": (start, prior, actor, skills, length, ImagineNoise(noise.stoch[:, :2], None), heads),
        "action_noise": (start, prior, actor, skills, length, ImagineNoise(noise.stoch, noise.action[1:]), heads),
        "skills": (start, prior, actor, skills[:, :3], length, noise, heads),
        "actor": (start, prior, actor, None, length, noise, heads),
        "skill_length": (start, prior, actor, skills, 0, noise, heads),
        "head": (start, prior, actor, skills, length, noise, (actor.mlp,)),
        "prior.out": (start, prior._replace(out=prior.hidden), actor, skills, length, noise, heads),
    }
    for name, arguments in bad.items():
        with pytest.raises(ValueError, match=name):
            call(*arguments)
    with pytest.raises(ValueError, match="isa"):
        call(*build(), isa="sse9")
    with pytest.raises(ValueError, match="float32"):
        cpp.imagine_heads(*build())


def test_weights_that_are_no_tuples_are_refused():
    # pybind11 would read whatever lies there as a tuple's items.
    start, prior, actor, skills, length, noise, heads = to_float(build())
    odd = actor._replace(mlp=MLPWeights(torch.zeros(3, 3), actor.mlp.out))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="actor must be a tuple"):
        cpp.imagine_heads(start, prior, odd, skills, length, noise, heads)
    with pytest.raises(ValueError, match="gru must be a tuple"):
        cpp.imagine_heads(start, prior._replace(gru=torch.zeros(4)), actor, skills, length, noise, heads)
