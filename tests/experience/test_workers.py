"""Environments in other processes, which are real ones here: what they give, and what becomes of a run without them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from lsp_fast import envs
from lsp_fast.cli import main
from lsp_fast.errors import EnvironmentFailed, LspFastError
from lsp_fast.evaluate import Evaluator, make_envs
from lsp_fast.experience import relabel
from lsp_fast.experience.driver import Driver
from lsp_fast.experience.serve import GRACE
from lsp_fast.experience.workers import Workers
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training.loop import train
from lsp_fast.training.run import Run

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture
def troubles(monkeypatch, tmp_path):
    """Odd environments can be had as `gym:troubles:NAME-v0`, here and in processes that are started."""
    monkeypatch.syspath_prepend(str(CASES))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def short(smoke, troubles):
    """A configuration of two environments in two processes, with episodes of 100 steps, that learns from 200 on."""

    def config(name, **values):
        default = {"env_steps": 800, "collect__prefill": 200, "train__eval_every": 300}
        default |= {"collect__num_envs": 2, "collect__workers": 2, "train__eval_episodes": 3}
        return smoke(task=f"gym:troubles:{name}-v0", **(default | values))

    return config


def opengl():
    """Skip where there is none."""
    try:
        env = envs.make("cheetah_run", obs="pixels")
        env.reset()
        env.close()
    except LspFastError as error:
        pytest.skip(str(error))


class Rows(list):
    """A replay that remembers its rows."""

    def add(self, *row):
        self.append([value.tobytes() if isinstance(value, np.ndarray) else value for value in row])


def play(environments, steps, **options):
    """Rows, summaries and the state after so many random steps."""
    rows = Rows()
    driver = Driver(environments, 3, rows, **options)
    driver.reset()
    rng, finished = np.random.default_rng(0), []
    for _ in range(steps):
        finished += driver.step(rng.uniform(-1, 1, (len(environments), *environments[0].action_space.shape))).finished
    state = driver.state()
    return rows, finished, [actions.tobytes() for actions in state.pop("actions")], state


@pytest.mark.parametrize(
    ("task", "obs", "steps", "count", "counts"),
    [
        ("gym:Pendulum-v1", "features", 250, 3, (1, 2, 3)),
        ("quadruped_reach", "features", 30, 2, (2,)),
        ("point_mass_easy", "features", 510, 2, (2,)),
        ("cheetah_run", "pixels", 4, 2, (2,)),
    ],
)
def test_rows_are_those_of_one_process(task, obs, steps, count, counts):
    if obs == "pixels":
        opengl()
    kept = {"info_extras": lambda info: relabel.extras(info, 2)} if task == "quadruped_reach" else {}
    here = [envs.make(task, obs=obs) for _ in range(count)]
    expected = play(here, steps, **kept)
    for processes in counts:
        with Workers(processes, task, obs=obs) as workers:
            there = [workers.make() for _ in range(count)]
            for env, other in zip(here, there, strict=True):
                assert (env.observation_space, env.action_space) == (other.observation_space, other.action_space)
                assert env.max_env_steps == other.max_env_steps
                assert getattr(env.unwrapped, "entries", None) == getattr(other.unwrapped, "entries", None)
            assert play(there, steps, **kept) == expected


def told(folder):
    """The metrics of a run, but for what the clock says."""
    rows = read_rows(Path(folder) / "metrics.jsonl")
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def equal(a, b):
    """Whether two parts of checkpoints are."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def same(one, other):
    """Whether two runs came to the same metrics, the same checkpoint and the same replay."""
    a, b = (checkpoint.load_latest(Path(folder) / "checkpoints") for folder in (one, other))
    files = sorted(path.name for path in Path(one, "replay").iterdir())
    return (
        told(one) == told(other)
        and equal(a, b)
        and files == sorted(path.name for path in Path(other, "replay").iterdir())
        and all(Path(one, "replay", name).read_bytes() == Path(other, "replay", name).read_bytes() for name in files)
    )


@pytest.mark.parametrize("overlap", [False, True])
def test_a_run_is_the_same_and_goes_on_with_another_number_of_processes(overlap, smoke, tmp_path):
    def config(workers):
        return smoke(
            task="gym:Pendulum-v1",
            env_steps=1200,
            collect__num_envs=2,
            collect__workers=workers,
            collect__prefill=400,
            train__train_every=10,
            train__eval_every=500,
            train__eval_episodes=2,
            train__overlap=overlap,
        )

    whole, other = (train(config(workers), tmp_path / str(workers), progress=False).folder for workers in (0, 2))
    assert len(told(whole)) > 3 and same(whole, other)
    if overlap:
        return
    # In the middle of episodes, between two evaluations.
    parts = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "out_of_time", property(lambda run: run.env_steps >= 620))
        assert not train(config(2), parts, progress=False).finished
        patch.setattr(Run, "out_of_time", property(lambda run: run.env_steps >= 860))
        assert not train(config(0), parts, progress=False).finished
    assert train(config(1), parts, progress=False).resumed_at >= 860
    assert same(whole, parts)


