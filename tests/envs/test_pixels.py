"""Pixel observations: what they promise with a drawn stand-in for OpenGL, and, where there is OpenGL, real frames."""

import gc
import os
import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest

from lsp_fast import envs
from lsp_fast.envs import dmc, gl, tasks
from lsp_fast.envs.pixels import PixelEnv
from lsp_fast.errors import LspFastError
from lsp_fast.experience.driver import Driver
from lsp_fast.reports import doctor

TASKS = ["cheetah_run", "quadruped_walk", "quadruped_cove", "finger_spin"]


class FakeFrames:
    """Pictures in place of OpenGL's: they follow from the places of all bodies, as real ones do, and the camera."""

    def __init__(self, physics, camera):
        self.physics, self.camera, self.closed = physics, camera, False

    def draw(self, width, height):
        places = (self.physics.data.xpos.ravel()[3:] * 1e6).astype(np.int64).astype(np.uint8)
        frame = np.resize(places, (height, width, 3))
        frame[0, 0] = self.camera
        return frame

    def close(self):
        self.closed = True


@pytest.fixture
def drawn(monkeypatch):
    monkeypatch.setattr(gl, "Frames", FakeFrames)
    monkeypatch.setattr(gl, "_loads", lambda library: True)


@pytest.fixture(scope="module")
def opengl():
    try:
        env = tasks.make("cheetah_run")
        env.reset()
        env.render_frame(8, 8)
    except LspFastError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["drawn", "opengl"])
def either(request):
    """With the stand-in and, where there is OpenGL, with real frames."""
    request.getfixturevalue(request.param)
    return request.param


def actions(env, count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)


def episode(env, seed=5, count=4):
    """The frames [count + 1, 64, 64, 3] and the rest of an episode's first steps."""
    frames, rest = [env.reset(seed=seed)[0]], []
    for action in actions(env, count):
        frame, reward, terminated, truncated, info = env.step(action)
        frames.append(frame)
        rest.append((reward, terminated, truncated, info["env_steps"]))
    return np.array(frames), rest


@pytest.mark.parametrize("task", TASKS)
def test_shapes_types_and_spaces(task, either):
    env = envs.make(task, obs="pixels")
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == envs.make(task).action_space
    assert env.releases_gil is False and env.max_env_steps == envs.make(task).max_env_steps
    frame, _ = env.reset(seed=0)
    assert frame in env.observation_space and frame.dtype == np.uint8
    later = env.step(actions(env, 1)[0])[0]
    assert later in env.observation_space and later.flags["C_CONTIGUOUS"] and not np.array_equal(frame, later)
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_frames_on_both_paths(task, either):
    env = envs.make(task, obs="pixels")
    frames, rest = episode(env)
    assert len(np.unique(frames, axis=0)) == len(frames) and frames.std() > 1
    episode(env, seed=6, count=2)  # whatever happened before
    for other in (env, envs.make(task, obs="pixels", seed=3), PixelEnv(tasks.make(task, direct=False))):
        again, same = episode(other)
        np.testing.assert_array_equal(again, frames)
        assert same == rest
    assert not np.array_equal(episode(env, seed=6)[0], frames)


@pytest.mark.parametrize("task", TASKS)
def test_all_but_observations_is_as_with_features(task, either):
    seen, plain = envs.make(task, obs="pixels", fast_render=True), envs.make(task)
    assert isinstance(plain, dmc.DmcEnv)
    episode(seen)
    features = seen.env._observation
    _, rest = episode(plain)
    np.testing.assert_array_equal(features, plain._observation)
    assert episode(seen)[1] == rest


def test_features_draw_frames_on_request_to_the_same_bits(either):
    env, other = envs.make("walker_walk"), envs.make("walker_walk")
    observation, _ = env.reset(seed=1)
    np.testing.assert_array_equal(observation, other.reset(seed=1)[0])
    for action in actions(env, 5):
        frame = env.render_frame(width=96, height=48)
        assert frame.shape == (48, 96, 3) and frame.dtype == np.uint8
        ours, theirs = env.step(action), other.step(action)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
    env.close()


@pytest.mark.parametrize(
    ("task", "camera"), [("quadruped_run", 2), ("quadruped_reach", 2), ("hopper_hop", 0), ("fish_swim", 0)]
)
def test_cameras(task, camera, drawn):
    assert envs.make(task, obs="pixels").reset()[0][0, 0].tolist() == [camera] * 3


@pytest.mark.parametrize(
    "task", ["quadruped_cove", "dog_run", "lqr_lqr_2_1", "humanoid_CMU_run", "manipulator_bring_peg"]
)
def test_the_camera_is_there(task):
    env = tasks.make(task)
    assert env._camera < env._environment.physics.model.ncam


