"""What there is to train with on this machine, and what is missing. Writes nothing."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lsp_fast
from lsp_fast import machine
from lsp_fast.envs import gl
from lsp_fast.errors import LspFastError

PATIENCE = 8.0
"""Seconds that a renderer may take before it counts as hanging."""
LONG_PATIENCE = 30.0
"""The same for an environment: from a cold disk its imports take long, and training can run all the same."""
NEEDED = ("torch", "numpy", "numba", "mujoco", "dm_control", "gymnasium", "tqdm", "tensorboard", "matplotlib")
MAZES = sys.version_info < (3, 13)
"""Whether dm_control's labmaze has a wheel."""
INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16")


@dataclass(frozen=True)
class Finding:
    """One line: a name, what was found, and whether training cannot do with it."""

    name: str
    text: str
    fatal: bool = False


@dataclass(frozen=True)
class Report:
    """What `lsp-fast doctor` prints, and whether `lsp-fast train` can run."""

    lines: list[str]
    can_train: bool

    def __str__(self) -> str:
        return "\n".join(self.lines)


def report() -> Report:
    """Look at everything; never raises. Each check stands alone: one that fails hides none of the others."""
    # Renderers and environments are tried in processes of their own, at once: none may be imported here, nor hang.
    probes = {name: Probe(_RENDER, PATIENCE, MUJOCO_GL=name) for name in gl.PACKAGES}
    environment = Probe(_STEP, LONG_PATIENCE)
    sections: dict[str, list[Callable[[], Iterator[Finding]]]] = {
        "versions": [_versions],
        "processor": [_processor, _threads],
        "memory and disk": [_memory, _disk],
        "backends": [lambda name=name: _backend(name) for name in ("reference", "cpp", "triton", "auto")],
        "GPU": [_gpu],
        "training": [lambda: _environment(environment), _agent],
        "rendering (for pixels; features need none)": [lambda: _rendering(probes)],
    }
    lines, fatal = [], []
    for title, checks in sections.items():
        lines.append(title)
        for check in checks:
            for finding in _findings(check):
                first, *rest = finding.text.splitlines() or [""]
                lines.append(f"  {finding.name:13} {'ERROR: ' if finding.fatal else ''}{first}")
                lines += [f"  {'':13} {line}" for line in rest]
                if finding.fatal:
                    fatal.append(finding.name)
    lines.append(f"training cannot run: see {', '.join(fatal)} above" if fatal else "training can run")
    return Report(lines, not fatal)


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check's findings, with whatever stopped it as the last one."""
    try:
        yield from check()
    except Exception as error:
        yield Finding("unknown", f"this could not be looked at: {_said(error)}")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# Versions


def _versions() -> Iterator[Finding]:
    yield Finding("lsp_fast", f"{lsp_fast.__version__} in {Path(lsp_fast.__file__).parent}")
    yield Finding("Python", f"{platform.python_version()} on {platform.platform()}")
    for name in NEEDED:
        version = _version(name)
        if version is None:
            alone = "--no-deps " if name == "dm_control" and not MAZES else ""
            yield Finding(name, f"missing; pip install {alone}{name}, or install lsp_fast again", fatal=True)
        elif name == "mujoco" and not _mujoco_fits(version):
            remedy = f"{version} does not fit dm_control's tasks: pip install 'mujoco>=3.17,<4'"
            yield Finding(name, remedy, fatal=True)
        else:
            yield Finding(name, version)
    if not MAZES and _version("labmaze") is None:
        yield Finding(
            "labmaze",
            "missing, as it has no wheel for this Python; the suite's tasks, the paper's and gym: work, and only "
            "dm_control's mazes do not",
        )
    yield Finding("triton", _version("triton") or "missing (only the triton backend needs it)")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _mujoco_fits(version: str) -> bool:
    """pyproject.toml's bounds, which an install by other means may have overridden."""
    return (3, 17) <= tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < (4,)


# The machine


def _processor() -> Iterator[Finding]:
    info = machine.colon_lines(Path("/proc/cpuinfo"))
    yield Finding("name", machine.processor())
    flags = set(info.get("flags", "").split())
    if flags:
        there = " ".join(name for name in INSTRUCTIONS if name in flags) or "-"
        absent = " ".join(name for name in INSTRUCTIONS if name not in flags)
        yield Finding("instructions", there + (f" (not {absent})" if absent else ""))
    else:
        yield Finding("instructions", f"unknown on {platform.machine()}")
    cores, quota = machine.allowed_cores(), machine.cpu_quota()
    limited = "" if quota is None else f"; the container may use the time of {quota:.3g}"
    yield Finding("cores", f"{cores} of {os.cpu_count()}{limited}")


def _threads() -> Iterator[Finding]:
    import torch

    from lsp_fast import threads

    limited = threads.use()
    yield Finding("threads", limited or f"{torch.get_num_threads()} of PyTorch (--threads changes that)")


def _memory() -> Iterator[Finding]:
    total, available = machine.memory()
    there = "" if available is None else f", {machine.size_text(available)} of it available"
    yield Finding("memory", machine.size_text(total) + there)
    if (limit := machine.memory_limit()) is not None:
        yield Finding("container", f"{machine.size_text(limit[0])}, {machine.size_text(limit[1])} in use")