@pytest.mark.slow
def test_a_run_from_pixels_is_the_same(smoke, tmp_path):
    def config(workers):
        options = {"collect__num_envs": 2, "collect__workers": workers, "collect__prefill": 2000}
        options |= {"train__eval_episodes": 1, "train__pretrain": 2, "train__train_every": 20, "env_steps": 2100}
        return smoke(task="cheetah_run", obs="pixels", fast_render=True, **options)

    opengl()
    whole = train(config(0), tmp_path / "0", progress=False).folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "out_of_time", property(lambda run: run.env_steps >= 2040))
        assert not train(config(2), tmp_path / "2", progress=False).finished
    assert train(config(1), tmp_path / "2", progress=False).updates and same(whole, tmp_path / "2")


@pytest.mark.filterwarnings("ignore:.*evaluated in the one")
@pytest.mark.parametrize("name", ["Single", "Shared"])
def test_one_that_can_exist_once_or_is_disturbed_is_found_as_in_one_process(name, short):
    for workers in (0, 1):
        with pytest.warns(UserWarning, match="evaluated in the one that is trained in"):
            train(short(name, collect__num_envs=1, collect__workers=workers), str(workers), progress=False)
    assert same("0", "1")
    if name == "Shared":
        config = short(name, collect__num_envs=3)
        with pytest.warns(UserWarning, match="disturb each other"), ExitStack() as stack:
            workers = stack.enter_context(Workers(2, config.task))
            stack.enter_context(Evaluator(config, 2, make_envs(config, 3, workers), workers))


def newest(folder="run"):
    return checkpoint.load_latest(Path(folder, "checkpoints"))


def test_an_environment_that_raises_there_ends_a_run_as_here(short, monkeypatch, capfd):
    monkeypatch.setenv("FAILS", "130")
    with pytest.raises(EnvironmentFailed) as caught:
        train(short("Raises"), "run", progress=False)
    assert "Raises-v0 (environment 0) raised ConnectionResetError: the simulator has gone away (troubles.py:" in str(
        caught.value
    )
    assert f"The checkpoint {checkpoint.path_of(Path('run/checkpoints'), newest()['env_steps'])}" in str(caught.value)
    # The whole traceback is there for those who look, and nobody else is told of it.
    assert 'raise ConnectionResetError("the simulator' in "".join(caught.value.__cause__.__cause__.__notes__)
    assert capfd.readouterr().err == ""
    assert [len(actions) for actions in newest()["driver"]["actions"]] == [0, 0]
    monkeypatch.delenv("FAILS")
    again = train(short("Raises"), "run", progress=False)
    assert again.finished and again.resumed_at and again.updates


@pytest.mark.parametrize(
    ("how", "told"),
    [("exit", "exited with status 7"), ("kill", "was killed by SIGKILL"), ("sys.exit", "raised SystemExit: 7 ")],
)
def test_a_process_that_dies_ends_a_run_with_a_line_and_a_checkpoint(how, told, short, monkeypatch, capfd):
    monkeypatch.setenv("DIES", f"{how} 130")
    command = "train --preset smoke --device cpu --backend reference --logdir run --task gym:troubles:Dies-v0 "
    command += "--env-steps 800 --collect.prefill 200 --collect.num-envs 2 --collect.workers 2"
    assert main(command.split()) == 2
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    line = errors.splitlines()[-1]
    assert line.startswith("lsp-fast: gym:troubles:Dies-v0 (environment 0) ") and told in line
    assert "in agent step " in line and "the same command goes on from there" in line
    assert newest()["env_steps"] > 200
    monkeypatch.delenv("DIES")
    assert main(command.split()) == 0
    assert newest()["finished"]


def test_one_that_dies_while_it_is_made_is_refused(troubles, monkeypatch):
    monkeypatch.setenv("DIES", "exit 0")
    with (
        Workers(1, "gym:troubles:Dies-v0") as workers,
        pytest.raises(
            LspFastError, match=r"Dies-v0 lost its process \d+, which exited with status 7, while it was made"
        ),
    ):
        workers.make()


START = "import sys; sys.path.insert(0, {cases!r}); from lsp_fast.cli import main; sys.exit(main(sys.argv[1:]))"
LONG = (
    "train --preset smoke --device cpu --backend reference --logdir run --env-steps 1000000 --collect.prefill 200 "
    "--collect.num-envs 2 --collect.workers 2"
)


