"""The C++ extension `lsp_fast._native`, imported when it is first asked for, behind torch tensors."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from lsp_fast import machine
from lsp_fast.errors import BackendUnavailable
from lsp_fast.ops.lambda_return import from_kernels
from lsp_fast.ops.types import (
    ActorWeights,
    ImagineNoise,
    MLPWeights,
    Normal,
    PlanKey,
    PlanNoise,
    PlanRules,
    PlanWeights,
    PriorWeights,
    State,
)

BUILD_LOG = Path(__file__).parents[1] / "_native_build.log"


@functools.cache
def load() -> ModuleType:
    """The extension module.

    Raises:
        BackendUnavailable: it cannot be imported; the message holds the original error and the build log's last lines.
    """
    try:
        module = importlib.import_module("lsp_fast._native")
        module.limit_threads(machine.cores())
        return module
    except ImportError as error:
        message = f"the native extension lsp_fast._native cannot be imported: {error}"
        raise BackendUnavailable(message + _log_tail()) from error


def _log_tail(lines: int = 20) -> str:
    """What the install kept of a failed build, or what to do where it kept nothing."""
    try:
        tail = BUILD_LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return "\nNo build log was kept; install the package (`pip install .`) to build the extension."
    return f"\nThe last lines of its build ({BUILD_LOG}):\n" + "\n".join(f"    {line}" for line in tail)


def select_elites(
    values: Tensor, plans: Tensor, num_elites: int, mean: Tensor, std: Tensor, floor: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """`lsp_fast.ops.select_elites` in C++: the same contract, on the CPU, float32 or float64, without gradients.

    Args:
        values: [N, G].
        plans: [N, G, P, Z].
        num_elites: M, 1 <= M <= G.
        mean, std: [N, P, Z].
        floor: added to the population variance under the root.

    Returns:
        mean, std: [N, P, Z]; indices: [N, M] int64, best first, -1 where absent.

    Raises:
        ValueError: a shape, dtype or device that does not fit; the message names the argument.
        BackendUnavailable: the extension was not built.
    """
    arrays = [_array(name, t) for name, t in (("values", values), ("plans", plans), ("mean", mean), ("std", std))]
    new_mean, new_std, indices = load().select_elites(*arrays[:2], num_elites, *arrays[2:], floor)
    return torch.from_numpy(new_mean), torch.from_numpy(new_std), torch.from_numpy(indices)


def _lambda_return_forward(rewards: Tensor, values: Tensor, discounts: Tensor, bootstrap: Tensor, lam: float) -> Tensor:
    returns = torch.empty_like(rewards)
    if returns.numel():
        inputs = {"rewards": rewards, "values": values, "discounts": discounts, "bootstrap": bootstrap}
        arrays = [_columns(name, x, bootstrap) for name, x in inputs.items()]
        load().lambda_return(*arrays, lam, _columns("returns", returns, bootstrap))
    return returns


def _lambda_return_backward(
    grad: Tensor, values: Tensor, discounts: Tensor, bootstrap: Tensor, returns: Tensor, lam: float
) -> tuple[Tensor, ...]:
    outputs = (*(torch.empty_like(grad) for _ in range(3)), torch.empty_like(bootstrap))
    if grad.numel():
        inputs = (_columns("grad", x, bootstrap) for x in (grad, values, discounts, bootstrap, returns))
        load().lambda_return_backward(*inputs, lam, *(_columns("grad", x, bootstrap) for x in outputs))
    return outputs


def _columns(name: str, tensor: Tensor, bootstrap: Tensor):
    """[T, ...] as [T, C] and [...] as [C], sharing memory."""
    return _array(name, tensor).reshape(-1, bootstrap.numel())[0 if tensor.dim() == bootstrap.dim() else slice(None)]


lambda_return = from_kernels(_lambda_return_forward, _lambda_return_backward)
"""`lsp_fast.ops.lambda_return` in C++: the same contract, on the CPU, float32 or float64. Returns and gradients are
equal to the reference's to the bit. Raises ValueError for a dtype or device that does not fit."""


def imagine_heads(
    start: State,
    prior: PriorWeights,
    actor: ActorWeights | None,
    skills: Tensor | None,
    skill_length: int,
    noise: ImagineNoise,
    heads: tuple[MLPWeights, ...],
    precision: str = "fp32",
    isa: str = "auto",
) -> Tensor:
    """`lsp_fast.ops.imagine_heads` in C++: the same contract, on the CPU from float32 tensors.

    It runs on torch.get_num_threads() threads; the result does not depend on their number.

    Args:
        isa: one of `instruction_sets()`; auto takes the first.

    Raises:
        ValueError: a shape, dtype or device that does not fit; the message names the argument.
        BackendUnavailable: the extension was not built.
    """
    outputs = load().imagine_heads(
        *(_array(name, x) for name, x in zip(("stoch", "deter"), start, strict=True)),
        _arrays(prior),
        _actor(actor),
        None if skills is None else _array("skills", skills if actor is None else actor.scaled(skills)),
        skill_length,
        _array("noise.stoch", noise.stoch),
        None if noise.action is None or actor is None else _array("noise.action", noise.action),
        _arrays(heads),
        precision,
        _threads(),
        isa,
    )
    return torch.from_numpy(outputs)


