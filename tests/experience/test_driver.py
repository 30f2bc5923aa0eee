"""Several environments stepped together (SPEC sections 1 and 2)."""

import threading

import gymnasium
import numpy as np
import pytest

from lsp_fast import envs
from lsp_fast.errors import EnvironmentFailed
from lsp_fast.experience.driver import Driver, EpisodeSummary, episode_seed


class Counting(gymnasium.Env):
    """Observation = (the episode's seed in 0 .. 999, step); reward = step + action; ends after `length` steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length=3, terminates=False):
        self.length, self.terminates = length, terminates
        self.seeds = []

    def observe(self):
        return np.array([self.seeds[-1] % 1000, self.count], np.float32)

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        assert self.count < self.length
        self.count += 1
        over = self.count == self.length
        steps = 1 if over else 2
        reward = self.count + float(action[0])
        return self.observe(), reward, over and self.terminates, over and not self.terminates, {"env_steps": steps}


class Log:
    """A replay that remembers its rows."""

    def __init__(self):
        self.rows = []

    def add(self, *row):
        env, observation, action, *rest = row
        self.rows.append((env, observation.tolist(), action.tolist(), *rest))


def test_episodes_follow_each_other():
    env, log = Counting(), Log()
    driver = Driver([env], 1, log)
    driver.reset()
    seeds = [episode_seed(1, 0, n) for n in range(3)]
    first = [seed % 1000 for seed in seeds]
    assert driver.observations.tolist() == [[first[0], 0]] and driver.is_first.tolist() == [True]
    for step in (1, 2):
        result = driver.step(np.array([[0.5]]))
        assert driver.observations.tolist() == [[first[0], step]] and driver.is_first.tolist() == [False]
        assert log.rows[-1] == (0, [first[0], step], [0.5], step + 0.5, False, False, False)
        assert result.env_steps == 2 and result.finished == []
    result = driver.step(np.array([[0.5]]))
    # The true last one, truncated; then the next episode's first.
    assert [row[1:] for row in log.rows[-2:]] == [
        ([first[0], 3], [0.5], 3.5, False, False, True),
        ([first[1], 0], [0.0], 0.0, False, True, False),
    ]
    assert driver.observations.tolist() == [[first[1], 0]] and driver.is_first.tolist() == [True]
    assert result.finished == [EpisodeSummary(env=0, episode_return=7.5)] and result.env_steps == 1
    for _ in range(3):
        result = driver.step(np.array([[0.0]]))
    assert result.finished == [EpisodeSummary(0, 6.0)]  # counts began anew
    assert env.seeds == seeds


def test_types_and_new_arrays():
    driver = Driver([Counting(), Counting()], seed=0)
    driver.reset()
    kept = driver.observations
    copy = kept.copy()
    result = driver.step(np.zeros((2, 1)))
    np.testing.assert_array_equal(kept, copy)
    assert driver.observations.dtype == np.float32 and driver.is_first.dtype == bool
    assert driver.observations.shape == (2, 2) and result.env_steps == 4


def test_rows_written_to_the_replay():
    log = Log()
    driver = Driver([Counting(2, terminates=True), Counting(3)], seed=0, replay=log)
    driver.reset()
    for action in (0.25, 0.5, 0.75):
        driver.step(np.full((2, 1), action))
    a, b = (episode_seed(0, 0, n) % 1000 for n in (0, 1))
    c, d = (episode_seed(0, 1, n) % 1000 for n in (0, 1))
    # observation, the action that led to it, its reward, terminated, is_first, is_last
    assert [row[1:] for row in log.rows if row[0] == 0] == [
        ([a, 0], [0.0], 0.0, False, True, False),
        ([a, 1], [0.25], 1.25, False, False, False),
        ([a, 2], [0.5], 2.5, True, False, True),
        ([b, 0], [0.0], 0.0, False, True, False),
        ([b, 1], [0.75], 1.75, False, False, False),
    ]
    assert [row[1:] for row in log.rows if row[0] == 1] == [
        ([c, 0], [0.0], 0.0, False, True, False),
        ([c, 1], [0.25], 1.25, False, False, False),
        ([c, 2], [0.5], 2.5, False, False, False),
        ([c, 3], [0.75], 3.75, False, False, True),
        ([d, 0], [0.0], 0.0, False, True, False),
    ]


def test_seeds_depend_on_their_three_numbers_only():
    seeds = {episode_seed(s, e, n) for s in range(4) for e in range(4) for n in range(50)}
    assert len(seeds) == 800 and all(0 <= seed < 2**32 for seed in seeds)
    assert episode_seed(2**63, 0, 0) == episode_seed(2**63, 0, 0)


@pytest.mark.parametrize("task", ["cheetah_run", "walker_walk"])
def test_an_environment_is_the_same_alone_or_among_others(task):
    def run(indices, steps=520):
        """Observations of environment 1 over more than an episode, each environment acting by its own numbers."""
        driver = Driver([envs.make(task, seed=i) for i in range(indices)], seed=3)
        driver.reset()
        noise = [np.random.default_rng(i) for i in range(indices)]
        seen = []
        for _ in range(steps):
            driver.step(np.stack([n.uniform(-1, 1, 6) for n in noise]))
            seen.append(driver.observations)
        return np.stack(seen, 1)

    one, three = run(1), run(3)
    np.testing.assert_array_equal(one[0], three[0])
    assert not np.array_equal(three[1], three[0])


def test_state_goes_on_in_the_middle_of_an_episode():
    def build():
        return Driver([envs.make("cheetah_run"), envs.make("cheetah_run")], 5, Log())

    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (510, 2, 6))
    whole, cut = build(), build()
    whole.reset()
    cut.reset()
    for action in actions[:505]:  # five steps into the second episodes
        whole.step(action)
        cut.step(action)
    again = build()
    again.load(cut.state())
    np.testing.assert_array_equal(again.observations, whole.observations)
    for action in actions[505:]:
        whole.step(action)
        again.step(action)
        assert again.replay.rows[-2:] == whole.replay.rows[-2:]
    assert again.state()["next_episode"] == whole.state()["next_episode"] == [2, 2]
    with pytest.raises(ValueError, match="2 environments"):
        Driver([Counting()], seed=5).load(cut.state())


def test_what_the_caller_gives_is_kept_and_goes_on_with_the_episode():
    log, other = Log(), Log()
    driver = Driver([Counting(4), Counting(3)], 1, log, extras_dim=2)
    driver.reset()
    given = np.arange(20, dtype=np.float32).reshape(5, 2, 2)
    for t in range(5):
        driver.step(np.full((2, 1), 0.1 * t, np.float32), None, given[t] if t != 1 else None)
        given[t] += 0.25  # the rows are copies
    extras = [row[-1].tolist() for row in log.rows if row[0] == 1]
    #          reset   t = 0   without one  t = 2   reset   t = 3     t = 4
    assert extras == [[0, 0], [2, 3], [0, 0], [10, 11], [0, 0], [14, 15], [18, 19]]
    state = driver.state()
    assert [rows.tolist() for rows in state["extras"]] == [[[16, 17]], [[14, 15], [18, 19]]]
    resumed = Driver([Counting(4), Counting(3)], 1, other, extras_dim=2)
    resumed.load(state)
    running = [row for row in log.rows if row[0] == 1][-3:]
    for a, b in zip([row for row in other.rows if row[0] == 1], running, strict=True):
        assert a[:-1] == b[:-1] and a[-1].tolist() == b[-1].tolist()
    assert Driver([Counting()], 1).state()["extras"] == []


class Moody(Counting):
    """Does not follow from seed and actions: what it observes is `mood` off."""

    mood = 0.0

    def observe(self):
        return super().observe() + np.float32(self.mood)


@pytest.mark.parametrize("other", [Counting(1), Moody()], ids=["ends before its actions do", "observes another thing"])
def test_an_episode_that_does_not_repeat_itself_is_dropped(other):
    other.mood, log = 0.5, Log()
    driver = Driver([Counting(3), Counting(3)], 5)
    driver.reset()
    driver.step(np.zeros((2, 1)))
    again = Driver([Counting(3), other], 5, log)
    with pytest.warns(UserWarning, match=r"environment 1: the running episode .*self\.np_random"):
        again.load(driver.state())
    # The other one goes on; of this one nothing but the next episode's beginning is recorded.
    assert again.is_first.tolist() == [False, True] and again.state()["next_episode"] == [1, 2]
    assert [len(actions) for actions in again.state()["actions"]] == [1, 0]
    assert [row[-2:] for row in log.rows if row[0] == 1] == [(True, False)] * 2  # the replay drops the first
    assert other.seeds == [episode_seed(5, 1, n) for n in (0, 1)]


def test_a_state_without_checksums_is_believed(recwarn):
    driver = Driver([Counting(3)], 5)
    driver.reset()
    driver.step(np.zeros((1, 1)))
    state = driver.state()
    assert state.pop("seen") == driver._seen
    moody = Moody()
    moody.mood = 0.5
    again = Driver([moody], 5)
    again.load(state)
    assert not len(recwarn) and not again.is_first.any() and again.observations[0, 1] == 1.5


def test_reset_drops_running_episodes():
    driver = Driver([Counting()], seed=5)
    driver.reset()
    driver.step(np.zeros((1, 1)))
    driver.reset()
    assert driver.is_first.all() and driver.envs[0].seeds == [episode_seed(5, 0, n) for n in (0, 1)]
    for _ in range(3):
        result = driver.step(np.zeros((1, 1)))
    assert result.finished == [EpisodeSummary(0, 6.0)]


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least one"):
        Driver([], seed=0)
    with pytest.raises(ValueError, match="equal spaces"):
        Driver([envs.make("cheetah_run"), envs.make("walker_walk")], seed=0)
    driver = Driver([Counting()], seed=0)
    with pytest.raises(RuntimeError, match="reset"):
        driver.step(np.zeros((1, 1)))
    driver.reset()
    with pytest.raises(ValueError, match="shape"):
        driver.step(np.zeros((2, 1)))


class Telling(Counting):
    """Reaches its goal at the first step alone, and tells its count."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "success": self.count == 1, "told": self.count}

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return observation, {**info, "success": False, "told": 0}


