"""Implementations of the hot operations, chosen once while an agent is built.

A backend is a named tuple of plain functions with the signatures and rules of `lsp_fast.ops`. One that is asked for by
name and cannot be had raises BackendUnavailable with the original error; `auto` falls back and says so.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends import cpp, cpp_adam, cpp_densities, cpp_learning, cpp_steps
from lsp_fast.errors import BackendUnavailable, ConfigError, first_line
from lsp_fast.ops import densities
from lsp_fast.ops.adam import Step
from lsp_fast.ops.lambda_return import from_kernels
from lsp_fast.ops.observe import Observed
from lsp_fast.ops.philox import normals
from lsp_fast.ops.select_elites import check_select_elites
from lsp_fast.ops.types import Rollout


class Backend(NamedTuple):
    """The hot operations; `lsp_fast.ops` holds each one's contract."""

    name: str
    lambda_return: Callable[..., Tensor]
    select_elites: Callable[..., tuple[Tensor, Tensor, Tensor]]
    imagine: Callable[..., Rollout]
    imagine_heads: Callable[..., Tensor]
    normals: Callable[..., Tensor]
    mlp: Callable[..., Tensor]
    observe: Callable[..., Observed]
    log_prob: Callable[..., Tensor]
    kl_divergence: Callable[..., Tensor]
    entropy: Callable[..., Tensor]
    adam: Callable[[torch.optim.Adam, float], Step]
    plan: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] | None = None
    """A whole plan at once, as `lsp_fast.backends.cpp.plan`; None composes it of the others."""
    world_model: Callable[..., Any] | None = None
    """A whole loss with its gradients, as `lsp_fast.backends.cpp_steps.world_model`; None composes it of the others."""
    behavior: Callable[..., Any] | None = None
    """The same of behaviour's losses, as `lsp_fast.backends.cpp_steps.behavior`."""
    bf16_learner: Backend | None = None
    """What learns with products in bf16 (`train.precision`); None: there is no instruction for it."""
    alone: Callable[[], AbstractContextManager] = nullcontext
    """Within it nothing of PyTorch's takes the processors that the backend computes on."""
    multiplies_bf16: bool = False
    """There is an instruction for products in bf16, which `planner.precision` auto then takes."""
    pack_heads: Callable[..., Callable[..., Tensor]] | None = None
    """`imagine_heads` of packed weights for many calls, as `lsp_fast.backends.triton.pack_heads`; None: nothing."""

    def draws_by_key(self, how: str) -> bool:
        """Whether `planner.noise` = how means a key of Philox, whose numbers `normals` gives."""
        return how == "philox" or (how == "auto" and self.normals is not normals)


REFERENCE = Backend(
    "reference",
    ops.lambda_return,
    ops.select_elites,
    ops.imagine,
    ops.imagine_heads,
    normals,
    ops.mlp,
    ops.observe,
    densities.log_prob,
    densities.kl_divergence,
    densities.entropy,
    ops.adam,
)


def _cpp(device: torch.device) -> Backend:
    if device.type != "cpu":
        raise BackendUnavailable(f"backend 'cpp' runs on the processor, not on {device}; use --device cpu")
    cpp.load()
    sets = cpp.instruction_sets()
    learner = {
        "mlp": cpp_learning.mlp,
        "imagine": cpp_learning.imagine,
        "observe": cpp_learning.observe,
        "world_model": cpp_steps.world_model,
        "behavior": cpp_steps.behavior,
    }
    backend = REFERENCE._replace(
        name="cpp",
        lambda_return=cpp.lambda_return,
        select_elites=cpp.select_elites,
        imagine_heads=cpp.imagine_heads,
        normals=cpp.normals,
        log_prob=cpp_densities.log_prob,
        kl_divergence=cpp_densities.kl_divergence,
        entropy=cpp_densities.entropy,
        adam=cpp_adam.adam,
        alone=cpp.alone,
        plan=cpp.plan,
        multiplies_bf16="avx512bf16" in sets,
        **learner,
    )
    if "avx512bf16" not in sets:
        return backend
    rounded = {name: functools.partial(function, isa="bf16") for name, function in learner.items()}
    return backend._replace(bf16_learner=backend._replace(**rounded))