def plan(
    start: State,
    weights: PlanWeights,
    noise: PlanNoise | PlanKey,
    prior: Normal,
    rules: PlanRules,
    isa: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CEM over skills or actions from every start state in C++ (`lsp_fast.planning.plan`), on the CPU.

    It runs on torch.get_num_threads() threads; the result does not depend on their number, and equals that of
    `imagine_heads`, `lambda_return` and `select_elites` put together to the bit (closely, by sum or with a discount
    head). On Python's main thread a signal's handler that raises (Ctrl-C) ends it soon: once the tiles under way are
    done. A handler must not fork.

    Args:
        start: [N, ...]
        weights: the live ones; they are packed once for the whole plan.
        noise: of I iterations, as numbers or as the key that they follow from.
        prior: mean and std [N, P, Z] of the first iteration's candidates.
        rules: how candidates are scored and refitted.
        isa: as in `imagine_heads`.

    Returns:
        mean, std [N, P, Z]; values [I, N, G]; elites [I, N, M] int64.

    Raises:
        ValueError: a shape, dtype or device that does not fit; the message names the argument.
        BackendUnavailable: the extension was not built.
    """
    if isinstance(noise, PlanKey):
        drawn = (tuple(noise.key.tolist()), *noise[1:])
    else:
        action = None if noise.action is None else _array("noise.action", noise.action)
        drawn = (_array("noise.candidates", noise.candidates), _array("noise.stoch", noise.stoch), action)
    # The native plan hands candidates to the actor as they are: it plans what the actor sees. That is the same plan in
    # other units, in which the floor is a variance.
    scale = 1.0 if weights.actor is None else weights.actor.skill_scale
    results = load().plan(
        *(_array(name, x) for name, x in zip(("stoch", "deter"), start, strict=True)),
        _arrays(weights.prior),
        _actor(weights.actor),
        _arrays(weights.heads),
        *(_array(name, _times(x, scale)) for name, x in zip(("mean", "std"), prior, strict=True)),
        drawn,
        rules.num_elites,
        rules.skill_length,
        rules.gamma,
        rules.lam,
        rules.by_sum,
        rules.floor * scale**2,
        rules.std_min * scale,
        math.inf if rules.clip is None else rules.clip,
        weights.value is not None,
        rules.precision,
        _threads(),
        isa,
    )
    mean, std, values, elites = (torch.from_numpy(x) for x in results)
    return _times(mean, 1 / scale), _times(std, 1 / scale), values, elites


def normals(
    key: Tensor, stream: int, first_step: int, steps: int, rows: int, columns: int, isa: str = "auto"
) -> Tensor:
    """`lsp_fast.ops.philox.normals` in C++: the same numbers to the bit, [steps, rows, columns] (not contiguous)."""
    words = tuple(key.tolist())
    numbers = load().philox_normals(words, stream, first_step, steps, rows, columns, _threads(), isa)
    return torch.from_numpy(numbers).transpose(1, 2)


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that this processor runs kernels of, the best one first."""
    return load().instruction_sets()


def _threads() -> int:
    """PyTorch's, but never so many that the system refuses them; results do not depend on it."""
    return _held.threads or min(torch.get_num_threads(), machine.most_threads())


class _Held(threading.local):
    threads = 0  # 0: PyTorch's


_held = _Held()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it PyTorch computes on one thread and the extension on all of them.

    PyTorch's threads go on spinning after an operation, on the processors that native ones need; and what is left to
    PyTorch in an update is small.
    """
    before = torch.get_num_threads()
    held, _held.threads = _held.threads, _threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _held.threads = held


def _arrays(weights):
    """Nested tuples of tensors as nested tuples of arrays; numbers and None stay."""
    if isinstance(weights, tuple):
        return tuple(_arrays(x) for x in weights)
    return _array("a weight", weights.detach()) if isinstance(weights, Tensor) else weights


def _actor(weights: ActorWeights | None):
    """What native code knows of them."""
    return None if weights is None else _arrays(tuple(weights[:4]))


def _times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else factor * x


def _array(name: str, tensor: Tensor):
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, which this operation does not give: detach it, or use no_grad")
    if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} ({tensor.dtype}, shape {tuple(tensor.shape)}, on {tensor.device}) must be float32 or float64 on "
            "the CPU"
        )
    return tensor.detach().contiguous().numpy()
