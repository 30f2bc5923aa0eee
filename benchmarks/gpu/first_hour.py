"""`make gpu`: what a card is asked first, step by step; each writes benchmarks/results/gpu_NAME.json when it ends.

    python benchmarks/gpu/first_hour.py [--list] [--only NAME ...] [--again] [--minutes M] [--wheels FOLDER]

A step that ended before, with this code and on this card, is not run again. So the same command goes on where it was
stopped. The exit status is 0 where every step is ok, 1 where one is not, 2 where there is no card.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
LIMIT, GRACE = 580.0, 15.0  # seconds of a step, and then to stop in: ten minutes together
TAIL = 60  # lines of a step's output that are kept
PROGRESS = "%|"  # is in every line that a progress bar writes
BF16 = ("--quick", "--precisions", "bf16", "--variants", "graph", "graph of PyTorch")


class Step(NamedTuple):
    """A script that writes JSON to `{out}` as soon as it knows something; its status is 0 where all is well."""

    name: str
    says: str
    command: tuple[str, ...]
    limit: float = LIMIT


STEPS = (
    Step("tests", "whether the tests that need a card pass", ("benchmarks/gpu/card_tests.py", "--out", "{out}")),
    Step(
        "kernels",
        "planning and acting: our kernels as graphs beside PyTorch",
        ("benchmarks/gpu.py", "--work", "plan", "act", *BF16, "graph, one kernel", "--out", "{out}"),
    ),
    Step("tiles", "one layer at each tile beside cuBLAS", ("benchmarks/gpu/tiles.py", "--out", "{out}")),
    Step(
        "resume",
        "a run stopped by --max-minutes 1 and gone on with",
        ("benchmarks/gpu/runs.py", "resume", "--out", "{out}"),
    ),
    Step(
        "end_to_end",
        "environment steps a second of training",
        ("benchmarks/end_to_end.py", "--preset", "gpu", "--out", "{out}"),
    ),
    # What is worth knowing where time is left.
    Step("update", "whole updates", ("benchmarks/gpu.py", "--work", "model", "update", *BF16, "--out", "{out}")),
    Step(
        "learn",
        "8.5 minutes of a real run, which the next call goes on with",
        ("benchmarks/gpu/runs.py", "learn", "--out", "{out}"),
    ),
)


class Refused(Exception):
    """Nothing can be measured here; one line says why."""


def card(env: dict[str, str]) -> dict[str, Any]:
    """The card and the versions, asked in a process that leaves nothing on the card.

    Raises:
        Refused: there is none, or it cannot be asked.
    """
    done = subprocess.run([sys.executable, __file__, "--about"], env=env, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise Refused(f"the card cannot be asked: {why[0]}; `lsp-fast doctor` says what is missing")
    found = json.loads(done.stdout)
    if found["capability"] is None:
        raise Refused(
            f"a CUDA GPU is needed, and PyTorch {found['torch']} sees none here; run it on a machine with one "
            "(`python benchmarks/gpu.py --estimate` needs none)"
        )
    return found


def about() -> dict[str, Any]:
    """As `gpu.table.environment`; without a card no more than a `capability` of None."""
    import torch

    if not torch.cuda.is_available():
        return {"capability": None, "torch": torch.__version__}
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from gpu.table import environment as describe

    found = describe(torch.device("cuda"))
    # Results say themselves when and of what they are.
    return {name: value for name, value in found.items() if name not in ("date", "revision")}


def code() -> str:
    """A short hash of what the steps run. It does not change with results, with the docs, or without git."""
    names = [path for path in (ROOT / "tests").rglob("test_*.py") if b"mark.gpu" in path.read_bytes()]
    for folder in ("benchmarks", "kernels", "lsp_fast"):
        names += [Path(at) / name for at, _, files in os.walk(ROOT / folder) for name in files if name.endswith(".py")]
    digest = hashlib.sha256()
    for path in sorted(names):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def environment(site: str) -> dict[str, str]:
    """Of a step: this tree is imported first, then `site`, then what the caller has."""
    paths = (str(ROOT), site, os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def packages(wheels: Path | None) -> Iterator[str]:
    """A folder with those of the wheels that this Python lacks; it lies beside nothing and is removed.

    Raises:
        Refused: no wheels there, or pip cannot install them.
    """
    if wheels is None:
        yield ""
        return
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise Refused(f"--wheels {wheels}: holds no wheels; make them with benchmarks/gpu/pack.py {wheels}")
    lacking = [str(path) for path in found if not installed(path.name.split("-")[0])]
    with tempfile.TemporaryDirectory() as site:
        if lacking:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site, *lacking]
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                why = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
                raise Refused(f"--wheels {wheels}: pip cannot install them: {why[0]}")
        yield site


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def done_before(path: Path, about: dict[str, Any], version: str) -> dict[str, Any] | None:
    """What an earlier call wrote for this code on this card; None where the step has to be run."""
    try:
        before = json.loads(path.read_text())
        same = before["code"] == version and before["environment"]["device"] == about["device"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    goes_on = isinstance(before.get("found"), dict) and before["found"].get("finished") is False
    return before if same and not (goes_on and before["status"] == "ok") else None


def run(step: Step, about: dict[str, Any], version: str, env: dict[str, str]) -> dict[str, Any]:
    """Run a step to its end or its limit; what is to be kept of it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [part.format(out=out) for part in step.command]
        began, clock = datetime.now(UTC), time.perf_counter()
        rc, lines = watched([sys.executable, *command], step.limit, env)
        seconds = time.perf_counter() - clock
        try:
            found = json.loads(out.read_text())
        except (OSError, ValueError):
            found = None
        names = {folder: "TMP", sys.prefix: "PREFIX", str(ROOT): ".", str(Path.home()): "~"}
        for name, short in names.items():
            lines = [line.replace(name, short) for line in lines]
    return {
        "step": step.name,
        "command": "python " + " ".join(f'"{part}"' if " " in part else part for part in step.command),
        "status": "over its limit" if rc is None else "failed" if rc else "ok",
        "rc": rc,
        "seconds": round(seconds, 1),
        "limit_s": step.limit,
        "date": began.isoformat(timespec="seconds"),
        "code": version,
        "environment": about,
        "found": found,
        "tail": lines,
    }