def test_extras_told_are_the_steps_own_and_a_goal_once_reached_counts():
    log = Log()
    driver = Driver([Telling()], 1, log, info_extras=lambda info: np.array([info["told"]], np.float32))
    driver.reset()
    finished = [episode for _ in range(3) for episode in driver.step(np.zeros((1, 1), np.float32)).finished]
    assert [row[-1].tolist() for row in log.rows] == [[0], [1], [2], [3], [0]]
    assert [episode.success for episode in finished] == [True]


def test_what_goes_on_meanwhile_goes_on_while_the_environments_step():
    asked, rows = threading.Event(), []

    class Waiting(Counting):
        releases_gil = False

        def step(self, action):
            assert asked.wait(20)  # for what can only happen at the same time
            return super().step(action)

    log = Log()
    driver = Driver([Waiting()], 1, log)
    driver.reset()

    def meanwhile():
        rows.append(len(log.rows))
        asked.set()

    driver.step(np.zeros((1, 1), np.float32), meanwhile)
    assert rows == [1] and len(log.rows) == 2  # nothing was recorded before it returned


class Odd(Counting):
    """Gives `value` as reward or observation at step 2."""

    def __init__(self, field, value):
        super().__init__(5)
        self.field, self.value = field, value

    def observe(self):
        odd = self.field == "observation" and self.count == 2
        return np.array([0.0, self.value if odd else self.count], np.float32)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, self.value if self.field == "reward" and self.count == 2 else reward, *rest


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, -1e30])
@pytest.mark.parametrize("field", ["reward", "observation"])
def test_what_would_end_up_in_every_weight_is_refused(field, value):
    log = Log()
    driver = Driver([Counting(5), Odd(field, value)], 1, log)
    driver.reset()
    driver.step(np.zeros((2, 1)))
    name = field if field == "reward" else r"observation\[1\]"
    remedy = f"{field}s must be finite" if np.isnan(value) else f"too large for float32: scale the {field}s"
    told = rf"environment 1: {name} is {value:g} in agent step 2 of its episode; {remedy}".replace("+", r"\+")
    with pytest.raises(EnvironmentFailed, match=told):
        driver.step(np.zeros((2, 1)))
    # Of that step nothing is recorded; the running episodes are given up, and the next ones come next.
    assert len(log.rows) == 4
    state = driver.state()
    assert state["next_episode"] == [2, 2] and [len(a) for a in state["actions"]] == [0, 0]
    again = Driver([Counting(5), Counting(5)], 1, log)
    again.load(state)
    assert [env.seeds for env in again.envs] == [[episode_seed(1, e, 1)] for e in (0, 1)]


