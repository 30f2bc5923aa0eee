"""Off-screen OpenGL: which there is, and frames of MuJoCo simulations drawn with it.

Importing it is cheap: OpenGL is loaded for the first frame.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import ctypes.util
import functools
import importlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lsp_fast.errors import LspFastError

PACKAGES = {"egl": "libegl1 libgl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
"""Off-screen OpenGL by the name that MUJOCO_GL takes, and the Debian packages that bring it; the first is preferred."""
_LIBRARIES = {"egl": ("EGL", "libEGL.so.1"), "osmesa": ("OSMesa", "libOSMesa.so.8")}
_UNPROBED = ("glfw",)
"""What MUJOCO_GL may name besides; it needs a display, so it is never taken unasked."""


def choose(environment: Mapping[str, str] = os.environ) -> str:
    """The OpenGL to draw with, as MUJOCO_GL names it: the user's, else the first whose library can be loaded.

    MUJOCO_GL=disable is no choice: it is what features set, and this process may have inherited it.

    Raises:
        LspFastError: there is none, with the packages that bring it.
    """
    asked = environment.get("MUJOCO_GL", "").lower()
    if asked in _UNPROBED:
        return asked
    for name in [asked] if asked in PACKAGES else PACKAGES:
        if any(_loads(library) for library in _LIBRARIES[name]):
            return name
    if asked in PACKAGES:
        raise LspFastError(
            f"pixels need OpenGL, and the library of MUJOCO_GL={asked} is missing: apt-get install {PACKAGES[asked]}, "
            "or unset MUJOCO_GL"
        )
    ways = ", or ".join(f"apt-get install {packages} (for {name})" for name, packages in PACKAGES.items())
    raise LspFastError(f"pixels need OpenGL, and there is none: {ways}; or train from features")


def before_loading() -> None:
    """To be called before OpenGL is loaded: imports triton, where there is triton.

    Mesa makes the names of its LLVM global. Triton brings an LLVM of its own and crashes when it is loaded after that.
    """
    with contextlib.suppress(Exception):
        importlib.import_module("triton")


def _loads(library: str) -> bool:
    """Whether that library, a file's name or what -l takes, is there and loads."""
    path = library if library.startswith("lib") else ctypes.util.find_library(library)
    try:
        return path is not None and bool(ctypes.CDLL(path))
    except OSError:
        return False


class Frames:
    """Pictures of one simulation from one of its cameras.

    They are drawn with MuJoCo itself rather than with dm_control, whose OpenGL is settled when it is imported: so
    frames can be had where dm_control was imported without any.
    """

    def __init__(self, physics: Any, camera: int) -> None:
        """
        Args:
            physics: dm_control's physics of the task. Its model's `vis.quality` counts as it is at the first frame.
            camera: the number of a camera in its model.
        """
        self._physics = physics
        self._camera = camera
        self._drawing: tuple[Any, ...] | None = None
        self._terrain = np.empty(0, np.float32)
        self._painter: _Painter | None = None

    def draw(self, width: int, height: int) -> np.ndarray:
        """The state as it is now: uint8 [height, width, 3], a new array.

        Raises:
            LspFastError: there is no OpenGL, or it does not work.
        """
        if self._painter is None:
            self._painter = _painter(choose())
        return self._painter.call(self._draw, self._painter, width, height)

    def close(self) -> None:
        """Give back the memory of the drawing; another frame would take it anew."""
        if self._drawing is not None:
            self._drawing[-1]()
            self._drawing = None

    def _draw(self, painter: _Painter, width: int, height: int) -> np.ndarray:
        """`draw`, on the painter's thread."""
        mujoco: Any = importlib.import_module("mujoco")  # most of its names are unknown to type checkers
        painter.sweep()
        model, data = self._physics.model.ptr, self._physics.data.ptr
        if self._drawing is not None:
            painter.take(self._drawing[0])
        else:
            number = painter.open()
            context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
            option = mujoco.MjvOption()
            option.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = (
                False  # as in dm_control: beams are no part of the robot
            )
            camera = mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, self._camera
            # Whatever thread forgets this object, the memory is given back by the painter's.
            free = weakref.finalize(self, painter.forgotten.append, (number, context))
            free.atexit = False
            self._drawing = number, context, mujoco.MjvScene(model, maxgeom=MAX_GEOMS), option, camera, free
            self._terrain = model.hfield_data.copy()
        _, context, scene, option, camera, _ = self._drawing
        if not np.array_equal(self._terrain, model.hfield_data):  # drawn from a copy; a reset may have changed it
            for field in range(model.nhfield):
                mujoco.mjr_uploadHField(model, context, field)
            self._terrain = model.hfield_data.copy()
        if width > context.offWidth or height > context.offHeight:
            mujoco.mjr_resizeOffscreen(max(width, context.offWidth), max(height, context.offHeight), context)
        area, frame = mujoco.MjrRect(0, 0, width, height), np.empty((height, width, 3), np.uint8)
        mujoco.mjv_updateScene(model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL.value, scene)
        mujoco.mjr_render(area, scene, context)
        mujoco.mjr_readPixels(frame, None, area, context)
        return frame[::-1].copy()  # OpenGL's rows go up


