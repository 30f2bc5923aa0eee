"""Sizes of observations, and both frame and numbers as one row of bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lsp_fast.observed import Observed

FRAME = (4, 5, 3)


@pytest.mark.parametrize("plain", [7, (64, 64, 3), ((64, 64, 3), 7)])
def test_plain_sizes_come_back(plain):
    assert Observed.of(plain).plain == plain


@pytest.mark.parametrize(
    ("plain", "shape", "dtype", "pixels", "both"),
    [
        (7, (7,), np.float32, 0, False),
        ((64, 64, 3), (64, 64, 3), np.uint8, 12288, False),
        (((64, 64, 3), 7), (12288 + 28,), np.uint8, 12288, True),
    ],
)
def test_shapes_and_types(plain, shape, dtype, pixels, both):
    o = Observed.of(plain)
    assert (o.shape, o.dtype, o.pixels, o.both) == (shape, dtype, pixels, both)


@settings(deadline=None, max_examples=50)
@given(
    numbers=arrays.arrays(np.float32, (2, 3, 6), elements=st.floats(width=32)),
    frame=arrays.arrays(np.uint8, (2, 3, *FRAME)),
)
def test_both_come_back_to_the_bit(numbers, frame):
    """NaN and infinity, too; and torch reads the same numbers."""
    o = Observed(6, FRAME)
    rows = o.pack({"frame": frame, "vector": numbers})
    assert rows.shape == (2, 3, *o.shape) and rows.dtype == np.uint8
    np.testing.assert_array_equal(o.frames(rows), frame)
    assert o.numbers(rows).tobytes() == numbers.tobytes()
    read = torch.from_numpy(rows)[..., o.pixels :].view(torch.float32)
    assert read.numpy().tobytes() == numbers.tobytes()
    np.testing.assert_array_equal(o.pack({"frame": frame[1, 2], "vector": numbers[1, 2]}), rows[1, 2])


def test_what_is_one_thing_is_given_back():
    numbers, frames = np.zeros((2, 7), np.float32), np.zeros((2, *FRAME), np.uint8)
    assert Observed(7).numbers(numbers) is numbers and Observed(0, FRAME).frames(frames) is frames


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"frame": np.zeros(FRAME, np.uint8)}, "has a frame and a vector, not frame"),
        ({"frame": np.zeros(FRAME), "vector": np.zeros(6)}, "float64"),
        ({"frame": np.zeros((4, 4, 3), np.uint8), "vector": np.zeros(6)}, r"\[4, 4, 3\]"),
        ({"frame": np.zeros(FRAME, np.uint8), "vector": np.zeros(5)}, r"vector \[6\]"),
        ({"frame": np.zeros(FRAME, np.uint8), "vector": np.zeros((1, 6))}, r"\[1, 6\]"),
    ],
)
def test_parts_that_do_not_fit_are_named(parts, named):
    with pytest.raises(ValueError, match=named):
        Observed(6, FRAME).pack(parts)


@pytest.mark.parametrize("o", [Observed(6), Observed(0, FRAME)])
def test_only_both_are_packed(o):
    with pytest.raises(ValueError, match="one array"):
        o.pack({"frame": np.zeros(FRAME, np.uint8), "vector": np.zeros(6)})
