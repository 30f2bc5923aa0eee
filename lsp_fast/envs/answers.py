"""What an environment answers, wherever it is stepped: in training, evaluation, baselines and pictures."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium
import numpy as np

from lsp_fast.errors import EnvironmentFailed, LspFastError

LARGEST = 1e18
"""Of a reward or an observation: losses square them, and float32 ends at 3.4e38."""

Answer = TypeVar("Answer")


class Elsewhere(Exception):
    """What became of an environment in another process: the end of a sentence about it, as `told` gives."""


def ask(env: gymnasium.Env, index: int, steps: int, call: Callable[..., Answer], *given: Any, **named: Any) -> Answer:
    """What an environment's method returns.

    Args:
        env: whose method it is; `index` its number among others.
        steps: agent steps of its episode, with this one; 0 at a reset.
        call: the method, with its arguments.

    Raises:
        EnvironmentFailed: it raised. The message names the exception and where in the environment's code it was.
    """
    try:
        return call(*given, **named)
    except EnvironmentFailed:
        raise
    except LspFastError as error:
        raise EnvironmentFailed(str(error)) from error
    except Exception as error:  # an environment may raise anything
        what = str(error) if isinstance(error, Elsewhere) else told(error)
        raise EnvironmentFailed(f"{_name(env, index)} {what} {_when(steps)}") from error


def told(error: BaseException) -> str:
    """The exception that an environment raised, and where in its code that was, in a line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"raised {what} ({place.filename.rpartition('/')[2]}:{place.lineno})"


def check(env: gymnasium.Env, index: int, steps: int, observation: np.ndarray, reward: float) -> None:
    """Let nothing pass that would end up in every weight and every score.

    Args:
        env, index, steps: as of `ask`.
        observation: any shape; frames are always fine.
        reward: of an agent step.

    Raises:
        EnvironmentFailed: a number is not finite, or its square is not in float32.
    """
    name = "observation"
    if observation.dtype == np.uint8 and (observed := getattr(env, "observed", None)) is not None and observed.both:
        name, observation = "vector", observed.numbers(observation)
    # One product for all entries, as every step comes by here.
    fine = observation.dtype == np.uint8 or math.isfinite(np.vdot(observation, observation))
    if fine and abs(reward) <= LARGEST:
        return
    if fine:
        field, value = "reward", float(reward)
    else:
        flat = observation.reshape(-1)
        place = int(np.argmax(np.where(np.isnan(flat), np.inf, np.abs(flat))))
        field, value = f"{name}[{place}]", float(flat[place])
    kind = "rewards" if fine else "observations"
    remedy = f"{kind} must be finite" if math.isnan(value) else f"too large for float32: scale the {kind}"
    raise EnvironmentFailed(f"{_name(env, index)}: {field} is {value:g} {_when(steps)}; {remedy}")


def _when(steps: int) -> str:
    return f"in agent step {steps} of its episode" if steps else "where its episode begins"


def _name(env: gymnasium.Env, index: int) -> str:
    name = getattr(env, "name", None)
    return f"environment {index}" if name is None else f"{name} (environment {index})"
