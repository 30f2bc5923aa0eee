"""Runs `pytest -m gpu -x` and keeps each test's outcome, also where it is stopped: a step of first_hour.py.

The status is 0 only where a test has passed and none has failed: without a card every test is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Outcomes:
    """A plugin that writes what is known after every test."""

    def __init__(self, out: Path) -> None:
        self.out, self.tests = out, []

    def pytest_runtest_logreport(self, report: Any) -> None:
        # A test that is skipped or cannot be set up never comes to its call.
        if report.when == "call" or report.outcome != "passed":
            self.tests.append({"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)})
            self.write()

    def count(self, outcome: str) -> int:
        return sum(test["outcome"] == outcome for test in self.tests)

    def write(self) -> None:
        counts = {outcome: self.count(outcome) for outcome in ("passed", "failed", "skipped")}
        self.out.write_text(json.dumps({**counts, "tests": self.tests}, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--tests", nargs="+", help="files; default: all that have a test for a card")
    args = parser.parse_args(argv)
    outcomes = Outcomes(args.out)
    outcomes.write()
    # The others are not imported: a GPU host need not have what they need.
    files = args.tests or sorted(str(p) for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text())
    status = pytest.main(["-m", "gpu", "-x", "-q", "-p", "no:cacheprovider", *files], plugins=[outcomes])
    if status == 0 and not outcomes.count("passed"):
        print("no test has passed: all that need a card were skipped", file=sys.stderr)
        return 1
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