@pytest.mark.parametrize("fast", [False, True])
def test_fast_render_sets_the_visual_quality(fast, drawn):
    quality = envs.make("cheetah_run", obs="pixels", fast_render=fast).env._environment.physics.model.vis.quality
    assert ((quality.shadowsize, quality.offsamples) == (256, 0)) is fast


def test_where_the_simulation_diverges_the_frame_before_is_repeated(drawn):
    env = envs.make("cheetah_run", obs="pixels")
    before, _ = env.reset(seed=0)
    kept = before.copy()
    before += 1  # what was given out is the caller's
    env.env._environment.physics.data.qvel[:] = 1e9
    frame, *_, truncated, info = env.step(np.zeros(6))
    assert truncated and info["diverged"]
    np.testing.assert_array_equal(frame, kept)


def test_the_driver_keeps_bytes(drawn):
    rows = []

    class Log:
        def add(self, env, observation, *rest):
            rows.append(observation)

    driver = Driver([envs.make("cheetah_run", obs="pixels") for _ in range(2)], seed=0, replay=Log(), threads=2)
    driver.reset()
    state = driver.state()
    for _ in range(2):
        driver.step(np.zeros((2, 6)))
        assert driver.observations.dtype == np.uint8 and driver.observations.shape == (2, 64, 64, 3)
    assert len(rows) == 6 and all(row.dtype == np.uint8 and row.shape == (64, 64, 3) for row in rows)
    np.testing.assert_array_equal(np.stack(rows[-2:]), driver.observations)
    state, expected = driver.state(), driver.observations
    driver.load(state)
    np.testing.assert_array_equal(driver.observations, expected)


def test_bad_arguments(drawn):
    with pytest.raises(ValueError, match="'features', 'pixels' or 'both', not 'pixel'"):
        envs.make("cheetah_run", obs="pixel")


@pytest.mark.parametrize("task", TASKS)
def test_both_are_the_frame_and_the_features(task, either):
    both, pixels, features = (envs.make(task, obs=obs, fast_render=True) for obs in ("both", "pixels", "features"))
    sizes = both.observed
    assert sizes.plain == ((64, 64, 3), features.observation_space.shape[0])
    assert both.observation_space == gymnasium.spaces.Box(0, 255, sizes.shape, np.uint8)
    (seen, rest), (frames, _), (numbers, same) = map(episode, (both, pixels, features))
    np.testing.assert_array_equal(sizes.frames(seen), frames)
    np.testing.assert_array_equal(sizes.numbers(seen), numbers)
    assert rest == same


def test_where_the_simulation_diverges_both_are_those_before(drawn):
    env = envs.make("cheetah_run", obs="both")
    before, _ = env.reset(seed=0)
    env.env._environment.physics.data.qvel[:] = 1e9
    after, *_, info = env.step(np.zeros(6))
    assert info["diverged"]
    np.testing.assert_array_equal(after, before)


# Which OpenGL


@pytest.mark.parametrize(
    ("asked", "there", "chosen"),
    [
        (None, {"libEGL.so.1", "OSMesa"}, "egl"),
        (None, {"EGL"}, "egl"),
        (None, {"OSMesa"}, "osmesa"),
        (None, {"libOSMesa.so.8"}, "osmesa"),
        ("disable", {"EGL"}, "egl"),
        ("osmesa", {"EGL", "OSMesa"}, "osmesa"),
        ("EGL", {"EGL", "OSMesa"}, "egl"),
        ("glfw", set(), "glfw"),
    ],
)
def test_the_users_choice_then_egl_then_osmesa(asked, there, chosen, monkeypatch):
    monkeypatch.setattr(gl, "_loads", lambda library: library in there)
    assert gl.choose({} if asked is None else {"MUJOCO_GL": asked}) == chosen


def test_probing_stops_at_the_first(monkeypatch):
    tried = []
    monkeypatch.setattr(gl, "_loads", lambda library: tried.append(library) or library == "OSMesa")
    gl.choose({})
    assert tried == ["EGL", "libEGL.so.1", "OSMesa"]


def test_libraries_that_cannot_be_loaded_are_not_there(monkeypatch):
    assert not gl._loads("libNoSuchLibrary.so.1") and not gl._loads("NoSuchLibrary")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: os.devnull)
    assert not gl._loads("EGL")


