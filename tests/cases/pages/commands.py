"""Every command with paths that are not what it needs: a file in the way, an empty folder, a young run, nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import made
from cases.table import SHORT, Row

TASK = "gym:troubles:Plain-v0"
EXPERIMENT = f"""preset = "smoke"
device = "cpu"
env_steps = 1000
[[tasks]]
task = "{TASK}"
[[methods]]
algorithm = "lsp"
"""


def there(_: Any) -> None:
    """Everything that a path can be."""
    made.put("file", "x")
    made.put("e.toml", EXPERIMENT)
    Path("empty").mkdir()
    Path("folder.gif").mkdir()
    Path("folder.html").mkdir()
    made.run("young", task=TASK)
    made.run("saved", [(1000, 5.0)], 1000, task=TASK, device="cpu")
    Path("closed").mkdir(mode=0o555)


def trained(monkeypatch: Any) -> None:
    """And a run that was trained."""
    from lsp_fast.cli import main

    there(monkeypatch)
    assert main(f"train {SHORT} --task {TASK} --logdir run".split()) == 0


# What a command reads, where {} stands, and what is told of each path.
READ = {
    "evaluate": ("evaluate --logdir {}", "holds no run", "has no checkpoint yet; let the run go on"),
    "skills": ("skills --logdir {}", "holds no run", "has no checkpoint yet; let the run go on"),
    "export": ("export --logdir {} --out new", "holds no run", "has no checkpoint yet; let the run go on"),
    "transfer": (f"transfer --task {TASK} --logdir new --source {{}}", "holds no run", "has no checkpoint yet"),
    "sweep": ("sweep {} --out new", "cannot be read: ", "young cannot be read: Is a directory; name a file"),
    "data import": ("data import {} new", "holds no recording: neither .npz", "young holds no recording: neither .npz"),
    "data export": ("data export {} new --format npz", "holds no run", "has no checkpoint yet; let the run go on"),
    "plot": ("plot {} --out new.png", "", "young has no evaluations yet; let the run go on"),
    "report": ("report {} --out new.html", "", "young has no evaluations yet; let the run go on"),
}
TOLD = {
    **{(name, "empty"): "empty holds no run with evaluations; name a run's folder" for name in ("plot", "report")},
    **{(name, "nowhere"): "nowhere does not exist; name a run's folder" for name in ("plot", "report")},
    **{(name, "file"): "file is not JSON" for name in ("plot", "report")},
    ("sweep", "file"): "file is not TOML",
    ("data import", "file"): "file is no recording: name an .hdf5 or .npz file",
    ("data import", "nowhere"): "nowhere does not exist; name a recording",
    ("skills", "file"): "file: Not a directory; name a path",
}
# Where a command writes, and what is told of a file there and of a file above it.
TRAIN = f"train {SHORT} --task {TASK} --logdir"
TRANSFER = f"transfer --source saved --task {TASK} --logdir"
WRITTEN = {
    "train into a file": (f"{TRAIN} file", "file is not empty and holds no run; choose another --logdir"),
    "train below a file": (f"{TRAIN} file/run", "cannot write to file/run: Not a directory; choose another --logdir"),
    "train over something else": (f"{TRAIN} folder", "folder is not empty and holds no run; choose another --logdir"),
    "train into another task's run": (f"{TRAIN} young --seed 4", "seed: 0 there, 4 asked for"),
    "transfer into a file": (f"{TRANSFER} file", "file is not empty and holds no run; choose another --logdir"),
    "transfer into another run": (f"{TRANSFER} young", "young holds a run with another configuration"),
    "transfer into its source": (f"{TRANSFER} saved", "saved is the source itself; choose another --logdir"),
    "sweep below a file": ("sweep e.toml --out file/x", "file: Not a directory; name a path that can be used"),
    "film into a folder that is none": ("evaluate --logdir saved --video file/x.gif", "file: Not a directory"),
    "film into a folder": ("evaluate --logdir saved --video folder.gif", "--video folder.gif: name an .mp4 or a .gif"),
    "film in an unknown format": ("evaluate --logdir saved --video x.avi", "--video x.avi: name an .mp4 or a .gif"),
    "film without a format": ("evaluate --logdir saved --video x", "--video x: name an .mp4 or a .gif"),
    "skills into a file": ("skills --logdir saved --out file", "file: Not a directory; name a path that can be used"),
    "skills below a file": ("skills --logdir saved --out file/x", "file: Not a directory; name a path"),
    "import into a file": ("data import young file", "file is there already; name a new folder"),
    "import over something else": ("data import young folder", "folder is there already; name a new folder"),
    "import below a file": ("data import young file/x", "file: Not a directory; name a path that can be used"),
    "export over something else": ("data export saved folder", "folder is there already; name a new folder"),
    "export below a file": ("data export saved file/x-v0", "file: Not a directory; name a path that can be used"),
    "export under a name that Minari does not take": ("data export saved new", "new is not a name of Minari's; end it"),
    "a policy into a file": ("export --logdir saved --out file", "file: Not a directory; name a path that can be used"),
    "a policy below a file": ("export --logdir saved --out file/x", "file: Not a directory; name a path"),
    "a policy over something else": ("export --logdir saved --out folder", "folder is not empty; name another --out"),
    "plot below a file": ("plot saved --out file/x.png", "file is not a folder; name another file"),
    "plot into a folder that is not there": ("plot saved --out a/x.png", "a does not exist; make it or name another"),
    "plot in an unknown format": ("plot saved --out x.gif", "its suffix must be one of"),
    "report below a file": ("report saved --out file/x.html", "file is not a folder; name another file"),
    "report into a folder that is not there": (
        "report saved --out a/x.html",
        "a does not exist; make it or name another",
    ),
    "report into a folder": ("report saved --out folder.html", "cannot write folder.html: Is a directory"),
    "report in an unknown format": ("report saved --out x.pdf", "cannot write x.pdf: a page's name ends with .html"),
    "report with less than no room": ("report saved --megabytes -1", "-1 megabytes: must be at least 0"),
    "report beside what is no score": ("report saved --reference file", "file is not JSON"),
    "report of nothing": ("report", "nothing to draw; name a run's folder"),
}
CLOSED = {
    "train": f"{TRAIN} closed/run",
    "sweep": "sweep e.toml --out closed/out",
    "evaluate": "evaluate --logdir saved --video closed/x.gif",
    "skills": "skills --logdir saved --out closed/skills",
    "export": "export --logdir saved --out closed/policy",
    "plot": "plot saved --out closed/x.png",
    "data import": "data import young closed/x",
    "data export": "data export saved closed/x-v0",
    "report": "report saved --out closed/x.html",
}
OURS = "sweep", "evaluate", "skills", "export", "data import", "data export"
"""Look whether they may write, and so do not ask the system, which grants a superuser everything."""
SEEDS = {"evaluate": "evaluate --logdir saved", "skills": "skills --logdir saved", "train": f"{TRAIN} new"}


# What is asked of recorded data, once there is some.
ASKED = {
    "import {} new": "does not say how many environment steps lie between two of its rows; give --action-repeat",
    "import {} new --action-repeat 0": "--action-repeat 0: must be at least 1",
    "import {} new --action-repeat 1 --merge 0": "--merge 0: must be at least 1",
    "import {} new --action-repeat 1 --merge 2": "leave --merge out, and train with --collect.action-repeat",
    "import {} new --action-repeat 1 --action-low -1": "--action-low and --action-high belong together",
    "import {} new --action-repeat 1 --action-low -0.2 --action-high 0.2": "episode e.npz: action[0] of row 3 is 0.3",
    "import {} new --action-repeat 1 --observation seen": "e.npz: seen is missing; there are action, discount",
    "import {} new --action-repeat 1 --task cheetah_run": "where cheetah_run has 17 and 6",
    "import {} new --action-repeat 1 --task nothing": "unknown task 'nothing'",
    "import {}/e.npz new --action-repeat 1 --actions taken --merge 4": "action of row 1 is not that of row 0",
}


def recorded(_: Any) -> None:
    """An episode as Dreamer's programs write it, of the plain task's shapes."""
    import numpy as np

    there(_)
    Path("recording").mkdir()
    count = np.arange(6, dtype=np.float32)
    np.savez("recording/e.npz", observation=count[:, None].repeat(2, 1), action=count[:, None] / 10, reward=count,
             discount=np.ones(6))  # fmt: skip


def imported(_: Any) -> None:
    """And as a replay."""
    from lsp_fast.cli import main

    recorded(_)
    assert main(f"data import recording replay --action-repeat 2 --task {TASK}".split()) == 0


def cut_short(_: Any) -> None:
    imported(_)
    path = Path("replay/action.f32")
    path.write_bytes(path.read_bytes()[:-1])


DATA = f"{TRAIN} new --data"


def _with_something_else(_: Any) -> None:
    there(_)
    made.put("folder/thesis.tex", "x")


def _told(name: str, path: str) -> str:
    _, none, young = READ[name]
    return TOLD.get((name, path), young if path == "young" else f"{path} {none}")


# What a trained agent cannot plan with.
PLANNED = {
    "skill.beta=1": "--set skill.beta: of a trained agent only planner.… can be changed, as planner.replan",
    "planner": "--set planner: must be NAME=VALUE",
    "planner.value=task": "planner.value: a run keeps the one that it was trained with; leave it out",
    "planner.candidate=8": "did you mean candidates?",
    "planner.candidates=many": "planner.candidates = 'many': must be of type int",
    "planner.elites=99": "planner.elites = 99: must not exceed planner.candidates",
}


def _without(*libraries: str) -> Callable[[Any], None]:
    """Libraries that are not installed."""
    return lambda monkeypatch: [monkeypatch.setitem(sys.modules, name, None) for name in libraries]


def _set(**variables: str) -> Callable[[Any], None]:
    return lambda monkeypatch: [monkeypatch.setenv(*pair) for pair in variables.items()]


# Where a run is to log, the exit status, what is told, and what is left.
LOGGED = [
    ("tensorbord", 2, "log = 'tensorbord': there is no such writer; did you mean tensorboard?", None, ()),
    ("x.csv", 2, "there are tensorboard, wandb, mlflow; metrics.jsonl", None, ()),
    ("wandb wandb", 2, "log = ['wandb', 'wandb']: wandb is there twice; name it once", None, ()),
    ("wandb", 2, "--log wandb needs wandb; install it: pip install 'lsp-fast[wandb]'", _without("wandb"), ()),
    ("tensorboard mlflow", 2, "--log mlflow needs mlflow; install it: pip install", _without("mlflow"), ()),
    ("", 0, "learning curve new", None, ["new"]),
]


def _sealed(before: Callable[[Any], None]) -> Callable[[Any], None]:
    """A folder in which nothing may be written, whoever one is: a superuser may everywhere."""

    def sealed(monkeypatch: Any) -> None:
        before(monkeypatch)
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, *a, **k: Path(path).name != "closed" and access(path, *a, **k))

    return sealed


def _without_onnx(monkeypatch: Any) -> None:
    there(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxscript", None)


ROWS = [
    *(
        Row(f"{name} reads {what}", READ[name][0].format(path), 2, tells=["lsp-fast: ", _told(name, path)],
            before=there, leaves=())
        for name in READ
        for what, path in {"a file": "file", "an empty folder": "empty", "a run without a checkpoint": "young",
                           "nothing there": "nowhere"}.items()
    ),
    *(
        Row(name, command, 2, tells=["lsp-fast: ", words], before=_with_something_else, leaves=())
        for name, (command, words) in WRITTEN.items()
    ),
    *(
        Row(f"{name} where nothing may be written", command, 2, tells=["lsp-fast: ", "closed", "Permission denied"],
            before=_sealed(there), leaves=())
        for name, command in CLOSED.items() if name in OURS or os.getuid()
    ),
    *(
        Row(f"train logs to {given or 'nothing'}", f"{TRAIN} new --log {given}", status, tells=[words], before=before,
            leaves=leaves)
        for given, status, words, before, leaves in LOGGED
    ),
    Row("train logs to wandb, and nobody is logged in", f"{TRAIN} new --log wandb tensorboard", 0, alone=True,
        tells=["warning: --log wandb is left out, and the run goes on: opening", "type wandb login", "return"],
        leaves=["new"],
        before=_set(WANDB_MODE="online", WANDB_API_KEY="", NETRC="/dev/null/x", WANDB_CONFIG_DIR="/dev/null/x")),
    Row("train logs to a server that is not there", f"{TRAIN} new --log mlflow", 0, leaves=["new"],
        tells=["warning: --log mlflow is left out, and the run goes on: opening", "127.0.0.1", "return"],
        spares=["a-password", "Traceback"],
        before=_set(MLFLOW_TRACKING_URI="http://me:a-password@127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")),
    *(
        Row(f"{name}: a seed of {seed}", f"{command} --seed {seed}", 2, tells=[f"seed = {seed}: must "], before=there,
            leaves=())
        for name, command in SEEDS.items() for seed in (-1, 2**31, 10**20)
    ),
    *(
        Row(f"{name} plans with {given}", f"{name} --logdir saved --set {given}", 2, tells=["lsp-fast: ", words],
            before=there, leaves=())
        for name in ("evaluate", "export") for given, words in PLANNED.items()
    ),
    *(
        Row(f"data {command}", f"data {command.format('recording')}", 2, tells=["lsp-fast: ", words], before=recorded,
            leaves=())
        for command, words in ASKED.items()
    ),
    Row("train with data", f"{DATA} replay --offline --train.eval-every 0", 0, before=imported),
    Row("train offline without data", f"{TRAIN} new --offline", 2, before=there, leaves=(),
        tells=["offline = True: there is nothing to learn from; name it by --data"]),
    Row("train with data that is not there", f"{DATA} nowhere", 2, before=there, leaves=(),
        tells=["nowhere does not exist; name a recording"]),
    Row("train with a run as data", f"{DATA} young", 2, before=there, leaves=(), tells=["young holds no recording"]),
    Row("train with data of another repeat", f"{DATA} replay --collect.action-repeat 4", 2, before=imported, leaves=(),
        tells=["collect.action_repeat = 4: a step of", "is of 2 environment steps; set --collect.action-repeat 2"]),
    Row("train with data of another task", f"{DATA} replay --task gym:troubles:Brief-v0", 2, before=imported,
        leaves=(), tells=[f"it is of {TASK}, whose rewards are not those of gym:troubles:Brief-v0"]),
    Row("train with data that does not fit", f"{DATA} replay --collect.replay-capacity 5 --env-steps 4", 2,
        before=imported, leaves=(), tells=["collect.replay_capacity = 5"]),
    Row("train with damaged data", f"{DATA} replay", 2, before=cut_short, leaves=(),
        tells=["action.f32 has 23 bytes", "import the recording anew"]),
    Row("export of weights that are not there", "export --logdir saved --out new", 2, before=there, leaves=(),
        tells=["the checkpoint of 1000 environment steps does not fit"]),
    Row("export in an unknown format", "export --logdir saved --out new --format tflite", 2, alone=True, before=there,
        leaves=(), tells=["tflite"]),
    Row("export without its libraries", "export --logdir saved --out new", 2, before=_without_onnx, leaves=(),
        tells=["--format onnx needs onnxscript; install it: pip install 'lsp-fast[export]'"]),
    Row("transfer below a file", f"transfer --source run --task {TASK} --logdir file/x", 2, before=trained, leaves=(),
        tells=["cannot write to file/x: Not a directory; choose another --logdir"]),
    Row("report of a run among what is none", "report saved empty young file nowhere.html", 2, before=there, leaves=(),
        tells=["nowhere.html does not exist"]),
    Row("report of a run among broken ones", "report saved empty young file", 0, before=there, leaves=["report.html"],
        tells=["left out: empty holds no run", "left out: young has no", "left out: file is not JSON", "page report"]),
    Row("doctor in an empty folder", "doctor", 0, leaves=()),
    Row("doctor with a path", "doctor --out x.txt", 2, tells=["--out"], alone=True, leaves=()),
    Row("train into an empty folder", f"{TRAIN} empty", 0, before=there, leaves=()),
]  # fmt: skip