MAX_GEOMS = 10_000
"""Of a scene, far above what any task here has."""


class _Painter:
    """The one thread of this process that draws, with an OpenGL context for each simulation.

    A context belongs to one thread at a time, while environments are reset and stepped by different ones. Simulations
    cannot share one: the newest of them would cast its shadows in the frames of all.
    """

    def __init__(self, backend: str) -> None:
        """
        Raises:
            LspFastError: OpenGL's library is there but it does not work.
        """
        self._backend, self._process = backend, os.getpid()
        self._thread = ThreadPoolExecutor(1, "lsp-gl")
        self.forgotten: deque[Any] = deque()
        """Drawings to be freed, with their OpenGL contexts' numbers; a queue, as the garbage collector may come at any
        time, on any thread."""
        self._contexts: dict[int, Any] = {}
        self._opened = 0
        try:
            self.call(self._probe)
        except Exception as error:
            # The library may lack a driver, Python's side be settled for another OpenGL: none has one class of errors.
            others = " or ".join(f"MUJOCO_GL={name}" for name in PACKAGES if name != backend)
            raise LspFastError(
                f"pixels need OpenGL, and {backend} does not work: {error}. Its packages are "
                f"{PACKAGES.get(backend, 'those of GLFW')}; or try {others}; `lsp-fast doctor` tries each"
            ) from error

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result, on the thread that draws.

        Raises:
            LspFastError: in a process forked from one that has drawn: drivers do not live through that.
        """
        if os.getpid() != self._process:
            raise LspFastError("a process forked after the first frame cannot draw: spawn it, or draw there only")
        return self._thread.submit(function, *arguments).result()

    def sweep(self) -> None:
        """Free what nothing refers to any more."""
        while self.forgotten:
            number, drawing = self.forgotten.pop()
            self.take(number)
            drawing.free()
            self._contexts.pop(number).free()

    def open(self) -> int:
        """A new OpenGL context, taken. Returns its number."""
        # Not mujoco.GLContext, which is settled by MUJOCO_GL when mujoco is imported. It sets PYOPENGL_PLATFORM.
        opened = importlib.import_module(f"mujoco.{self._backend}").GLContext(64, 64)
        self._opened += 1
        self._contexts[self._opened] = opened  # frames have buffers of their own
        self.take(self._opened)
        return self._opened

    def take(self, number: int) -> None:
        """Draw with that context from now on."""
        self._contexts[number].make_current()

    def _probe(self) -> None:
        before_loading()
        self._contexts.pop(self.open()).free()
        # They free themselves; without this, when the modules that they need for that are gone already.
        atexit.register(self._contexts.clear)


_painter = functools.cache(_Painter)