def test_without_opengl_the_packages_are_named(monkeypatch):
    monkeypatch.setattr(gl, "_loads", lambda library: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(LspFastError, match=r"libegl1 libgl1 libgl1-mesa-dri.*libosmesa6"):
        envs.make("cheetah_run", obs="pixels")
    env = envs.make("cheetah_run")  # features need none
    env.reset()
    with pytest.raises(LspFastError, match="libosmesa6"):
        env.render_frame(64, 64)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(LspFastError, match=r"MUJOCO_GL=osmesa is missing: apt-get install libosmesa6, or unset"):
        envs.make("cheetah_run", obs="pixels")


def test_opengl_that_does_not_work_is_explained(monkeypatch):
    def fail(name):
        raise ImportError(f"no device for {name}")

    monkeypatch.setattr(gl.importlib, "import_module", fail)
    with pytest.raises(LspFastError, match=r"egl does not work: no device for mujoco.egl.*libegl1.*MUJOCO_GL=osmesa"):
        gl._Painter("egl")


def test_the_doctor_says_which(monkeypatch):
    class Fine:
        def result(self):
            return True, "renderer"

    probes = dict.fromkeys(gl.PACKAGES, Fine())
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "_loads", lambda library: library == "OSMesa")
    assert list(doctor._rendering(probes))[-1] == doctor.Finding("pixels", "would be drawn with osmesa")
    monkeypatch.setattr(gl, "_loads", lambda library: False)
    assert "libosmesa6" in list(doctor._rendering(probes))[-1].text


# Real frames


def test_frames_of_any_size_and_memory_given_back(opengl):
    env = tasks.make("cheetah_run")
    env.reset(seed=0)
    small = env.render_frame(64, 64)
    large = env.render_frame(1000, 700)  # more than the model's buffer has
    assert large.shape == (700, 1000, 3)
    np.testing.assert_array_equal(env.render_frame(64, 64), small)
    env.close()
    painter = env._frames._painter
    assert len(painter.forgotten) == 1
    np.testing.assert_array_equal(env.render_frame(64, 64), small)
    assert not painter.forgotten
    del env
    gc.collect()
    assert len(painter.forgotten) == 1


def test_frames_are_the_same_alone_or_among_others(opengl):
    """Shadows, too, which move from the second frame on."""
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 6))

    def play(*played):
        firsts = [env.reset(seed=seed)[0] for seed, env in enumerate(played)]
        steps = [[env.step(action)[0] for env in played] for action in actions]
        return [np.stack(frames) for frames in zip(firsts, *steps, strict=True)]

    first, second = (envs.make("walker_walk", obs="pixels") for _ in range(2))
    alone = play(first)
    second.reset(seed=5)
    np.testing.assert_array_equal(play(first, second)[0], alone[0])
    second.close()
    del second
    gc.collect()
    np.testing.assert_array_equal(play(first), alone)


def test_any_thread_may_ask_for_frames(opengl):
    env, frames = envs.make("cheetah_run", obs="pixels"), []
    for _ in range(3):
        thread = threading.Thread(target=lambda: frames.append(env.reset(seed=0)[0]))
        thread.start()
        thread.join()
    assert len(frames) == 3 and all(np.array_equal(frame, env.reset(seed=0)[0]) for frame in frames)


def test_fast_frames_differ_a_little(opengl):
    slow, fast = (episode(envs.make("cheetah_run", obs="pixels", fast_render=fast))[0] for fast in (False, True))
    assert 0 < np.abs(slow.astype(int) - fast).mean() < 4


def test_a_forked_process_is_told_that_it_cannot_draw(opengl, monkeypatch):
    env = envs.make("cheetah_run", obs="pixels")
    env.reset()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(LspFastError, match="forked"):
        env.step(np.zeros(6))


def run_python(code, name):
    """What it printed, in a process of its own with that OpenGL, and its errors."""
    environment = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"}
    environment |= {"MUJOCO_GL": name, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode and ("pixels need OpenGL" in done.stderr or "cannot be imported" in done.stderr):
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", list(gl.PACKAGES))
@pytest.mark.parametrize("task", ["quadruped_walk", "quadruped_escape"])
def test_frames_are_dm_controls(name, task):
    """Where dm_control has OpenGL too. The terrain of quadruped_escape changes at resets."""
    code = f"""
import numpy as np
from lsp_fast import envs
env = envs.make({task!r}, obs="pixels")
for seed in (1, 2):
    frame, _ = env.reset(seed=seed)
    for _ in range(2):
        expected = env.unwrapped._environment.physics.render(64, 64, camera_id=2)
        assert np.array_equal(frame, expected), np.abs(frame.astype(int) - expected).max()
        frame, *_ = env.step(np.ones(12))
print("equal")
"""
    assert run_python(code, name)[0] == "equal"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(gl.PACKAGES))
def test_a_process_that_closed_nothing_ends_quietly(name):
    code = 'from lsp_fast import envs; env = envs.make("cheetah_run", obs="pixels"); env.reset(); print("drawn")'
    said, errors = run_python(code, name)
    assert said == "drawn" and "Exception" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("name", ["disable", *gl.PACKAGES])
def test_triton_may_be_imported_after_a_frame(name):
    pytest.importorskip("triton")
    code = 'from lsp_fast import envs; env = envs.make("cheetah_run", obs="pixels"); env.reset(); import triton'
    run_python(code, name)