def watched(command: Sequence[str], limit: float, env: dict[str, str]) -> tuple[int | None, list[str]]:
    """Exit status, None where the limit ended it, and the last lines of what it printed, which are shown as they come.

    However this ends, nothing that the command has started is left on the card.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    lines: deque[str] = deque(maxlen=TAIL)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            if PROGRESS not in line:
                lines.append(line.rstrip("\n")[:500])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        rc = process.wait(limit)
    except subprocess.TimeoutExpired:
        rc = None
    finally:
        end(process)
        reader.join(GRACE)
    return rc, list(lines)


def end(process: subprocess.Popen[str]) -> None:
    """Ask the command and its children to stop, then make them."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write(path: Path, found: dict[str, Any]) -> None:
    """As JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(path)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [step.name for step in STEPS]
    parser.add_argument("--list", action="store_true", help="only say what the steps are")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"run these anew: {', '.join(names)}")
    parser.add_argument("--again", action="store_true", help="also run what did not end well before")
    parser.add_argument("--minutes", type=float, help="begin no step after so many minutes")
    parser.add_argument("--wheels", type=Path, help="folder of benchmarks/gpu/pack.py, for a host without an index")
    parser.add_argument("--about", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.about:
        print(json.dumps(about()))
        return 0
    if args.list:
        for step in STEPS:
            print(f"{step.name:10} at most {(step.limit + GRACE) / 60:3.0f} min  {step.says}")
        return 0
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a step's processes end, too
    try:
        with packages(args.wheels) as site:
            env = environment(site)
            return run_all(args, card(env), env)
    except Refused as refusal:
        print(f"make gpu: {refusal}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def run_all(args: argparse.Namespace, about: dict[str, Any], env: dict[str, str]) -> int:
    """The steps in their order; a failure does not keep the next one from being asked."""
    version, clock, worst = code(), time.perf_counter(), 0
    for step in STEPS:
        path = RESULTS / f"gpu_{step.name}.json"
        if args.only and step.name not in args.only:
            continue
        record = None if args.only else done_before(path, about, version)
        if record is not None and not (args.again and record["status"] != "ok"):
            print(f"{step.name}: {record['status']} before, {path.name}", flush=True)
        elif args.minutes is not None and time.perf_counter() - clock > 60 * args.minutes:
            print(f"{step.name}: not begun, --minutes {args.minutes:g} are over; the same command goes on", flush=True)
            continue
        else:
            print(f"{step.name}: {step.says} ...", flush=True)
            record = run(step, about, version, env)
            write(path, record)
            print(f"{step.name}: {record['status']} after {record['seconds']:.0f} s, {path.name}", flush=True)
        worst |= record["status"] != "ok"
    again = "; GPU_ARGS=--again runs anew what did not end well" if worst else ""
    print(f"python benchmarks/speed_page.py writes what was found into the docs{again}")
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