def start(task, **variables):
    """A training in a process group of its own, as from a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", START.format(cases=str(CASES)), *LONG.split(), "--task", task],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def until(true, seconds=60.0, process=None):
    """Wait for what `true` says, as long as the process is there."""
    end = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def writes_metrics():
    return read_rows(Path("run/metrics.jsonl"))


def children(process):
    """The processes that it has started, which serve environments."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"serve(" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("task", ["gym:Pendulum-v1", "gym:troubles:Hangs-v0"], ids=["at work", "in a step without end"])
def test_none_is_left_when_the_trainer_is_killed(task, troubles):
    process = start(task, HANGS="20")
    try:
        if "Hangs" in task:
            until(Path("hanging").exists, process=process)
        else:
            until(writes_metrics, process=process)
        pids = children(process)
        assert len(pids) == 2 and all(map(alive, pids))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    until(lambda: not any(map(alive, pids)), GRACE + 10)


def test_a_second_signal_quits_though_no_step_ends(troubles):
    process = start("gym:troubles:Hangs-v0", HANGS="20")
    try:
        until(Path("hanging").exists, process=process)
        pids = children(process)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        errors = process.communicate(timeout=3 * GRACE)[1].decode()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "lsp-fast: quit" in errors and "Traceback" not in errors
    assert not any(map(alive, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_that_reaches_all_ends_a_run_with_a_checkpoint(number, troubles):
    process = start("gym:Pendulum-v1")
    try:
        until(writes_metrics, process=process)
        pids = children(process)
        # As a terminal does to its process group, and a scheduler to every process of a job.
        for pid in pids:
            os.kill(pid, number)
        time.sleep(0.2)
        os.killpg(process.pid, number)
        errors = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "Traceback" not in errors and "Interrupt" not in errors
    assert newest()["env_steps"] >= 100 and not any(map(alive, pids))


def test_two_processes_step_at_once(troubles, monkeypatch):
    monkeypatch.setenv("SLEEPS", "0.2")
    with Workers(2, "gym:troubles:Sleeps-v0", action_repeat=1) as workers:
        driver = Driver([workers.make() for _ in range(2)], 0)
        driver.reset()
        began = time.perf_counter()
        for _ in range(4):
            driver.step(np.zeros((2, 1)))
        assert 0.8 <= time.perf_counter() - began < 1.5  # one after the other takes 1.6


def test_each_takes_one_thread_and_nothing_of_this_process(troubles):
    with Workers(2, "gym:troubles:Looks-v0") as workers:
        seen = [workers.make().reset(seed=0)[0].tolist() for _ in range(2)]
        # OMP_NUM_THREADS, and whether torch was imported.
        assert seen == [[1.0, 0.0]] * 2 and len(set(workers.pids)) == 2 and os.getpid() not in workers.pids


def test_what_was_registered_here_is_taken_there(troubles):
    import threading

    import troubles as odd

    class Mine(odd.Plain):
        def step(self, action):
            return (
                self.seen,
                0.25,
                False,
                False,
                {"lock": threading.Lock()},
            )  # an info that nobody reads may be anything

    gymnasium.register("TakenAlong-v0", Mine, max_episode_steps=10)
    with Workers(1, "gym:TakenAlong-v0", action_repeat=1) as workers:
        env = workers.make()
        env.reset(seed=0)
        assert env.step(np.zeros(1, np.float32))[1:] == (0.25, False, False, {"env_steps": 1})
    lock = threading.Lock()
    gymnasium.register("Held-v0", lambda: (lock, Mine())[1], max_episode_steps=10)
    envs.make("gym:Held-v0")
    with pytest.raises(LspFastError, match=r"gym:Held-v0 cannot be taken .*lock.*; .* or set --collect\.workers 0"):
        Workers(1, "gym:Held-v0")


def test_errors_and_warnings_come_from_there(troubles):
    with Workers(1, "gym:NoSuch-v7") as workers, pytest.raises(LspFastError, match=r"cannot make task 'gym:NoSuch-v7'"):
        workers.make()
    with (
        Workers(1, "gym:troubles:Unlimited-v0") as workers,
        pytest.warns(UserWarning, match=r"Unlimited-v0 registers no max_episode_steps"),
    ):
        workers.make()
    with Workers(1, "gym:troubles:ClosesBadly-v0") as workers:
        env = workers.make()
        with pytest.raises(Exception, match="the process was gone already"):
            env.close()
    with Workers(1, "gym:Pendulum-v1") as workers:
        env = workers.make()
        env.reset(seed=0)
        with pytest.raises(Exception, match=r"raised ValueError: an action has shape \(1,\), not \(2,\) \(gym.py:"):
            env.step(np.zeros(2, np.float32))
        assert env.step(np.zeros(1, np.float32))[0].shape == (3,)  # it goes on


def test_an_answer_that_nobody_waited_for_is_not_taken_for_another(troubles):
    with Workers(1, "gym:Pendulum-v1") as workers:
        first, second = workers.make(), workers.make()
        expected = first.reset(seed=7)[0]
        second.reset(seed=1)
        for env in (first, second):
            env.begin(np.zeros(1, np.float32))
            env.run()
        np.testing.assert_array_equal(first.reset(seed=7)[0], expected)
        assert second.step(np.zeros(1, np.float32))[4] == {"env_steps": 2}
    with pytest.raises(Exception, match="lost its process"):
        first.reset(seed=0)
    first.close()  # and says nothing


def test_the_evaluations_environments_are_closed_there(short):
    result = train(short("Closes"), "run", progress=False)
    assert result.finished and json.loads(Path("run/scores.json").read_text())[0]["xs"] == [300, 600, 800]
