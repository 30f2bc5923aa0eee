"""Environment steps a second of training as it is, evaluation excluded: with `train.overlap` and without, in turns.

    python benchmarks/end_to_end.py [--preset gpu] [--task quadruped_run] [--samples 5] [--steps 500] [--out NAME.json]

Collecting, acting, replay, its copy to the device, learning and its metrics are in it. Prefill, pretraining and what
only the first updates do (compiling kernels, capturing graphs) are not. The runs differ in what they learn from, not in
how much.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what is timed is this tree, installed or not

from lsp_fast.backends.cudagraph import WARMUP
from lsp_fast.config import PRESETS, Config, make_config
from lsp_fast.training.trainer import Trainer


def prepared(config: Config, folder: Path) -> Trainer:
    """A run that has done all that happens once."""
    trainer = Trainer(config, folder)
    while not trainer.schedule.learning:
        trainer.collect()
    first = trainer.schedule.updates_due(trainer.env_steps) + 2 * WARMUP
    while trainer.updates < first:
        step(trainer)
    return trainer


def step(trainer: Trainer) -> None:
    """What the training loop does between two evaluations."""
    while trainer.updates < trainer.schedule.updates_due_first(trainer.env_steps):
        trainer.learn()
    trainer.collect()


def sample(trainer: Trainer, env_steps: int) -> float:
    """Environment steps a second over so many of them."""
    synchronize(trainer)
    before, began = trainer.env_steps, time.perf_counter()
    while trainer.env_steps < before + env_steps:
        step(trainer)
    trainer.means.pop()  # waits for the device, as a row of the log does
    synchronize(trainer)
    return (trainer.env_steps - before) / (time.perf_counter() - began)


def synchronize(trainer: Trainer) -> None:
    if trainer.agent.device.type == "cuda":
        torch.cuda.synchronize(trainer.agent.device)


def run(config: Config, samples: int, env_steps: int) -> dict[str, Any]:
    """Both ways side by side."""
    from dataclasses import replace

    with tempfile.TemporaryDirectory() as folder:
        trainers = {}
        for name, overlap in (("one after the other", False), ("overlap", True)):
            c = replace(config, train=replace(config.train, overlap=overlap, pretrain=1))
            trainers[name] = prepared(c, Path(folder) / name.replace(" ", "-"))
        rates: dict[str, list[float]] = {name: [] for name in trainers}
        for _ in range(samples):
            for name, trainer in trainers.items():
                rates[name].append(sample(trainer, env_steps))
        agent = trainers["overlap"].agent
        on_gpu = agent.device.type == "cuda"
        return {
            "environment": {
                "device": torch.cuda.get_device_name(agent.device) if on_gpu else platform.processor() or "cpu",
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "python": platform.python_version(),
                "date": date.today().isoformat(),
            },
            "task": config.task,
            "preset": config.preset,
            "backend": agent.backend.name,
            "env_steps_per_sample": env_steps,
            "env_steps_per_second": {name: statistics.median(values) for name, values in rates.items()},
            "ratio": statistics.median(b / a for a, b in zip(*rates.values(), strict=True)),
            "samples": rates,
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(agent.device) if on_gpu else None,
        }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=tuple(PRESETS), default="gpu")
    parser.add_argument("--task", default="quadruped_run")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="environment steps of a sample")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    config = make_config(args.preset, task=args.task, device=args.device, backend=args.backend)
    result = run(config, args.samples, args.steps)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, rate in result["env_steps_per_second"].items():
        print(f"{name:20} {rate:8.1f} environment steps/s")
    print(f"{'overlap / off':20} {result['ratio']:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
