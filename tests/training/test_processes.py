"""Several processes that train one agent: as one would, together to the end, and together where one fails."""

import io
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from agents.test_update import batches, build
from tqdm import tqdm

from lsp_fast import processes
from lsp_fast.config import make_config, to_dict
from lsp_fast.errors import ConfigError, EnvironmentFailed, LspFastError
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training import together
from lsp_fast.training.loop import train
from lsp_fast.training.run import Result

# A server that has imported everything forks the processes: importing takes longer than they do.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["lsp_fast.training.loop", "dm_control.suite", "torch.utils.tensorboard", "agents.test_update"]
)
TIMED = ("seconds", "updates_per_second")
TASK = "gym:Pendulum-v1"  # episodes of 200 steps


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def one(rank, count, port, answers, function, given):
    """A process as torchrun starts it."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())
    try:
        content = io.BytesIO()
        torch.save(function(*given), content)  # in the queue itself: tensors would be fetched from who has ended
        answers.put((rank, content.getvalue()))
    except LspFastError as error:
        answers.put((rank, (type(error).__name__, str(error), processes.tells())))


def start(function, *given, count=2):
    """So many processes that call a function; and where their answers come."""
    answers, port = CONTEXT.Queue(), free_port()
    begun = [CONTEXT.Process(target=one, args=(r, count, port, answers, function, given)) for r in range(count)]
    for process in begun:
        process.start()
    return begun, answers


def together_call(function, *given, count=2):
    """What each of so many processes returns, in their order."""
    begun, answers = start(function, *given, count=count)
    found = {}
    for _ in begun:
        rank, said = answers.get(timeout=90)
        found[rank] = torch.load(io.BytesIO(said), weights_only=False) if isinstance(said, bytes) else said
    for process in begun:
        process.join(30)
        assert process.exitcode == 0
    return [found[rank] for rank in range(count)]


# What they tell each other.


def exchange():
    processes.join(20)
    rank = processes.rank()
    mean, variance = processes.moments(torch.tensor([1.0 + 4 * rank]), torch.tensor([2.0]))
    rows = [(10, np.float32([0.0]), np.float32([1.0])), (30, np.float32([4.0]), np.float32([3.0]))]
    found = {
        "average": [x.tolist() for x in processes.average([torch.tensor([[1.0, rank]]), torch.tensor(3.0 * rank)])],
        "moments": (mean.item(), variance.item()),
        "pooled": [float(x[0]) for x in processes.pooled(*zip(*processes.gather(rows[rank]), strict=True))],
        "numbers": processes.numbers([rank, True, -5]),
        "said": (processes.count(), rank, processes.leads(), processes.local()),
    }
    first = torch.tensor([float(rank + 7)])
    processes.follow_first([first])
    processes.leave()
    return {**found, "first": first.item(), "after": processes.count()}


def test_what_the_processes_tell_each_other():
    found = together_call(exchange)
    for rank, told in enumerate(found):
        assert told["average"] == [[[1.0, 0.5]], 1.5]
        assert told["moments"] == (3.0, 6.0)  # means 1 and 5: 2 + 2²
        rows = np.concatenate([[0.0 + d for d in (-1, 1)] * 5, [4.0 + d for d in (-3, 3)] * 15])
        assert told["pooled"] == pytest.approx([rows.mean(), rows.std()])
        assert told["numbers"] == [[0, 1, -5], [1, 1, -5]]
        assert told["said"] == (2, rank, rank == 0, (rank, 2))
        assert told["first"] == 7.0 and told["after"] == 1


def test_alone_everything_is_as_it_was():
    x = torch.randn(3)
    [same] = processes.average([x])
    assert same is x and processes.numbers([3, 4]) == [[3, 4]] and processes.gather("x") == ["x"]
    assert processes.leads() and processes.count() == 1 and processes.moments(x, x) == (x, x)


# One step.

LENGTH, BATCH = 8, 4


class Recorded(Noise):
    """The numbers of the whole, kept in the order in which they are drawn."""

    drawn: list

    def normal(self, stream, *shape):
        self.drawn.append(super().normal(stream, *shape))
        return self.drawn[-1]


class Part(Noise):
    """The share that a process has of those numbers: of sequences, or of states, which lie time by time."""

    drawn: list
    rank: int

    def normal(self, stream, *shape):
        whole = self.drawn.pop(0)
        [axis] = [i for i, (a, b) in enumerate(zip(whole.shape, shape, strict=True)) if a != b]
        size = whole.shape[axis]
        times = 1 if size == BATCH else LENGTH
        view = whole.unflatten(axis, (times, BATCH, size // times // BATCH))
        half = BATCH // 2
        return view.narrow(axis + 1, self.rank * half, half).flatten(axis, axis + 2)


OPTIONS = {
    "lsp": {},
    "options": {
        "skill__beta_kind": "gradient",
        "predictor__normalise": True,
        "value__slow": 0.1,
        "actor__saturation": 0.1,
        "planner__rollouts": "shared",
    },
    "dreamer": {"algorithm": "dreamer"},
}


def updated(agent, given, steps=2):
    """The gradients that every optimiser took, and metrics and buffers after some updates."""
    taken = []
    for name, optimizer in agent.optimizers.items():

        def step(gradients, name=name, own=optimizer._step):
            taken.append((name, [g.clone() for g in gradients]))
            return own(gradients)

        optimizer._step = step
    metrics = [agent.update(batch) for batch in given[:steps]]
    return taken, [{k: v.item() for k, v in m.items()} for m in metrics], dict(agent.modules.named_buffers())


def agent_of(batch_size, overrides):
    return build(
        **{"backend": "cpp", "train__batch_size": batch_size, "train__batch_length": LENGTH, "behavior__plan_states": 0,
           "skill__per_plan": 1, "model__free_nats": 0.0, **overrides}
    )  # fmt: skip


def half_of_the_update(overrides, drawn, given):
    processes.join(20)
    agent, rank = agent_of(BATCH // 2, overrides), processes.rank()
    agent.noise.__class__ = Part
    agent.noise.drawn, agent.noise.rank = list(drawn), rank
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    taken, metrics, buffers = updated(agent, [SequenceBatch(*(x[half] for x in batch)) for batch in given])
    processes.leave()
    return taken, metrics, buffers, list(agent.modules.parameters())


@pytest.mark.parametrize("variant", OPTIONS)
def test_two_halves_make_the_step_of_the_whole(variant):
    agent = agent_of(BATCH, OPTIONS[variant])
    agent.noise.__class__, agent.noise.drawn = Recorded, []
    given = list(batches(agent.config, 2))
    taken, metrics, buffers = updated(agent, given)
    halves = together_call(half_of_the_update, OPTIONS[variant], agent.noise.drawn, given)
    for own, *_ in halves:
        assert [name for name, _ in own] == [name for name, _ in taken]
        for (name, gradients), (_, whole) in zip(own, taken, strict=True):
            for a, b in zip(gradients, whole, strict=True):
                assert (a - b).abs().max() <= 1e-5 * max(b.abs().max().item(), 1e-2), name
    for name in ("world_model/loss", "behavior/actor_loss", "behavior/value_loss"):
        for step in range(2):
            both = np.mean([half[1][step][name] for half in halves])
            assert both == pytest.approx(metrics[step][name], rel=1e-5, abs=1e-5)
    for name, value in buffers.items():
        torch.testing.assert_close(halves[0][2][name], value, rtol=1e-4, atol=1e-5)
    for a, b in zip(halves[0][3], halves[1][3], strict=True):
        assert torch.equal(a, b)


# Whole runs.


def config(algorithm="lsp", **overrides):
    values = {
        "device": "cpu",
        "task": TASK,
        "processes": 2,
        "collect__num_envs": 2,
        "env_steps": 1100,
        "collect__prefill": 600,
        "train__checkpoint_every": 300,
        "train__eval_every": 500,
        "process_timeout": 30.0,
    }
    return make_config("smoke", algorithm, **{**values, **overrides})


def trained(c, folder, until=None):
    """Train; until so many environment steps, and then a signal reaches the second process."""
    if until is not None and processes.invited_rank() == 1:
        from lsp_fast.training.collector import Collector

        collect = Collector.collect

        def watched(self, *given):
            collect(self, *given)
            if self.env_steps >= until:
                os.kill(os.getpid(), signal.SIGTERM)

        Collector.collect = watched
    result = train(c, folder, progress=False)
    return result.env_steps, result.updates, result.finished, result.timed_out


def comparable(folder):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_rows(folder / "metrics.jsonl")]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("algorithm", ["lsp", pytest.param("hiro_mi", marks=pytest.mark.slow)])
def test_a_run_repeats_and_goes_on_to_the_bit(tmp_path, algorithm):
    c = config(algorithm)
    first, other, broken = (tmp_path / name for name in ("first", "other", "broken"))
    [whole, _] = together_call(trained, c, first)
    assert whole == (1100, whole[1], True, False) and whole[1] > 10
    rows = read_rows(first / "metrics.jsonl")
    assert [row["env_steps"] for row in rows if "eval/return" in row] == [600, 1000, 1100]
    assert rows[-1]["agent_steps"] == 550 and "train/return" in rows[-1]
    assert together_call(trained, c, other)[0] == whole
    [stopped, _] = together_call(trained, c, broken, 830)
    assert stopped == (832, stopped[1], False, False)
    [ended, _] = together_call(trained, c, broken)
    assert ended == whole
    state = checkpoint.load_latest(first / "checkpoints")
    assert len(state["others"]) == 1 and "modules" not in state["others"][0]["agent"]
    for folder in (other, broken):
        assert comparable(folder) == comparable(first)
        assert same(checkpoint.load_latest(folder / "checkpoints"), state)
        for path in sorted(first.glob("replay*/*.f32")) + sorted(first.glob("replay*/*.bin")):
            assert path.read_bytes() == (folder / path.relative_to(first)).read_bytes()
    assert (first / "replay-1").is_dir()


def test_the_processes_see_different_experience(tmp_path):
    together_call(trained, config(env_steps=700), tmp_path)
    state = checkpoint.load_latest(tmp_path / "checkpoints")
    other = state["others"][0]
    assert not torch.equal(state["driver"]["actions"][0], other["driver"]["actions"][0])
    assert state["sampler"] != other["sampler"]
    assert all(not torch.equal(x, other["agent"]["noise"][k]) for k, x in state["agent"]["noise"].items())


def test_another_number_of_processes_is_refused_with_the_remedy(tmp_path):
    together_call(trained, config(env_steps=700), tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"processes = 1: the run in .* is of 2.*go on with --processes 2"):
        train(config(processes=1, env_steps=900), tmp_path, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"collect__num_envs": 3}, r"collect\.num_envs = 3: 2 processes cannot share it equally; set it to 4"),
        ({"collect__workers": 1}, r"collect\.workers = 1: .*set it to 2"),
        ({"train__batch_size": 5}, r"train\.batch_size = 5: .*set it to 6"),
        ({"behavior__plan_states": 3}, r"behavior\.plan_states = 3: .*set it to 4"),
        ({"processes": 0}, "processes = 0: must be at least 1"),
        ({"transfer__source": "x", "transfer__relabel": True}, "relabelled is not dealt out"),
    ],
)
def test_what_cannot_be_shared_is_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        config(**overrides)


def test_a_share_is_an_equal_part_with_numbers_of_its_own(monkeypatch):
    whole = config(behavior__plan_states=4, threads=0, collect__workers=2)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "local", lambda: (1, 2))
    shares = []
    for rank in range(2):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append(together.share(whole))
    for own in shares:
        assert (own.collect.num_envs, own.collect.workers, own.train.batch_size, own.behavior.plan_states) == (
            1,
            1,
            2,
            2,
        )
        assert own.env_steps == whole.env_steps and own.train.train_every == whole.train.train_every
    assert shares[0].seed == whole.seed != shares[1].seed and shares[1].threads >= 1
    monkeypatch.setattr(together.backends, "device", lambda name: torch.device("cuda", 0))
    assert together.share(whole).device == "cuda:1"


# Where one fails.


def fails_in_one(c, folder):
    if processes.invited_rank() == 1:
        from gymnasium.envs.classic_control import PendulumEnv

        step, made = PendulumEnv.step, []

        def broken(self, action):
            made.append(1)
            if len(made) == 420:
                raise RuntimeError("a wire came off")
            return step(self, action)

        PendulumEnv.step = broken
    return trained(c, folder)


def test_an_environment_that_fails_in_one_ends_all_with_a_checkpoint(tmp_path):
    found = together_call(fails_in_one, config(), tmp_path)
    assert [kind for kind, *_ in found] == ["EnvironmentFailed"] * 2
    for _, message, _ in found:
        assert "a wire came off" in message and re.search(r"000000\d+\.pt is from before it; the same command", message)
    assert sum(tells for *_, tells in found) == 1
    # The step that one of them failed in counts for the other.
    assert together_call(trained, config(), tmp_path)[0][0] in (1100, 1102)


def holds(c, folder, how):
    """Train; the second process is killed, or stops, once there is a checkpoint."""
    if processes.invited_rank() == 1:
        from lsp_fast.training.collector import Collector

        collect = Collector.collect

        def watched(self, *given):
            if self.env_steps >= 900:
                os.kill(os.getpid(), how)
            collect(self, *given)

        Collector.collect = watched
    return trained(c, folder)


@pytest.mark.parametrize(
    ("how", "said"),
    [(signal.SIGKILL, r"process 1 \(\d+\) has ended"), (signal.SIGSTOP, r"process 1 \(\d+\) did not answer for 3 sec")],
)
def test_one_that_is_killed_or_hangs_is_named_and_ends_all(tmp_path, how, said):
    c = config(process_timeout=3.0)
    begun, answers = start(holds, c, tmp_path, how)
    rank, (kind, message, tells) = answers.get(timeout=60)
    assert (rank, kind, tells) == (0, "ProcessLost", True)
    assert re.search(said, message) and re.search(r"000000\d+\.pt is whole, and the same command goes on", message)
    for process in begun:
        process.join(10)
    assert begun[1].exitcode == -signal.SIGKILL, "one that hangs is not left behind"
    assert together_call(trained, config(), tmp_path)[0][0] == 1100


# The commands.


def command(*argv, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


GIVEN = [
    "--preset",
    "smoke",
    "--task",
    TASK,
    "--device",
    "cpu",
    "--collect.num-envs",
    "2",
    "--train.eval-every",
    "5000",
]


def test_one_command_starts_them_passes_a_signal_on_and_goes_on(tmp_path):
    argv = ["-m", "lsp_fast.cli", "train", *GIVEN, "--processes", "2", "--logdir", str(tmp_path / "run")]
    process = command(*argv, "--env-steps", "400000")
    rows = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (rows.exists() and len(rows.read_text().splitlines()) > 3) and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in said, errors
    assert "Traceback" not in errors
    steps = int(re.search(r"interrupted at (\d+)", said)[1])
    process = command(*argv, "--env-steps", str(steps + 200))
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and f"at {steps + 200} environment steps" in said, errors


def test_what_is_refused_is_told_once_in_a_line(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("")
    process = command("-m", "lsp_fast.cli", "train", *GIVEN, "--processes", "2", "--logdir", str(tmp_path / "x"))
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and said == ""
    assert errors.splitlines()[-1].startswith("lsp-fast: ") and errors.count("is not empty and holds no run") == 1


def test_torchrun_starts_them_too(tmp_path):
    argv = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lsp_fast.cli", "train"]
    process = command(*argv, *GIVEN, "--env-steps", "1300", "--logdir", str(tmp_path / "run"))
    said, errors = process.communicate(timeout=90)
    assert process.returncode == 0 and said.count("at 1300 environment steps") == 1, errors
    assert json.loads((tmp_path / "run" / "config.json").read_text())["processes"] == 2


def test_torchruns_number_and_ours_must_agree(monkeypatch):
    monkeypatch.setattr(processes, "invited", lambda: 4)
    assert together.invite(config(processes=1)).processes == 4
    with pytest.raises(ConfigError, match="processes = 2: torchrun started 4"):
        together.invite(config())


def test_a_result_survives_the_way_to_the_command(tmp_path):
    result = Result(1, 2, 0, None, True, tmp_path, tmp_path / "c", tmp_path / "s", None)
    assert together._answer(json.loads(json.dumps(together.told(result)))) == result
    with pytest.raises(EnvironmentFailed, match="fell"):
        together._answer({"error": "EnvironmentFailed", "message": "it fell"})
    assert to_dict(config())["processes"] == 2
