"""What the C++ extension does with arguments that are not what it takes."""

import numpy as np
import pytest
from rollouts import build, to_float

from lsp_fast.backends import cpp


@pytest.mark.parametrize("wrong", [None, "0.1"])
def test_a_number_that_is_none_is_named(wrong):
    start, prior, actor, skills, length, noise, heads = to_float(build())
    with pytest.raises(ValueError, match=r"prior\.min_std must be a number"):
        cpp.imagine_heads(start, prior._replace(min_std=wrong), actor, skills, length, noise, heads)
    with pytest.raises(ValueError, match=r"actor\.mean_scale must be a number"):
        cpp.imagine_heads(start, prior, actor._replace(mean_scale=wrong), skills, length, noise, heads)


def test_an_array_that_begins_anywhere_is_copied():
    values = np.arange(24, dtype=np.float32).reshape(2, 12)
    odd = np.frombuffer(b"\0" + values.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(2, 12)
    assert not odd.flags.aligned
    plans = np.random.default_rng(0).normal(size=(2, 12, 1, 1)).astype(np.float32)
    mean = np.zeros((2, 1, 1), np.float32)
    got, want = (cpp.load().select_elites(x, plans, 3, mean, mean + 1, 1e-6) for x in (odd, values))
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