@pytest.mark.parametrize("value", [1e15, -1e15, 0.0])
@pytest.mark.parametrize("field", ["reward", "observation"])
def test_what_is_large_is_taken(field, value):
    driver = Driver([Odd(field, value)], 1)
    driver.reset()
    for _ in range(3):
        driver.step(np.zeros((1, 1)))


def test_a_reset_that_raises_keeps_the_episode_before_and_is_not_tried_again():
    class Stuck(Counting):
        def reset(self, **options):
            if len(self.seeds) == 1:
                self.seeds.append(None)
                raise OSError("no\nanswer")
            return super().reset(**options)

    log = Log()
    driver = Driver([Stuck(1)], 1, log)
    driver.reset()
    with pytest.raises(EnvironmentFailed, match=r"raised OSError: no answer .* where its episode begins"):
        driver.step(np.zeros((1, 1)))
    assert [row[-1] for row in log.rows] == [False, True]
    env = Counting(1)
    Driver([env], 1).load(driver.state())
    assert env.seeds == [episode_seed(1, 0, 2)]


def test_an_action_that_is_not_finite_is_not_the_environments_fault():
    driver = Driver([Counting()], 1)
    driver.reset()
    with pytest.raises(ValueError, match="not finite"):
        driver.step(np.array([[np.nan]]))


def test_a_checksum_is_of_every_step_and_of_its_reward():
    from lsp_fast.experience.driver import _checksum

    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)
    assert _checksum(a, 1.0, _checksum(a, 0.0)) != _checksum(a, 1.0, _checksum(b, 0.0))  # an early step
    assert _checksum(a, 1.0) != _checksum(a, 2.0)
