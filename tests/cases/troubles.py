"""Environments as people have them: each goes wrong, or is odd, in one way. `gym:troubles:InPlace-v0`."""

import os
import signal
import sqlite3
import sys
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

SPACE = Box(-np.inf, np.inf, (2,), np.float32)


class Plain(gymnasium.Env):
    """Nothing is wrong with this one: 100 steps of 0.5."""

    observation_space, action_space = SPACE, Box(-1, 1, (1,))
    seen = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen, {}

    def step(self, action):
        return self.seen, 0.5, False, False, {}


class InPlace(Plain):
    """Scales its action in place."""

    def step(self, action):
        action *= 0.5
        return self.seen, float(action[0]), False, False, {}


class Brief(Plain):
    """Reaches its goal at every other step, the first one first."""

    count = 0

    def step(self, action):
        self.count += 1
        return self.seen, 0.5, False, False, {"success": self.count % 2 == 1}


class Int32(Plain):
    """Takes a signed seed of 32 bits."""

    def reset(self, *, seed=None, options=None):
        self.taken = np.int32(0 if seed is None else seed)
        return super().reset(seed=seed)


class Arrays(Plain):
    """Rewards and ends are arrays of one."""

    def step(self, action):
        return self.seen, np.array([0.1]), np.array([False]), np.bool_(False), {}


class OldStep(Plain):
    """Four values, as gym had it."""

    def step(self, action):
        return self.seen, 0.5, False, {}


class OldReset(Plain):
    """The observation alone."""

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32)


class NoInfo(Plain):
    """No dictionary."""

    def step(self, action):
        return self.seen, 0.5, False, False, None


class TwoRewards(Plain):
    """A reward for each of two things."""

    def step(self, action):
        return self.seen, np.zeros(2), False, False, {}


class NoReward(Plain):
    """None."""

    def step(self, action):
        return self.seen, None, False, False, {}


class Wide(Plain):
    """Observes more than it declares."""

    seen = np.zeros(3, np.float32)


class Later(Plain):
    """Observes more than it declares, after the reset."""

    def step(self, action):
        return np.zeros(3, np.float32), 0.5, False, False, {}


class Ragged(Plain):
    """Observes lists of lists."""

    seen = (1.0, (2.0, 3.0))


class Missing(Plain):
    """An entry of its dictionary is not there."""

    observation_space = Dict({"a": Box(-1, 1, (1,)), "b": Box(-1, 1, (1,))})

    def __init__(self):
        self.seen = {"a": np.zeros(1, np.float32)}


class Camera(Plain):
    """Observes a frame of 32x32 beside its numbers."""

    observation_space = Dict(a=Box(-1, 1, (2,)), image=Box(0, 255, (32, 32, 3), np.uint8))

    def __init__(self):
        self.seen = {"a": np.zeros(2, np.float32), "image": np.zeros((32, 32, 3), np.uint8)}


class FrameAlone(Plain):
    """Observes a frame, and nothing else."""

    observation_space = Box(0, 255, (64, 64, 3), np.uint8)
    seen = np.zeros((64, 64, 3), np.uint8)


class Chooses(Plain):
    """Takes one of three actions."""

    action_space = Discrete(3)


class DrawsNothing(Plain):
    """Has no frame of its own, and draws none."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode


class NeedsArgument(Plain):
    """Its constructor wants something."""

    def __init__(self, goal):
        self.goal = goal


class Broken(Plain):
    """Its simulator is not there."""

    def reset(self, *, seed=None, options=None):
        raise ConnectionRefusedError("no simulator at port 4242")


class Spoilt(Plain):
    """Gives what SPOIL says, `reward nan 150`: the field, its value, and after how many steps of the process."""

    taken = 0

    def step(self, action):
        Spoilt.taken += 1
        field, value, after = os.environ.get("SPOIL", "nothing 0 0").split()
        value = float(value) if Spoilt.taken > int(after) else 0.5
        observation = np.array([0.0, value if field == "observation" else 0.0])
        return observation, value if field == "reward" else 0.5, False, False, {}


class Raises(Plain):
    """Its simulator goes away after FAILS steps of the process: once, unless ALWAYS is set."""

    taken, failed = 0, False

    def step(self, action):
        Raises.taken += 1
        if Raises.taken > int(os.environ.get("FAILS", "1000000")) and not (
            Raises.failed and "ALWAYS" not in os.environ
        ):
            Raises.failed = True
            raise ConnectionResetError("the simulator has gone away")
        return self.seen, 0.5, False, False, {}


class OneThread(Plain):
    """Belongs to the thread that made it, as sqlite, an OpenGL context and Gazebo do."""

    def __init__(self):
        self.log = sqlite3.connect(":memory:")
        self.log.execute("create table log (a real)")

    def reset(self, *, seed=None, options=None):
        self.log.execute("delete from log")
        return super().reset(seed=seed)

    def step(self, action):
        self.log.execute("insert into log values (?)", [float(action[0])])
        return super().step(action)

    def close(self):
        self.log.close()


class Single(Plain):
    """There can be only one: a robot, or a simulator on one port."""

    open = 0

    def __init__(self):
        if Single.open:
            raise RuntimeError("worker 0 is still in use")
        Single.open += 1

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.place = float(self.np_random.uniform())
        return observation, info

    def step(self, action):
        self.place += 0.1 * float(action[0])
        return np.array([self.place, 0.0], np.float32), self.place, False, False, {}

    def close(self):
        Single.open -= 1


class Shared(Plain):
    """Keeps its state in the module, as PyBullet's global client does."""

    count = 0

    def reset(self, *, seed=None, options=None):
        Shared.count = 0
        return super().reset(seed=seed)

    def step(self, action):
        Shared.count += 1
        return np.array([Shared.count, 0.0], np.float32), float(Shared.count), False, Shared.count >= 100, {}


