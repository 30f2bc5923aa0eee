"""What is seen of a gymnasium environment: entries by name, frames of its own and frames that it draws."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, OneOf, Sequence, Tuple
from gymnasium.utils.env_checker import check_env

from lsp_fast import envs
from lsp_fast.envs.gym import GymEnv
from lsp_fast.envs.observing import Observing, is_picture
from lsp_fast.errors import EnvironmentFailed, LspFastError
from lsp_fast.experience.driver import Driver


def pixels(*shape):
    return Box(0, 255, shape, np.uint8)


def numbers(*shape, dtype=np.float32):
    return Box(-9, 9, shape, dtype)


class Sampled(gymnasium.Env):
    """Observes and draws what is sampled from spaces."""

    action_space = Box(-1, 1, (2,))
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, space, drawn=None, render_mode=None):
        self.observation_space, self.drawn, self.render_mode = copy.deepcopy(space), drawn, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.seen = self.observation_space.sample()
        return self.seen, {}

    def step(self, action):
        self.seen = self.observation_space.sample()
        return self.seen, 0.5, False, False, {}

    def render(self):
        return self.drawn() if callable(self.drawn) else self.drawn


ROBOT = Dict(image=pixels(64, 64, 3), mode=Discrete(4), position=numbers(2), velocity=numbers(3, dtype=np.float64))
DEEP = Dict(x=numbers(2), cameras=Dict(front=pixels(64, 64, 3)))


def robot(obs="features", space=ROBOT, drawn=None, **seen):
    env = GymEnv(Sampled(space, drawn), 1, "gym:Robot-v0", obs=obs, **seen)
    observation, _ = env.reset(seed=3)
    return env, observation, env.unwrapped.seen


def flat(seen, *names):
    parts = {"mode": np.eye(4)[seen["mode"]]} if "mode" in seen else {}
    return np.concatenate([np.ravel(parts.get(name, seen[name])) for name in names]).astype(np.float32)


def test_a_dicts_frame_is_no_features():
    env, observation, seen = robot()
    assert env.observation_space == Box(-np.inf, np.inf, (9,), np.float32)
    np.testing.assert_array_equal(observation, flat(seen, "mode", "position", "velocity"))
    assert env.observes == "gym:Robot-v0: observed are mode (4), position (2), velocity (3); left out: image"


def test_entries_are_seen_in_the_order_that_they_are_named():
    env, observation, seen = robot(vectors="velocity, position")
    np.testing.assert_array_equal(observation, flat(seen, "velocity", "position"))
    assert env.observed.vector == 5 and env.observes.endswith("left out: image, mode")


def test_all_flattens_as_it_was_done_before_there_was_a_choice():
    env, observation, seen = robot(vectors="all")
    np.testing.assert_array_equal(observation, np.array(gymnasium.spaces.flatten(ROBOT, seen), np.float32))
    assert env.observed.vector == 12288 + 9


def test_pixels_are_the_dicts_frame():
    env, observation, seen = robot("pixels")
    assert env.observation_space == Box(0, 255, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(observation, seen["image"])
    assert observation is not seen["image"]
    assert "the frame image (64x64x3); left out: mode" in env.observes


def test_both_are_the_frame_and_the_numbers():
    env, observation, seen = robot("both", vectors="position")
    assert env.observed.plain == ((64, 64, 3), 2) and observation in env.observation_space
    np.testing.assert_array_equal(env.observed.frames(observation), seen["image"])
    np.testing.assert_array_equal(env.observed.numbers(observation), seen["position"])
    assert env.observes == (
        "gym:Robot-v0: observed are the frame image (64x64x3), position (2); left out: mode, velocity"
    )


def test_a_vector_is_seen_as_before_and_nothing_is_said():
    env, observation, seen = robot(space=numbers(2, 3))
    np.testing.assert_array_equal(observation, seen.ravel())
    assert env.observes is None


def test_nested_entries_are_flattened_together():
    space = Dict(arm=Dict(a=numbers(2), b=Discrete(2)), base=numbers(1))
    _, observation, seen = robot(space=space, vectors="arm")
    np.testing.assert_array_equal(observation[:2], seen["arm"]["a"])
    assert len(observation) == 4


@pytest.mark.parametrize(
    ("space", "turn"),
    [
        (pixels(64, 64), lambda frame: frame[..., None].repeat(3, -1)),
        (pixels(64, 64, 1), lambda frame: frame.repeat(3, -1)),
        (pixels(1, 64, 64), lambda frame: frame.transpose(1, 2, 0).repeat(3, -1)),
        (pixels(3, 64, 64), lambda frame: frame.transpose(1, 2, 0)),
    ],
)
def test_grey_frames_and_channels_that_come_first(space, turn):
    env, observation, seen = robot("pixels", space)
    np.testing.assert_array_equal(observation, turn(seen))
    assert observation in env.observation_space and observation.flags.c_contiguous


@pytest.mark.parametrize("shape", [(128, 192, 3), (3, 128, 192), (128, 192)])
def test_resized_pixels_are_means_over_their_area(shape):
    _, observation, seen = robot("pixels", pixels(*shape), resize=True)
    frame = seen.transpose(1, 2, 0) if shape[0] == 3 else np.atleast_3d(seen)
    means = frame.reshape(64, 2, 64, 3, -1).mean((1, 3))
    assert np.abs(observation - means).max() < 1  # Pillow rounds for each direction


def test_resizing_leaves_a_frame_of_the_right_size_as_it_is():
    _, observation, seen = robot("pixels", pixels(64, 64, 3), resize=True)
    np.testing.assert_array_equal(observation, seen)


@pytest.mark.parametrize(("obs", "seen_shape"), [("pixels", (64, 64, 3)), ("both", (12288 + 8,))])
def test_what_observes_no_frame_is_drawn(obs, seen_shape):
    frame = np.arange(12288, dtype=np.uint8).reshape(64, 64, 3)
    env, observation, seen = robot(obs, numbers(2), drawn=frame)
    assert observation.shape == seen_shape
    np.testing.assert_array_equal(env.observed.frames(observation), frame)
    if obs == "both":
        np.testing.assert_array_equal(env.observed.numbers(observation), seen)


def test_a_frame_is_drawn_although_there_is_one_where_it_is_asked_for():
    frame = np.full((100, 80, 3), 7, np.uint8)
    env, observation, _ = robot("pixels", drawn=frame, frame="render", resize=True)
    assert (observation == 7).all() and "the frame (drawn, as 64x64); left out: image, mode" in env.observes


@pytest.mark.parametrize(
    ("obs", "space", "seen", "named"),
    [
        ("features", pixels(96, 96, 3), {}, r"frames alone: set --obs pixels.*vectors all.* 27648 values"),
        ("features", ROBOT, {"vectors": "position,torque"}, r"'torque'.* observes image \(64, 64, 3\), mode"),
        ("features", numbers(2), {"vectors": "position"}, "observes no Dict"),
        ("features", Tuple((numbers(2),)), {"vectors": "0"}, "observes no Dict"),
        ("pixels", ROBOT, {"frame": "camera"}, r"observation.frame = 'camera'.*auto, or render"),
        ("pixels", pixels(64, 64, 3), {"frame": "camera"}, "observes no Dict"),
        ("pixels", ROBOT, {"frame": "position"}, "'position' is Box.* a frame is uint8"),
        ("pixels", pixels(64, 64, 4), {}, "one grey channel or three colours.*upon each other are not needed"),
        ("pixels", pixels(4, 84, 84), {}, "one grey channel or three colours"),
        ("pixels", pixels(96, 64, 3), {}, "has 96x64 pixels.*set --observation.resize"),
        ("both", pixels(64, 64, 3), {}, "nothing beside its frame: set --obs pixels"),
        (
            "features",
            DEEP,
            {},
            "the entry 'cameras' holds frames.*lift them.*name the numbers by --observation.vectors",
        ),
        ("both", DEEP, {}, "'cameras' holds frames.*--observation.vectors, or set --observation.frame render"),
        ("pixels", DEEP, {}, "'cameras' holds frames.*in a wrapper, or set --observation.frame render"),
        ("features", Tuple((numbers(2), pixels(64, 64, 3))), {}, "its observation holds frames.*in a wrapper$"),
        ("features", Dict(x=OneOf((numbers(2), pixels(64, 64, 3)))), {}, "'x' holds frames.*in a wrapper$"),
        ("features", numbers(0), {}, r"has a number in it: \(0,\); set"),
        (
            "pixels",
            Dict(render=pixels(64, 64, 3)),
            {},
            "means something else by 'render'; give that entry another name",
        ),
        ("both", Dict(auto=numbers(1)), {}, "means something else by 'auto'"),
        ("features", Dict(), {}, "observes nothing at all"),
        (
            "features",
            Dict(x=numbers(0)),
            {},
            r"no entry that is observed has a number in it: x \(0,\); set --obs pixels",
        ),
        ("both", Dict(x=numbers(0), image=pixels(64, 64, 3)), {}, "no entry that is observed has a number"),
        (
            "features",
            Dict(x=numbers(2), s=Sequence(numbers(2))),
            {},
            "'s' is Sequence.*name the others by --observation",
        ),
        ("features", Sequence(numbers(2)), {}, "its observation is Sequence.*in a wrapper"),
        ("features", Dict(x=Dict(y=numbers(1))), {"vectors": "z"}, r"observes x Dict\('y'"),
        ("both", Dict(image=pixels(3, 32, 32), x=numbers(1)), {}, "'image' has 32x32 pixels.*--observation.resize"),
    ],
)
def test_what_cannot_be_seen_is_named(obs, space, seen, named):
    with pytest.raises(LspFastError, match=named) as error:
        robot(obs, space, **seen)
    assert "\n" not in str(error.value) and "gym:Robot-v0" in str(error.value)


@pytest.mark.parametrize(
    ("drawn", "named"),
    [
        (None, r"what render\(\) draws is object of shape \(\)"),
        (np.zeros((64, 64, 3)), "is float64"),
        (np.zeros((480, 640, 3), np.uint8), "480x640 pixels.*--observation.resize"),
        (lambda: {}["window"], r"render\(\) raised KeyError: 'window'"),
    ],
)
def test_what_is_drawn_and_is_no_frame_is_named(drawn, named):
    with pytest.raises(LspFastError, match=named):
        robot("pixels", numbers(2), drawn)


def test_what_looks_like_a_frame():
    assert all(map(is_picture, [pixels(64, 64, 3), pixels(16, 16), pixels(4, 84, 84), pixels(4, 84, 84, 3)]))
    assert not any(map(is_picture, [pixels(7, 7, 3), pixels(128), numbers(64, 64, 3), Discrete(3), ROBOT]))


def test_what_is_given_out_is_the_callers():
    env, observation, _ = robot("both")
    kept, first = observation.copy(), env.unwrapped.seen["image"]
    first += 1
    np.testing.assert_array_equal(observation, kept)


@pytest.fixture
def registered():
    gymnasium.register("Robot-v0", lambda **options: Sampled(ROBOT, **options), max_episode_steps=5)
    gymnasium.register(
        "Drawn-v0",
        lambda render_mode=None: Sampled(numbers(2), np.zeros((64, 64, 3), np.uint8) if render_mode else None),
        max_episode_steps=5,
    )
    gymnasium.register("Undrawn-v0", lambda: Sampled(numbers(2)), max_episode_steps=5)
    yield
    for name in ("Robot-v0", "Drawn-v0", "Undrawn-v0"):
        del gymnasium.registry[name]


@pytest.mark.filterwarnings("ignore:.*WARN")
@pytest.mark.parametrize("obs", ["features", "pixels", "both"])
def test_it_passes_gymnasiums_checker(obs, registered):
    check_env(envs.make("gym:Robot-v0", obs=obs), skip_render_check=True)


@pytest.mark.filterwarnings("ignore:.*WARN")
def test_it_is_made_to_draw_where_it_must(registered):
    env = envs.make("gym:Drawn-v0", obs="both")
    assert env.observed.plain == ((64, 64, 3), 2)
    assert envs.make("gym:Drawn-v0").observed.plain == 2
    with pytest.raises(LspFastError, match=r'cannot make .*needs one that takes render_mode="rgb_array"'):
        envs.make("gym:Undrawn-v0", obs="pixels")


@pytest.mark.parametrize("obs", ["features", "pixels", "both"])
def test_the_driver_sees_the_same_in_another_process(obs, registered):
    from lsp_fast.experience.workers import Workers

    options = {"action_repeat": 1, "obs": obs}
    with Workers(1, "gym:Robot-v0", **options) as workers:
        here, there = envs.make("gym:Robot-v0", **options), workers.make()
        assert (there.observed, there.observes) == (here.observed, here.observes)
        drivers = [Driver([env], seed=1) for env in (here, there)]
        for driver in drivers:
            driver.reset()
        for _ in range(6):
            for driver in drivers:
                driver.step(np.zeros((1, 2)))
            np.testing.assert_array_equal(*(driver.observations for driver in drivers))


@pytest.mark.parametrize(("value", "named"), [(np.nan, "vector.1. is nan"), (1e30, "vector.1. is 1e.30.*too large")])
def test_numbers_beside_a_frame_are_looked_at(value, named, monkeypatch):
    env, _, _ = robot("both", Dict(image=pixels(64, 64, 3), x=Box(-np.inf, np.inf, (2,))))
    driver = Driver([env], seed=0)
    driver.reset()
    driver.step(np.zeros((1, 2)))
    step = env.env.step

    def spoilt(action):
        seen, *rest = step(action)
        seen["x"][1] = value
        return seen, *rest

    monkeypatch.setattr(env.env, "step", spoilt)
    with pytest.raises(EnvironmentFailed, match=named):
        driver.step(np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("actions", "count"), [(Discrete(3), 3), (MultiDiscrete([2, 3]), 5), (MultiBinary(4), 4), (MultiBinary([2, 2]), 4)]
)
def test_discrete_actions_are_refused_with_the_way_out(actions, count):
    env = Sampled(numbers(2))
    env.action_space = actions
    with pytest.raises(LspFastError, match=rf"discrete actions.*ActionWrapper.*Box\(-1, 1, \({count},\)\)") as error:
        GymEnv(env, 1)
    assert "\n" not in str(error.value)


def test_spaces_with_unnamed_entries_stay_as_they_were():
    space = Tuple((numbers(2), Discrete(2)))
    seeing = Observing(space, "gym:T-v0", "features", "auto", "auto", False)
    assert seeing.numbers is space and seeing.observed.plain == 4 and not seeing.chosen
