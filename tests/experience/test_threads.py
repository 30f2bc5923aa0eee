"""Environments that are stepped on several threads, or on the one that made them."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from experience.test_driver import Counting, Log

from lsp_fast import envs
from lsp_fast.errors import EnvironmentFailed
from lsp_fast.experience.driver import Driver


class Threaded(Counting):
    """`Counting` in parts, that remembers in which thread it ran."""

    releases_gil = True

    def __init__(self, length=3, fails=None, meets=None):
        super().__init__(length)
        self.fails, self.meets = fails, meets
        self.ran_in = set()

    def begin(self, action):
        self.action = action

    def run(self):
        self.ran_in.add(threading.get_ident())
        if self.meets is not None:
            self.meets.wait(timeout=20)
        if self.fails is not None:
            raise self.fails

    def finish(self):
        return self.step(self.action)


@pytest.mark.parametrize(("task", "count", "steps"), [("hopper_hop", 4, 510), ("quadruped_walk", 3, 40)])
def test_threads_change_nothing(task, count, steps):
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, count, *envs.make(task).action_space.shape))
    drivers, logs = [], []
    for threads in (1, 2, count):
        logs.append(Log())
        drivers.append(Driver([envs.make(task) for _ in range(count)], 3, logs[-1], threads=threads))
        drivers[-1].reset()
    for action in actions:
        expected, *others = [driver.step(action) for driver in drivers]
        for result in others:
            for got, want in zip(result, expected, strict=True):
                np.testing.assert_array_equal(got, want)
    assert [driver._pool is not None for driver in drivers] == [False, True, True]
    for driver, log in zip(drivers[1:], logs[1:], strict=True):
        assert log.rows == logs[0].rows
        np.testing.assert_array_equal(driver.observations, drivers[0].observations)
        again = Driver([envs.make(task) for _ in range(count)], 3, threads=driver._threads)
        again.load(driver.state())
        np.testing.assert_array_equal(again.observations, driver.observations)


def test_how_many_threads(monkeypatch):
    def used(many, **options):
        driver = Driver(many, 0, **options)
        driver.reset()
        for _ in range(3):
            driver.step(np.zeros((len(many), 1)))
        return driver, [env.ran_in for env in many if isinstance(env, Threaded)]

    for count, threads in ((4, 2), (3, 3), (2, 9)):
        meets = threading.Barrier(min(threads, count))  # nobody passes it alone
        driver, ran = used([Threaded(meets=meets) for _ in range(count)], threads=threads)
        assert driver._threads == len(set.union(*ran)) == min(threads, count)
    monkeypatch.setattr("lsp_fast.machine.cores", lambda: 3)
    assert [used([Threaded() for _ in range(n)])[0]._threads for n in (1, 2, 5)] == [1, 2, 3]
    driver, ran = used([Threaded(), Counting()])  # one holds the lock: nothing to gain
    assert driver._threads == 1 and driver._pool is None and ran == [set()]
    assert not envs.make("cheetah_run").releases_gil  # a thread would take longer to wake than to step it
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Driver([Counting()], 0, threads=0)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_exception_in_a_thread_is_itself(failing):
    error = KeyError("this very one")  # which the driver's own message carries
    driver = Driver([Threaded(fails=error if i == failing else None) for i in range(3)], 0, Log(), threads=2)
    driver.reset()
    rows = len(driver.replay.rows)
    told = rf"environment {failing} raised KeyError: 'this very one' \(test_threads\.py:\d+\) in agent step 1 of its"
    with pytest.raises(EnvironmentFailed, match=told) as caught:
        driver.step(np.zeros((3, 1)))
    assert caught.value.__cause__ is error and len(driver.replay.rows) == rows
    driver.envs[failing].fails = None  # the threads are still good
    driver.reset()
    driver.step(np.zeros((3, 1)))
    assert [row[3] for row in driver.replay.rows[-3:]] == [1, 1, 1]


def test_threads_work_after_a_fork_and_let_the_process_end():
    code = """
import os, sys
import numpy as np
from lsp_fast import envs
from lsp_fast.experience.driver import Driver
driver = Driver([envs.make("hopper_hop") for _ in range(3)], 0, threads=3)
driver.reset()
driver.step(np.zeros((3, 4)))
assert driver._pool is not None
child = os.fork()
driver.step(np.ones((3, 4)))
if child:
    print(os.waitpid(child, 0)[1])
print(driver.observations.tobytes().hex())
sys.stdout.flush()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    child, status, parent = done.stdout.split()
    assert status == "0" and child == parent, done.stderr


def test_an_environment_of_another_maker_stays_on_the_thread_that_made_it():
    class Bound(Counting):
        def __init__(self):
            super().__init__()
            self.threads = {threading.get_ident()}

        def reset(self, **options):
            self.threads.add(threading.get_ident())
            return super().reset(**options)

        def step(self, action):
            self.threads.add(threading.get_ident())
            return super().step(action)

    order, log = [], Log()
    driver = Driver([Bound(), Bound()], 1, log, threads=2)
    driver.reset()
    for _ in range(4):
        driver.step(np.zeros((2, 1)), lambda: order.append(len(log.rows)))
    assert [env.threads for env in driver.envs] == [{threading.get_ident()}] * 2
    assert order == [2, 4, 6, 10]  # each before anything of its step was recorded
