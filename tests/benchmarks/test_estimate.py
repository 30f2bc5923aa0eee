"""What a plan asks of a GPU, counted from recorded launches: a count changes only together with its stored number."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture
def estimate(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in [name for name in sys.modules if name.split(".")[0] == "gpu"]:
        monkeypatch.delitem(sys.modules, name)
    from gpu import estimate

    return estimate


def test_counts_are_those_of_the_stored_estimate(estimate):
    stored, found = json.loads((BENCHMARKS / "results" / "gpu_estimate.json").read_text()), estimate.report()
    assert stored["what"] == "estimate" and "estimate" in estimate.text(found)
    for name, row in stored["cards"].items():
        for count in ("launches", "l2_bytes", "hbm_bytes", "multiplied"):
            assert found["cards"][name][count] == row[count], (name, count)
    assert found["update"] == stored["update"]
    *others, now = stored["update"]["kernels"].values()
    assert now["together"] <= stored["update"]["bar"] < min(row["together"] for row in others)


@pytest.mark.parametrize("card", ["H100", "H200"])
def test_a_plan_from_2500_states_keeps_within_its_bars(estimate, card):
    row = estimate.report()["cards"][card]
    for name, bar in estimate.BARS.items():
        assert row[name] <= bar, name


def test_every_launch_is_what_its_kernel_takes(estimate):
    found = estimate.plan_launches("large", starts=20)
    assert {launch.kernel for launch in found} == {"normals", "linear", "gru", "sample", "forward", "select"}
    assert all(x.device.type == "meta" for launch in found for x in launch.tensors.values())
    # Programs of one row of tiles follow one another: the tile of columns is the grid's first number.
    wide = [launch for launch in found if launch.kernel == "linear" and launch.arguments["K"] == 416]
    assert wide and all(launch.grid[0] == 12 for launch in wide)  # 400 columns by 32, the last 16 beside


@pytest.mark.parametrize("starts", [1, 5, 40, 2500])
def test_what_a_product_reads_lies_in_its_rows_and_fusion_is_asked_for_by_name(estimate, starts):
    for launch in estimate.plan_launches("large", starts):
        a = launch.arguments
        # Later versions of Triton fuse a product and a sum only where that is asked for; Philox must not.
        assert launch.options["enable_fp_fusion"] is (launch.kernel != "normals")
        for inputs, width in (("x", "K"), ("x", "K_X"), ("h", "K_H")):
            if width in a:
                first = a[inputs].storage_offset() % a[f"{inputs}_stride"]
                assert first + a[width] <= a[f"{inputs}_stride"], (launch.kernel, width)


def test_a_launch_with_an_argument_missing_is_refused(estimate):
    from gpu.launches import recorded

    from lsp_fast.kernels import lambda_return

    with recorded() as found, pytest.raises(TypeError, match="lacks"):
        lambda_return._forward[(1,)](1, 2)
    assert found == []