def _disk() -> Iterator[Finding]:
    yield Finding("disk", f"{machine.size_text(machine.disk_free(Path.cwd()))} free in {Path.cwd()}")


# What computes


def _backend(name: str) -> Iterator[Finding]:
    try:
        import torch

        from lsp_fast import backends
        from lsp_fast.errors import BackendUnavailable

        gpu = "cuda" if torch.cuda.is_available() else "cpu"
        device = {"reference": gpu, "cpp": "cpu", "triton": gpu, "auto": gpu}[name]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found = backends.get(name, device).name
            except BackendUnavailable as error:
                yield Finding(name, f"no: {error}")
                return
        text = f"takes {found} on {device}" if name == "auto" else f"yes, on {device}"
        yield Finding(name, "\n".join([text, *(str(warning.message) for warning in said)]))
    except Exception as error:  # the name belongs beside it
        yield Finding(name, f"no: {_said(error)}")


def _gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            yield Finding("none", f"PyTorch {torch.__version__} is built without GPU support")
            return
        try:
            torch.cuda.init()
            reason = f"PyTorch {torch.__version__} sees no GPU"
        except Exception as error:
            reason = str(error)
        yield Finding("none", reason)
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        text = f"{gpu.name}, {machine.size_text(gpu.total_memory)}, compute capability {gpu.major}.{gpu.minor}"
        yield Finding(f"cuda:{index}", text)
    yield Finding("driver", f"{_driver()}; PyTorch is built for CUDA {torch.version.cuda}")


def _driver() -> str:
    import torch

    # PyTorch has no public name for it; it counts 13.1 as 13010.
    version = getattr(torch._C, "_cuda_getDriverVersion", lambda: None)()
    return f"runs CUDA up to {version // 1000}.{version % 1000 // 10}" if version else "version unknown"


# Whether it works


class Probe:
    """Python code in a process of its own: what breaks, hangs or kills the interpreter there is only reported here."""

    def __init__(self, code: str, patience: float, **environment: str) -> None:
        # This package, wherever it was imported from, and no files: neither compiled code nor a shader cache.
        path = os.pathsep.join(filter(None, [str(Path(lsp_fast.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        quiet = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MESA_SHADER_CACHE_DISABLE": "true"}
        self.patience, self.deadline = patience, time.monotonic() + patience
        self.error: OSError | None = None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, **quiet, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            self.error = error

    def result(self) -> tuple[bool, str]:
        """Whether it ended well, and the last line that it wrote."""
        if self.error:
            return False, _said(self.error)
        try:
            out, err = self.process.communicate(timeout=max(self.deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return False, f"no answer in {self.patience:g} seconds"
        good = self.process.returncode == 0
        lines = [line for line in (out if good else err).splitlines() if line.strip()]
        if good or lines:
            return good, lines[-1] if lines else ""
        return False, f"ended with status {self.process.returncode}"


_RENDER = """
import mujoco
context = mujoco.GLContext(64, 64)
context.make_current()
from OpenGL import GL
print(GL.glGetString(GL.GL_RENDERER).decode())
context.free()
"""

_STEP = """
import numpy
from lsp_fast import envs
env = envs.make("cheetah_run")
env.reset(seed=0)
observation, reward, *_ = env.step(numpy.zeros(env.action_space.shape))
assert numpy.isfinite(observation).all(), "its observation is not finite"
print(f"cheetah_run makes a step: {observation.size} observations, {env.action_space.shape[0]} actions")
"""


def _environment(probe: Probe) -> Iterator[Finding]:
    good, text = probe.result()
    # An error of ours already says what to do; its class's name is of no use to anybody.
    yield Finding("environment", text.removeprefix("lsp_fast.errors.LspFastError: "), fatal=not good)


def _agent() -> Iterator[Finding]:
    try:
        import numpy as np

        from lsp_fast.agents import ImaginationAgent
        from lsp_fast.config import make_config

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the backends above have said it
            agent = ImaginationAgent(17, 6, make_config("smoke"))
            actions, _ = agent.policy(np.zeros((1, 17), np.float32), agent.initial_carry(1))
        good = actions.shape == (1, 6) and all(map(math.isfinite, actions.ravel()))
        text = f"plans and acts on {agent.device}" if good else f"acts on {agent.device}, but not in numbers: {actions}"
    except Exception as error:
        good, text = False, _said(error)
    yield Finding("agent", text, fatal=not good)


def _rendering(probes: dict[str, Probe]) -> Iterator[Finding]:
    yield Finding("MUJOCO_GL", os.environ.get("MUJOCO_GL", "not set"))
    for name, probe in probes.items():
        good, text = probe.result()
        yield Finding(name, f"works: {text}" if good else f"no: {text}\nDebian has it in {gl.PACKAGES[name]}")
    try:
        text = f"would be drawn with {gl.choose()}"
    except LspFastError as error:
        text = f"no: {error}"
    yield Finding("pixels", text)
