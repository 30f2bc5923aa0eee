"""Experiments' files, and folders that hold runs of another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cases import made
from cases.table import Row

TOP = 'preset = "smoke"\ndevice = "cpu"\nenv_steps = 1000\n'
TASK = '[[tasks]]\ntask = "gym:Pendulum-v1"\n'
METHOD = '[[methods]]\nalgorithm = "lsp"\n'
FILE = TOP + TASK + METHOD
RUN = "out/gym-Pendulum-v1-lsp-0"
TARGET = "gym:troubles:Plain-v0"
FINISHED = {"saved": 1000, "evaluations": [(1000, 5.0)]}
COMMON = {"task": "gym:Pendulum-v1", "device": "cpu", "env_steps": 1000}
SWEEP = "sweep e.toml --out out"


def file(content: str) -> Callable[[Any], None]:
    return made.text("e.toml", content)


def lying(content: str = FILE, seeds: tuple[int, ...] = (0,), **run: Any) -> Callable[[Any], None]:
    """The file, and a run of every seed."""

    def before(monkeypatch: Any) -> None:
        made.put("e.toml", content)
        for seed in seeds:
            made.run(f"{RUN[:-1]}{seed}", seed=seed, **{**FINISHED, **COMMON, **run})

    return before


def here(content: str, train: Callable[..., Any] | None = None) -> Callable[[Any], None]:
    """The file, and runs in this process."""

    def before(monkeypatch: Any) -> None:
        from lsp_fast.sweeps import cell, jobs, sweep

        class Here(jobs.Executors):
            def submit(self, cell: Any, slot: int) -> Any:
                return self._job(SimpleNamespace(done=lambda: True, result=cell), cell)

        made.put("e.toml", content)
        monkeypatch.setattr(sweep, "Executors", Here)
        monkeypatch.setattr(sweep, "POLL_SECONDS", 0)
        if train is not None:
            monkeypatch.setattr(cell, "train", train)

    return before


def out_of_memory(*_: Any, **__: Any) -> None:
    raise MemoryError("cannot allocate\n  17 GB")


def transfers(monkeypatch: Any) -> None:
    """Two seeds of a transfer, each finished, from sources that are there."""
    made.put("e.toml", f'seeds = [0, 1]\n{FILE}[target]\ntask = "{TARGET}"\ntrain.batch_size = 4\n')
    for seed in (0, 1):
        source = f"{RUN[:-1]}{seed}"
        taken = {"transfer__source": str(Path(source).resolve()), "transfer__source_env_steps": 1000}
        made.run(source, seed=seed, **FINISHED, **COMMON)
        target = f"out/gym-troubles-Plain-v0-from-gym-Pendulum-v1-lsp-{seed}"
        made.run(target, seed=seed, train__batch_size=4, **FINISHED, **{**COMMON, **taken, "task": TARGET})


def thesis(_: Any) -> None:
    made.put("e.toml", FILE)
    made.put(f"{RUN}/thesis.tex", "x")


def damaged(_: Any) -> None:
    made.put("e.toml", FILE)
    made.put(f"{RUN}/config.json", '{"task": "gym')


def a_file_in_the_way(_: Any) -> None:
    made.put("e.toml", FILE)
    made.put("out", "x")


def still_its_own() -> None:
    assert json.loads(Path(RUN, "config.json").read_text())["behavior"]["gamma"] == 0.99
    assert not Path("out/logs").exists()


REMEDY = "name another --out, or delete the folder"

MISPLACED = {
    "a seed by hand for all seeds": ("--set seed=3", FILE, ["seed = 3 given by hand: use seeds=[3]"]),
    "a task by hand for all tasks": ("--set task=cheetah_run", FILE, ["task = 'cheetah_run' given", "[[tasks]]"]),
    "an algorithm by hand": ("--set algorithm=dreamer", FILE, ["algorithm = 'dreamer' given", "[[methods]]"]),
    "a seed at the top": ("", "seed = 3\n" + FILE, ["seed = 3 at the top: use seeds=[3]"]),
    "a task at the top": ("", 'task = "cheetah_run"\n' + FILE, ["at the top", "[[tasks]]"]),
    "an algorithm at the top": ("", 'algorithm = "dreamer"\n' + FILE, ["at the top", "[[methods]]"]),
    "a seed of a method": ("", FILE + "seed = 3\n", ["seed = 3 in [[methods]]: use seeds=[3]"]),
    "a task of a method": ("", FILE + 'task = "cheetah_run"\n', ["in [[methods]]", "[[tasks]]"]),
    "a preset of a task": ("", TOP + TASK + 'preset = "cpu"\n' + METHOD, ["in [[tasks]]: use preset at the top"]),
    "a seed of a target": ("", FILE + '[target]\ntask = "gym:Pendulum-v1"\nseed = 4\n', ["seed = 4 in [target]"]),
    "a seed that is there twice": ("--set seeds=[0,1,0]", FILE, ["seeds = [0, 1, 0]: 0 is there more than once"]),
    "seeds that are no list": ("--set seeds=3", FILE, ["seeds = 3: must be a list of integers"]),
    "a preset by hand that is none": ("--set preset=huge", FILE, ["unknown preset 'huge'"]),
    "a preset by hand that is a number": ("--set preset=3", FILE, ["preset = 3: must be a name"]),
    "a method's task that is none": ("", FILE + 'tasks = ["cheetah_rum"]\n', ["'cheetah_rum' is none of [[tasks]]"]),
    "a method's tasks as a text": ("", FILE + 'tasks = "gym:Pendulum-v1"\n', ["must be a list of tasks"]),
    "a target that is no table": ("", FILE + "target = 3\n", ["must be a table"]),
    "a value by hand twice": ("--set env_steps=1 --set env_steps=2", FILE, ["env_steps is there twice"]),
}

ROWS = [
    *(
        Row(trouble, f"{SWEEP} {options}", 2, tells=["lsp-fast: ", *words], before=file(content), leaves=())
        for trouble, (options, content, words) in MISPLACED.items()
    ),
    Row("a file that is a folder", SWEEP, 2, tells=["e.toml cannot be read: Is a directory"], leaves=(),
        before=lambda _: Path("e.toml").mkdir()),
    Row("a value changed after the run was finished", f"{SWEEP} --set behavior.gamma=0.9", 2, leaves=(),
        tells=[f"{RUN} holds a run with other values, behavior.gamma: 0.99 there, 0.9 asked for", REMEDY],
        before=lying(), after=still_its_own),
    Row("a value changed in the file", SWEEP, 2, tells=["model.learning_rate: 0.001 there, 0.1 asked for", REMEDY],
        before=lying(FILE + "model.learning_rate = 0.1\n"), leaves=(), after=still_its_own),
    Row("a value changed of a run that is not finished", f"{SWEEP} --set behavior.gamma=0.9", 2, tells=[REMEDY],
        before=lying(saved=500, finished=False), leaves=(), after=still_its_own),
    Row("a value changed of three seeds", f"{SWEEP} --set behavior.gamma=0.9 seeds=[0,1,2]", 2,
        tells=["(and so do 2 more folders)"], before=lying(seeds=(0, 1, 2)), leaves=(), after=still_its_own),
    Row("a value changed, and a list wanted", f"{SWEEP} --set behavior.gamma=0.9 --dry-run", 2, tells=[REMEDY],
        before=lying(), leaves=(), after=still_its_own),
    Row("what may change has changed", f"{SWEEP} --set threads=3 max_minutes=9 train.log_every=77 env_steps=900", 0,
        tells=["1 of 1 runs are finished"], spares=["asked for", "Traceback"], before=lying()),
    Row("a transfer's values changed", f"{SWEEP} --set train.batch_size=5", 2, tells=["(and so do 3 more"],
        before=transfers, leaves=()),
    Row("a target's values changed", SWEEP, 2, tells=["from-gym", "train.batch_size: 4 there, 5 asked for", REMEDY],
        before=lambda m: (transfers(m), made.put("e.toml", Path("e.toml").read_text().replace("= 4", "= 5"))),
        leaves=()),
    Row("a folder that holds something else", SWEEP, 2, tells=[f"{RUN} is not empty and holds no run", "--out"],
        before=thesis, leaves=()),
    Row("a run's configuration is damaged", SWEEP, 2, tells=["config.json cannot be used", f"delete {RUN}"],
        before=damaged, leaves=()),
    Row("a sweep into a file", SWEEP, 2, tells=["out: Not a directory"], before=a_file_in_the_way, leaves=()),
    Row("a run that was stopped in its last updates", f"{SWEEP} --dry-run", 0, tells=["1000 of 1000"],
        spares=["finished"], before=lying(finished=False)),
    Row("a run that is finished", f"{SWEEP} --dry-run", 0, tells=["finished"], before=lying()),
    Row("an older run that is finished", f"{SWEEP} --dry-run", 0, tells=["finished"],
        before=lying(finished=made.UNTOLD)),
    Row("an older run without its last evaluation", f"{SWEEP} --dry-run", 0, spares=["finished"],
        before=lying(finished=made.UNTOLD, evaluations=[(900, 5.0)])),
    Row("a checkpoint that is damaged", f"{SWEEP} --dry-run", 0, spares=["finished", "Traceback"],
        before=lambda m: (lying()(m), made.put(f"{RUN}/checkpoints/000001000.pt", "x"))),
    Row("seeds by hand", f"{SWEEP} --dry-run --set seeds=[4,5]", 0, tells=["lsp-4", "lsp-5"], spares=["lsp-0"],
        before=file(FILE), leaves=()),
    Row("a preset by hand", f"{SWEEP} --dry-run --set preset=paper", 0, tells=["of 1000000"],
        before=file(FILE.replace("env_steps = 1000\n", "")), leaves=()),
    Row("values by hand in two options", f"{SWEEP} --dry-run --set env_steps=20 --set seeds=[4]", 0,
        tells=["of 20 out/gym-Pendulum-v1-lsp-4"], before=file(FILE), leaves=()),
    Row("a run fails for a reason of its own", SWEEP, 1,
        tells=["OldStep-v0-lsp-0: gym:troubles:OldStep-v0 cannot be stepped", "(log in"], spares=["stdout"],
        before=here(FILE.replace("gym:Pendulum-v1", "gym:troubles:OldStep-v0"))),
    Row("a run fails for a library's reason", SWEEP, 1, before=here(FILE, out_of_memory),
        tells=[f"failed {RUN}: MemoryError: cannot allocate 17 GB (log in out/logs/"], spares=["stdout"]),
    Row("means that are not what they seem", f"{SWEEP} --set seeds=[0,1]", 0,
        tells=["lsp-fast: warning: gym:Pendulum-v1 lsp: the mean is over runs that differ", "device"],
        before=lambda m: (lying()(m), made.run(f"{RUN[:-1]}1", seed=1, **FINISHED, **{**COMMON, "device": "auto"}))),
    Row("a sweep without an evaluation", SWEEP, 0, tells=["lsp-fast: warning: no figure: "],
        before=lying(evaluations=[])),
    Row("seeds of a transfer have sources of their own", SWEEP, 0, tells=["4 of 4 runs are finished", "figure"],
        spares=["differ", "Traceback"], before=transfers),
]  # fmt: skip
# Other pages have such troubles, too.
ROWS = [row._replace(trouble=f"sweep: {row.trouble}") for row in ROWS]