class Closes(Plain):
    """Owns a process: counts those that were begun and not ended. FULL of them, and no more can be begun."""

    open = made = 0

    def __init__(self):
        if Closes.open >= int(os.environ.get("FULL", "99")):
            raise RuntimeError("no more of them")
        Closes.open += 1
        Closes.made += 1
        self.here = True

    def step(self, action):
        assert self.here, "it was closed"
        if "BREAKS" in os.environ:
            raise RuntimeError("broken")
        return super().step(action)

    def close(self):
        assert self.here, "it was closed twice"
        self.here = False
        Closes.open -= 1


class ClosesBadly(Plain):
    """Raises when it is closed."""

    def close(self):
        raise RuntimeError("the process was gone already")


class Global(Plain):
    """Draws from NumPy's global generator, as many first environments do."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.random.normal(size=2)
        return self.x.astype(np.float32), {}

    def step(self, action):
        self.x = self.x + 0.1 * np.random.normal(size=2)
        return self.x.astype(np.float32), float(action[0]), False, False, {}


class GlobalEnds(Global):
    """Ends when that generator says so."""

    def step(self, action):
        observation, reward, *_ = super().step(action)
        return observation, reward, np.random.random() < 0.05, False, {}


class Unlimited(Plain):
    """Ends itself after 2400 steps, and registers no limit."""

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.count += 1
        return self.seen, 0.5, False, self.count >= 2400, {}


class Reuses(Plain):
    """Gives one array again and again, and changes it in place."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self):
        self.seen = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        self.seen[:] = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.seen += 1
        return self.seen, 0.5, False, False, {}


class SuccessArray(Plain):
    """Says in arrays of one whether the goal was reached."""

    def reset(self, *, seed=None, options=None):
        return self.seen, {"success": np.array([False])}

    def step(self, action):
        return self.seen, 0.5, False, False, {"success": np.array([True])}


class TwoGoals(Plain):
    """Of each of two goals, whether it was reached."""

    def step(self, action):
        return self.seen, 0.5, False, False, {"success": np.array([True, False])}


class Dies(Plain):
    """Takes its process along as DIES says, `exit 150`: how, and after how many steps of the process."""

    taken = 0

    def step(self, action):
        Dies.taken += 1
        how, after = os.environ.get("DIES", "not 0").split()
        if Dies.taken > int(after) and how != "not":
            if how == "exit":
                os._exit(7)
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            sys.exit(7)
        return super().step(action)


class Hangs(Plain):
    """Answers no more after HANGS steps of the process, and says so by a file."""

    taken = 0

    def step(self, action):
        Hangs.taken += 1
        if Hangs.taken > int(os.environ["HANGS"]):
            with open("hanging", "w"):
                pass
            time.sleep(3600)
        return super().step(action)


class Sleeps(Plain):
    """Takes SLEEPS seconds for a step, once its trial steps are over."""

    taken = 0

    def step(self, action):
        self.taken += 1
        if self.taken > 1:
            time.sleep(float(os.environ["SLEEPS"]))
        return super().step(action)


class Looks(Plain):
    """Sees its process: how many threads OpenMP may take there, and whether torch was imported."""

    def reset(self, *, seed=None, options=None):
        return np.array([float(os.environ.get("OMP_NUM_THREADS", 0)), "torch" in sys.modules], np.float32), {}


class NoOptions(Plain):
    """Its reset takes no options."""

    def reset(self, seed=None):
        return self.seen, {}


for kind in list(globals().values()):
    if isinstance(kind, type) and issubclass(kind, Plain):
        limit = None if kind is Unlimited else 100
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=limit)


def my_reacher():
    """As docs/adding-a-task.md says: a dm_env environment of one's own, registered as a function that returns it."""
    from lsp_fast.envs.dmc import DmcEnv
    from lsp_fast.envs.suite import suite

    random_state = np.random.RandomState(0)
    environment = suite().load("reacher", "easy", task_kwargs={"random": random_state})
    return DmcEnv(environment, random_state, action_repeat=1)


gymnasium.register("MyReacher-v0", my_reacher, max_episode_steps=200)
