"""A plan in C++ as Python calls it: threads, forks, signals, weights that change, and what it does not take."""

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from plans import CPP, PARTS, assert_equal, build, plan
from rollouts import plan_skills, standard_normal

from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import cpp
from lsp_fast.config import make_config
from lsp_fast.ops.types import PlanKey, State
from lsp_fast.planning.planner import plan_rules


def test_results_do_not_depend_on_threads():
    problem = build(states=7, planner__candidates=5)
    whole = plan_skills(*problem, CPP)
    try:
        for threads in (2, 3, 16):
            torch.set_num_threads(threads)
            assert_equal(plan_skills(*problem, CPP), whole)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("candidates", [16, 40])  # one tile of rollouts, and two of different widths
def test_a_team_on_one_state_changes_nothing(threads, candidates):
    problem = build(1, preset="paper", planner__candidates=candidates)  # large enough for a team
    alone = plan_skills(*problem, CPP)
    for number in (2, 3, 5):
        threads(number)
        for _ in range(5):  # whoever is there in time joins
            assert_equal(plan_skills(*problem, CPP), alone)


def test_several_python_threads_plan_at_once(threads):
    problems = [build(states, seed=states, preset="cpu") for states in (1, 5, 9)]
    expected = [plan_skills(*problem, CPP) for problem in problems]
    threads(2)
    with ThreadPoolExecutor(3) as executor:
        for _ in range(3):
            for got, wanted in zip(executor.map(lambda p: plan_skills(*p, CPP), problems), expected, strict=True):
                assert_equal(got, wanted)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_plans_too(threads):
    problem = build(5)
    threads(2)
    expected = plan_skills(*problem, CPP)  # our threads are there now; a child has none of them
    child = os.fork()
    if child == 0:
        try:
            got = plan_skills(*problem, CPP)
            os._exit(0 if all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_every_optimiser_and_every_load_shows_in_the_next_plan():
    sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
    from test_update import batches

    agent = ImaginationAgent(5, 2, make_config("smoke", device="cpu", backend="cpp", planner__value="task"))
    start, _, noise, config = build()
    planned = [agent.optimizers[name] for name in ("world_model", "actor", "task_value")]
    stored = copy.deepcopy(agent.state_dict())
    before = first = plan_skills(start, agent.plan_weights(), noise, config, CPP)
    for optimizer in planned:
        loss = sum((p * p).sum() for p in optimizer.parameters)
        optimizer.step(loss)
        after = plan_skills(start, agent.plan_weights(), noise, config, CPP)
        assert not torch.equal(after.values, before.values)
        assert_equal(after, plan_skills(start, agent.plan_weights(), noise, config, PARTS))
        before = after
    [batch] = batches(agent.config, 1)
    agent.update(batch)
    agent.load_state_dict(stored)
    assert_equal(plan_skills(start, agent.plan_weights(), noise, config, CPP), first)
    # The optimisers' moments are those of the beginning, too.
    fresh = ImaginationAgent(5, 2, agent.config)
    again, expected = agent.update(batch), fresh.update(batch)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert_equal(*(plan_skills(start, a.plan_weights(), noise, config, CPP) for a in (agent, fresh)))


def test_other_python_threads_run_meanwhile():
    problem = build(60, preset="cpu")
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    while counted[0] == 0:
        time.sleep(0)
    at_once = counted[0]
    native_call = cpp.load().plan
    arguments = native_arguments(problem)
    native_call(*arguments)
    meanwhile = counted[0] - at_once
    done.set()
    thread.join()
    assert meanwhile > 100


def native_arguments(problem):
    """What lsp_fast.backends.cpp.plan hands to C++."""
    captured = []
    start, weights, noise, config = problem

    class Module:
        @staticmethod
        def plan(*arguments):
            captured.extend(arguments)
            return tuple(torch.zeros(1).numpy() for _ in range(4))

    original, cpp.load = cpp.load, lambda: Module
    try:
        plan(start, weights, noise, config)
    finally:
        cpp.load = original
    return captured


class Rung(Exception):
    pass


@pytest.mark.parametrize("states", [1, 4000])  # one state of many candidates, and many states
def test_a_signals_exception_ends_a_plan(states):
    many = {} if states > 1 else {"planner__candidates": 30_000, "planner__iterations": 20}
    start, weights, noise, config = build(states, preset="cpu", planner__noise="philox", **many)

    def ring(*_):
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Rung):
            plan(start, weights, noise, config)
        assert time.monotonic() - began < 8  # to its end it takes many times that
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_gradients_are_refused_clearly():
    start, weights, noise, config = build()
    start = State(start.stoch.requires_grad_(), start.deter)
    with pytest.raises(ValueError, match=r"stoch requires a gradient.*detach"):
        plan(start, weights, noise, config)
    plan_skills(start, weights, noise, config, CPP)  # which plans without gradients


def test_other_strides_change_nothing():
    start, weights, noise, config = build()
    odd = State(*(x.T.contiguous().T for x in start))
    turned = noise._replace(stoch=noise.stoch.transpose(0, 3).contiguous().transpose(0, 3))
    assert not turned.stoch.is_contiguous()
    assert_equal(plan(odd, weights, turned, config), plan(start, weights, noise, config))


def test_a_key_of_more_numbers_than_counters_reach_is_refused():
    start, weights, _, config = build(2)
    arguments = standard_normal(start, config), plan_rules(config)
    for iterations, candidates, steps in ((4, 6, 2**62), (4, 6, 2**31), (2**62, 6, 2), (1, 2**33, 2)):
        key = PlanKey(torch.tensor([1, 2]), iterations, candidates, steps, True, False)
        with pytest.raises(ValueError, match=r"2\*\*32"):
            cpp.plan(start, weights, key, *arguments)


def test_a_plan_on_another_thread_does_not_keep_the_process_from_ending():
    program = """
import threading, time
import torch
from lsp_fast import backends
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
torch.set_num_threads(2)
config = make_config("paper", device="cpu", backend="cpp")
agent = ImaginationAgent(5, 2, config)
start = State(torch.zeros(200, 30), torch.zeros(200, 200))
arguments = start, agent.noise, "x"
threading.Thread(target=agent.planner.distribution, args=arguments, kwargs={"explore": True}, daemon=True).start()
time.sleep(0.5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
