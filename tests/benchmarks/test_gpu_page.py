"""The tables about GPUs: what a step found is told, what it did not find is not made up."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_page

    yield gpu_page
    sys.modules.pop("gpu_page", None)


def keep(folder, step, found, status="ok"):
    about = {"device": "Card 1", "torch": "2.13.0"}
    record = {"environment": about, "date": "2026-11-25T10:00:00+00:00", "status": status, "found": found}
    (folder / f"gpu_{step}.json").write_text(json.dumps(record))


def cells(page, folder):
    text = page.measured("results", folder)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()[2:] if line.startswith("|")]
    assert len(lines) == len(page.LINES)
    return {line.step + line.says[:2]: cells[1] for line, cells in zip(page.LINES, lines, strict=True)}, text


def row(work, variant, ms, failure=None):
    return {
        "work": work, "variant": variant, "precision": "bf16", "ms": ms, "failure": failure,
        "ratio_to_eager": ms and 2.0, "share_of_peak": ms and 0.25,
    }  # fmt: skip


def test_what_is_not_there_is_not_yet(page, tmp_path):
    found, text = cells(page, tmp_path)
    assert set(found.values()) == {"not yet"} and "No card has been at hand" in text
    assert "No *estimate*" in page.estimates(tmp_path)


def test_an_estimate_is_called_one(page):
    for line in page.estimates().splitlines():
        if line.startswith(("| A100", "| H", "| RTX", "| before")):
            assert line.count("*estimate ") >= 3, line
    if not (page.RESULTS / "gpu_kernels.json").exists():
        assert "not yet; *estimate* " in page.measured("results")


def test_what_was_found_is_told(page, tmp_path):
    keep(tmp_path, "tests", {"passed": 26, "failed": 0, "skipped": 0})
    rows = [
        row("plan", "graph", 17.25),
        row("plan", "graph of PyTorch", None, "RuntimeError: a | b"),
        row("act", "policy", 1.0),
    ]
    keep(tmp_path, "kernels", {"rows": rows})
    ours = {"work": "400 -> 400", "precision": "bf16", "variant": "ours"}
    keep(tmp_path, "tiles", {"rows": [{**ours, "ratio": ratio} for ratio in (0.5, 1.25, None)]}, "failed")
    keep(tmp_path, "resume", {"env_steps": [1200, 2400], "wrong": []})
    rates = {"one after the other": 100.2, "overlap": 180.4}
    keep(tmp_path, "end_to_end", {"env_steps_per_second": rates}, "over its limit")
    keep(tmp_path, "update", None, "failed")
    keep(tmp_path, "learn", {"task": "cheetah_run", "scores": [{"xs": [1, 2], "ys": [3.0, 77.7]}]})
    found, text = cells(page, tmp_path)
    assert found["teststes"[:5] + "te"].startswith("26 passed, 0 failed ([JSON](results/gpu_tests.json)")
    assert found["kernelsa "].startswith(
        "graph: 17.2 ms, 2.0 × eager, 25% of peak; graph of PyTorch: fails, RuntimeError: a / b"
    )
    assert found["kernelsac"].startswith("policy: 1 ms")
    assert found["tileson"].startswith("bf16 400 -> 400: 1.25 × (the step failed)")
    assert found["resumea "].startswith("yes, from 1200 to 2400")
    assert found["end_to_enden"].startswith("180; 100 without `train.overlap` (the step ran over its limit)")
    assert found["updatea "].startswith("the step failed")
    assert found["learnre"].startswith("cheetah_run: 78 at 2 environment steps")
    assert "Measured by `make gpu` on Card 1, torch 2.13.0, 2026-11-25." in text
    assert all("not yet" not in cell for cell in found.values())


def test_a_run_that_does_not_go_on_says_why(page, tmp_path):
    keep(tmp_path, "resume", {"env_steps": [1200, None], "wrong": ["train ends with status 1"]}, "failed")
    assert cells(page, tmp_path)[0]["resumea "].startswith("no: train ends with status 1 (the step failed)")
