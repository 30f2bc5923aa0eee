"""What a user can get wrong on the command line: named with its remedy, exit status 2, and nothing on disk changes."""

import json
import pickle
import shutil
import sys

import pytest

from lsp_fast.cli import main
from lsp_fast.config import make_config
from lsp_fast.storage import checkpoint
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.loop import train

TRAIN = "train --preset smoke --backend reference --logdir"
NEW = f"{TRAIN} new --device cpu"
RUN = f"{TRAIN} {{}} --device cpu --env-steps 1000"

# What is wrong: the command, and what its message says.
BAD = {
    # No such thing
    "unknown task": (f"{NEW} --task cheetah_runn", "unknown task 'cheetah_runn'; the nearest are cheetah_run"),
    "unknown gymnasium task": (f"{NEW} --task gym:Pendulm-v1", "gym:Pendulum-v1"),
    "gymnasium task with discrete actions": (f"{NEW} --task gym:CartPole-v1", "only continuous"),
    "task whose package is missing": (f"{NEW} --task gym:CarRacing-v3", "Box2D is not installed"),
    "unknown command": ("fly", "no command 'fly'"),
    "unknown option": (f"{NEW} --sede 1", "--sede"),
    "unknown preset": ("train --preset huge", "huge"),
    "unknown algorithm": ("train --algorithm sac", "sac"),
    "unknown backend": (f"{NEW} --backend fpga", "fpga"),
    "unknown device": (f"{TRAIN} new --device abacus", "unknown device 'abacus'; there are auto, cpu"),
    "device of another kind": (f"{TRAIN} new --device mps", "unknown device 'mps'"),
    "missing GPU": (f"{TRAIN} new --device cuda:9", "sees 0 GPUs; use --device cpu"),
    "GPU backend on a processor": (f"{NEW} --backend triton", "runs on a GPU, not on cpu; use --device cuda"),
    # Values
    "not a number": (f"{NEW} --seed x", "x"),
    "negative steps": (f"{NEW} --env-steps -5", "env_steps = -5: must be at least 1"),
    "no steps": (f"{NEW} --env-steps 0", "env_steps = 0: must be at least 1"),
    "negative seed": (f"{NEW} --seed -1", "seed = -1: must be an integer in 0 .. 2**31 - 1"),
    "seed too large": (f"{NEW} --seed 2147483648", "seed = 2147483648: must be an integer in 0 .. 2**31 - 1"),
    "negative threads": (f"{NEW} --threads -1", "threads = -1"),
    "K = 0": (f"{NEW} --skill.length 0", "skill.length = 0: must be at least 1"),
    "K > H": (f"{NEW} --skill.length 30", "skill.length = 30: no segment fits into behavior.horizon = 10"),
    "H = 0": (f"{NEW} --behavior.horizon 0", "behavior.horizon = 0"),
    "H = 1": (f"{NEW} --behavior.horizon 1 --skill.length 1", "needs at least 2 imagined steps"),
    "M > G": (f"{NEW} --planner.elites 9", "planner.elites = 9: must not exceed planner.candidates = 6"),
    "M = 0": (f"{NEW} --planner.elites 0", "planner.elites = 0"),
    "no candidates": (f"{NEW} --planner.candidates 0", "planner.candidates = 0"),
    "no CEM iteration": (f"{NEW} --planner.iterations 0", "planner.iterations = 0"),
    "gamma > 1": (f"{NEW} --behavior.gamma 1.5", "behavior.gamma = 1.5: must not exceed 1"),
    "lambda > 1": (f"{NEW} --behavior.lam 2", "behavior.lam = 2.0: must not exceed 1"),
    "NaN": (f"{NEW} --model.learning-rate nan", "model.learning_rate = nan: must be finite"),
    "infinity": (f"{NEW} --skill.beta inf", "skill.beta = inf: must be finite"),
    "negative noise": (f"{NEW} --skill.noise -0.1", "skill.noise = -0.1"),
    "no evaluation episodes": (f"{NEW} --train.eval-episodes 0", "train.eval_episodes = 0"),
    "no batch": (f"{NEW} --train.batch-size 0", "train.batch_size = 0"),
    "decoder bounds crossed": (f"{NEW} --model.decoder-min-std 2", "must be below model.decoder_max_std"),
    "intrinsic reward without skills": (f"{NEW} --skill.source none", "needs skills: set skill.source"),
    "several at once": (f"{NEW} --seed -1 --threads -2", "seed = -1: must be an integer in 0 .. 2**31 - 1\nthreads"),
    "replay of less than an episode": (f"{NEW} --collect.replay-capacity 500", "takes 501 rows"),
    # Folders
    "logdir is a file": (f"{TRAIN} file --device cpu", "file is not empty and holds no run"),
    "logdir below a file": (f"{TRAIN} file/run --device cpu", "cannot write to file/run: Not a directory"),
    "logdir holds something else": (f"{TRAIN} thesis --device cpu", "thesis is not empty and holds no run"),
    "another configuration": (RUN.format("run") + " --skill.beta 0.5", "skill.beta: 0.1 there, 0.5 asked for"),
    "another task": (RUN.format("run") + " --task walker_walk", "task: 'cheetah_run' there, 'walker_walk' asked for"),
    "another seed": (RUN.format("run") + " --seed 4", "seed: 0 there, 4 asked for"),
    "damaged configuration": (RUN.format("damaged"), "config.json cannot be used"),
    "configuration of another version": (RUN.format("newer"), "written by another version: warp"),
    # Checkpoints
    "truncated checkpoint": (RUN.format("truncated"), "000001000.pt is not a readable checkpoint"),
    "altered checkpoint": (RUN.format("altered"), "is not what was written"),
    "empty checkpoint": (RUN.format("empty"), "not a readable checkpoint"),
    "foreign checkpoint": (RUN.format("foreign"), "not written by this version"),
    "checkpoint that runs code": (RUN.format("malicious"), "not a readable checkpoint"),
    "checkpoint of another agent": (RUN.format("alien"), "does not fit"),
    "replay gone": (RUN.format("forgetful"), "reward.f32 is missing"),
    "replay altered": (RUN.format("forger"), "its content differs"),
    "replay shortened": (RUN.format("shortened"), "the checkpoint needs"),
    # Evaluating
    "evaluate without a logdir": ("evaluate", "logdir"),
    "evaluate nothing": ("evaluate --logdir nowhere", "nowhere holds no run"),
    "evaluate a file": ("evaluate --logdir file", "file holds no run"),
    "evaluate before a checkpoint": ("evaluate --logdir young", "young has no checkpoint yet"),
    "evaluate a damaged configuration": ("evaluate --logdir damaged", "config.json cannot be used"),
    "evaluate a truncated checkpoint": ("evaluate --logdir truncated", "not a readable checkpoint"),
    "evaluate another agent": ("evaluate --logdir alien", "does not fit"),
    "no episodes": ("evaluate --logdir run --episodes 0", "episodes = 0: must be at least 1"),
    "evaluate with a negative seed": ("evaluate --logdir run --seed -1", "seed = -1: must be an integer"),
    "evaluate on a missing GPU": ("evaluate --logdir run --device cuda:9", "cuda:9"),
    "evaluate with a GPU backend": ("evaluate --logdir run --backend triton --device cpu", "triton"),
    # Plotting
    "plot nothing": ("plot nowhere", "nowhere"),
    "plot a run without evaluations": ("plot young", "young"),
    "plot what is no run": ("plot thesis", "thesis"),
    "plot into a folder that is not there": ("plot run --out there/x.png", "there"),
    "plot a format that is none": ("plot run --out x.doc", ".png"),
    "a reference that is none": ("plot run --reference file", "file"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What a logdir may be: a run, and all that can be wrong with one."""
    top = tmp_path_factory.mktemp("folders")
    config = make_config("smoke", device="cpu", backend="reference", env_steps=1000)
    train(config, top / "run", progress=False)
    RunFolder(top / "young").claim(config)
    (top / "file").write_text("x")
    (top / "thesis").mkdir()
    (top / "thesis" / "thesis.tex").write_text("x")

    def copy(name):
        shutil.copytree(top / "run", top / name)
        return top / name

    def checkpoints(name):
        return copy(name) / "checkpoints" / "000001000.pt"

    (copy("damaged") / "config.json").write_text('{"task": "che')
    newer = copy("newer") / "config.json"
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "warp": 9}))
    good = (top / "run" / "checkpoints" / "000001000.pt").read_bytes()
    checkpoints("truncated").write_bytes(good[: len(good) // 2])
    middle = len(good) // 3
    checkpoints("altered").write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    checkpoints("empty").write_bytes(b"")
    checkpoints("malicious").write_bytes(pickle.dumps(Malice()))
    foreign = checkpoints("foreign")
    import torch

    torch.save({"weights": torch.zeros(3)}, foreign)
    state = checkpoint.load(checkpoints("alien"))
    state["agent"]["modules"] = {"w": torch.zeros(2)}
    checkpoint.save(top / "alien" / "checkpoints", 1000, state)
    (copy("forgetful") / "replay" / "reward.f32").unlink()
    rewards = copy("forger") / "replay" / "reward.f32"
    rewards.write_bytes(bytes(rewards.stat().st_size))
    actions = copy("shortened") / "replay" / "action.f32"
    actions.write_bytes(actions.read_bytes()[:-8])
    return top


class Malice:
    def __reduce__(self):
        return (sys.exit, ("code was run",))


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_written(name, folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    before = everything(folders)
    command, named = BAD[name]
    try:
        status = main(command.split())
    except SystemExit as exit_:  # the parser's
        status = exit_.code
    printed = capsys.readouterr()
    assert named in printed.err
    assert "Traceback" not in printed.err
    assert status == 2
    assert everything(folders) == before
