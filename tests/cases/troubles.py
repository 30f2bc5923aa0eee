"""Environments as people have them: each goes wrong, or is odd, in one way. `gym:troubles:InPlace-v0`."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

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


class NeedsArgument(Plain):
    """Its constructor wants something."""

    def __init__(self, goal):
        self.goal = goal


class Broken(Plain):
    """Its simulator is not there."""

    def reset(self, *, seed=None, options=None):
        raise ConnectionRefusedError("no simulator at port 4242")


for kind in list(globals().values()):
    if isinstance(kind, type) and issubclass(kind, Plain):
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=100)
