"""What a screen's verdict is read from."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from screening import screened

from lsp_fast.config import make_config, to_dict


def test_means_are_of_the_last_half_and_evaluations_of_all(tmp_path):
    config = make_config("smoke", skill__random_share=0.5, label="half", seed=3)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    rows = [
        {"env_steps": 100, "planner/gain": 50.0, "eval/return": 1.0},
        {"env_steps": 600, "planner/gain": 1.0, "skill/information": 0.5},
        {"env_steps": 1000, "planner/gain": 3.0, "eval/return": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = screened(tmp_path)
    assert (found["task"], found["method"], found["seed"]) == ("cheetah_run", "half", 3)
    assert found["means"]["planner/gain"] == 2.0 and found["means"]["skill/information"] == 0.5
    assert found["means"]["planner/gain_error"] == pytest.approx(1.0)  # sqrt(2) / sqrt(2)
    assert found["evaluations"] == {100: 1.0, 1000: 2.0}
    assert found["changed"]["skill.random_share"] == 0.5


def test_a_source_is_named_without_where_it_lies(tmp_path):
    config = make_config("smoke", task="quadruped_reach", transfer__source="/a/place/walk-lsp-0")
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"env_steps": 100, "eval/return": 1.0}) + "\n")
    assert screened(tmp_path)["changed"]["transfer.source"] == "walk-lsp-0"
