"""What several processes bring: environment steps a second, and what their averages cost.

    python benchmarks/processes.py --processes 2 --rounds 3 --out benchmarks/results/processes_cpu.json
    python benchmarks/processes.py --estimate 100 --network-gbit 100

The first measures one process of N threads and N processes of one thread, in turns; each trains the whole run's batch,
or its share. The second computes, and marks as an estimate, what 1 to 64 GPUs would take for an update at the paper's
sizes of which one GPU takes so many milliseconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from end_to_end import prepared, sample
from measure import machine

from lsp_fast import processes, threads
from lsp_fast.config import Config, from_dict, make_config, to_dict
from lsp_fast.learning import optimizer
from lsp_fast.training import together


def rank(number: int, count: int, port: int, given: dict[str, Any], steps: int, answers: Any) -> None:
    """One process: train for a while, and say how fast and how long averages took."""
    if count > 1:
        os.environ |= {
            "RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        }  # fmt: skip
        processes.join(120)
    config = together.share(from_dict(given))
    threads.use(config.threads)
    spent: dict[str, list[float]] = {"average": [], "numbers": []}
    sizes: list[int] = []

    def timed(name: str, call: Any) -> Any:
        def called(*given: Any) -> Any:
            began = time.perf_counter()
            found = call(*given)
            spent[name].append(time.perf_counter() - began)
            if name == "average":
                sizes.append(sum(x.numel() * x.element_size() for x in given[0]))
            return found

        return called

    with tempfile.TemporaryDirectory() as folder:
        trainer = prepared(config, Path(folder))
        average, numbers = processes.average, processes.all_gather
        optimizer.processes.average, processes.all_gather = timed("average", average), timed("numbers", numbers)
        updates = trainer.updates
        rate = sample(trainer, steps)
        updates = trainer.updates - updates
    answers.put(
        {
            "rank": number,
            "env_steps_per_second": rate,
            "updates": updates,
            "update_bytes": sum(sizes) / max(updates, 1),
            "average_ms": 1000 * sum(spent["average"]) / max(updates, 1),
            "numbers_ms": 1000 * sum(spent["numbers"]) / max(updates, 1),
        }
    )
    processes.leave()


def measured(config: Config, count: int, steps: int) -> dict[str, Any]:
    """The first of so many processes; it waits for the others at every update."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    begun = [
        context.Process(target=rank, args=(number, count, port, to_dict(config), steps, answers))
        for number in range(count)
    ]
    for process in begun:
        process.start()
    said = sorted((answers.get() for _ in begun), key=lambda row: row["rank"])
    for process in begun:
        process.join()
    return said[0]


def gradient_bytes(config: Config, observation: int = 17, action: int = 6) -> dict[str, int]:
    """What an update sends, by module."""
    from lsp_fast import agents

    agent = agents.make(observation, action, config)
    return {name: 4 * sum(p.numel() for p in o.parameters) for name, o in agent.optimizers.items()}


def estimate(update_ms: float, fixed_share: float, gbit: float, latency_us: float) -> list[dict[str, float]]:
    """An update on 1 to 64 GPUs: what does not shrink, what is divided, and a ring's averages."""
    each = gradient_bytes(make_config("paper", device="cpu", backend="reference"))
    rows = []
    for count in (1, 2, 4, 8, 16, 32, 64):
        sent = 2 * (count - 1) / count * sum(each.values()) * 8 / (gbit * 1e9) * 1000
        waits = len(each) * 2 * (count - 1) * latency_us / 1000
        total = update_ms * (fixed_share + (1 - fixed_share) / count) + sent + waits
        rows.append({"gpus": count, "ms": total, "speedup": update_ms / total, "averages_ms": sent + waits})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--task", default="cheetah_run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="environment steps of a sample")
    parser.add_argument("--estimate", type=float, metavar="MS", help="of an update on one GPU, which is assumed")
    parser.add_argument("--fixed-share", type=float, default=0.3, help="of it that does not shrink with the batch")
    parser.add_argument("--network-gbit", type=float, default=100.0)
    parser.add_argument("--latency-us", type=float, default=10.0, help="of one message")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report: dict[str, Any] = {"command": shlex.join(["python", "benchmarks/processes.py", *(argv or sys.argv[1:])])}
    if options.estimate:
        report["estimate"] = estimate(options.estimate, options.fixed_share, options.network_gbit, options.latency_us)
        for row in report["estimate"]:
            told = f"{row['ms']:8.1f} ms  {row['speedup']:5.2f} x  averages {row['averages_ms']:.2f} ms"
            print(f"{row['gpus']:3} GPUs {told}")
    else:
        count = options.processes
        common = {"task": options.task, "device": "cpu", "collect__num_envs": count}
        ways = {
            f"1 process, {count} threads": (1, make_config(options.preset, threads=count, **common)),
            f"{count} processes, 1 thread": (count, make_config(options.preset, threads=1, processes=count, **common)),
        }
        samples: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (number, config) in ways.items():
                samples[name].append(measured(config, number, options.steps))
        report |= {**machine(), "task": options.task, "preset": options.preset, "samples": samples}
        rates = {name: statistics.median(s["env_steps_per_second"] for s in found) for name, found in samples.items()}
        first, other = rates.values()
        report |= {"env_steps_per_second": rates, "ratio": other / first}
        for name, rate in rates.items():
            told = {
                k: statistics.median(s[k] for s in samples[name]) for k in ("average_ms", "numbers_ms", "update_bytes")
            }
            print(f"{name:24} {rate:7.1f} environment steps/s", {k: round(v, 2) for k, v in told.items()})
        print(f"ratio {other / first:.2f}")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