def _triton(device: torch.device) -> Backend:
    try:
        from lsp_fast.backends import triton, triton_adam, triton_densities, triton_learning, triton_observe
        from lsp_fast.kernels import imagine_heads, lambda_return, philox, select_elites
    except ImportError as error:
        raise BackendUnavailable(f"backend 'triton' needs the triton package: {error}") from error
    if device.type != "cuda" and not imagine_heads.INTERPRETED:
        raise BackendUnavailable(
            f"backend 'triton' runs on a GPU, not on {device}; use --device cuda (or, to try kernels slowly on a "
            "processor, set TRITON_INTERPRET=1)"
        )
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        raise BackendUnavailable(
            f"backend 'triton' needs a GPU of compute capability 8.0 (A100, RTX 30) or newer, this one has "
            f"{capability[0]}.{capability[1]}; use --backend reference"
        )

    if device.type == "cuda":
        try:
            # Triton builds what calls the driver with the host's C compiler, when it is first needed.
            _ = triton_driver().get_current_target()
        except Exception as error:  # whatever a compiler, or the search for one, raises
            raise BackendUnavailable(
                f"backend 'triton' cannot reach the GPU's driver: {first_line(error)}; it needs a C compiler and "
                "Python's headers (Debian: gcc, python3-dev)"
            ) from error

    def checked(values: Tensor, plans: Tensor, num_elites: int, mean: Tensor, std: Tensor, floor: float = 1e-6):
        check_select_elites(values, plans, num_elites, mean, std)
        return select_elites.select_elites(values, plans, num_elites, mean, std, floor)

    return REFERENCE._replace(
        name="triton",
        lambda_return=from_kernels(lambda_return.forward, lambda_return.backward),
        select_elites=checked,
        imagine_heads=triton.imagine_heads,
        normals=philox.normals,
        observe=triton_observe.observe,
        pack_heads=triton.pack_heads,
        mlp=triton_learning.mlp,
        imagine=triton_learning.imagine,
        log_prob=triton_densities.log_prob,
        kl_divergence=triton_densities.kl_divergence,
        entropy=triton_densities.entropy,
        adam=triton_adam.adam,
        multiplies_bf16=True,
    )


def triton_driver() -> Any:
    """Triton's way to the GPU."""
    from triton.runtime import driver

    return driver.active


_BUILDERS: dict[str, Callable[[torch.device], Backend]] = {
    "reference": lambda device: REFERENCE,
    "cpp": _cpp,
    "triton": _triton,
}


def learning_backend(backend: Backend, precision: str) -> Backend:
    """What computes losses and their gradients in that precision (`train.precision`).

    Raises:
        ConfigError: bf16, where the backend or the processor has no instruction for it.
    """
    if precision == "fp32":
        return backend
    if backend.bf16_learner is None:
        raise ConfigError(
            f"train.precision = {precision!r} needs --backend cpp and a processor with AVX512-BF16, and this is "
            f"backend {backend.name!r}; use fp32, or --train.autocast"
        )
    return backend.bf16_learner


def get(name: str, device: torch.device | str = "cpu") -> Backend:
    """The backend of that name for tensors on `device`.

    Raises:
        ConfigError: no backend has that name.
        BackendUnavailable: it cannot be had here; `auto` never raises.
    """
    device = torch.device(device)
    if name == "auto":
        return _auto(device)
    if name not in _BUILDERS:
        raise ConfigError(f"unknown backend {name!r}; there are auto, {', '.join(_BUILDERS)}")
    return _BUILDERS[name](device)


@functools.cache
def _auto(device: torch.device) -> Backend:
    try:
        return _BUILDERS["triton" if device.type == "cuda" else "cpp"](device)
    except BackendUnavailable as error:
        # Cached, so that it is said once.
        warnings.warn(f"falling back to the reference backend: {error}", stacklevel=3)
        return REFERENCE


def device(name: str) -> torch.device:
    """The device of that name, a GPU with its number; `auto` is the current GPU where PyTorch sees one, else cpu.

    Raises:
        ConfigError: neither auto, cpu, nor cuda with an optional number.
        BackendUnavailable: a GPU that PyTorch does not see.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}; there are auto, cpu, cuda, cuda:0, ...")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailable(
            f"device {name!r} cannot be had: PyTorch {torch.__version__} sees {torch.cuda.device_count()} GPUs; use "
            "--device cpu, or install a PyTorch built for your GPU's driver"
        )
    if found.type == "cuda" and found.index is None:
        # torch.cuda.set_device refuses one without a number.
        found = torch.device("cuda", torch.cuda.current_device())
    return found
