"""dm_control's suite: imported late, with MUJOCO_GL settled first."""

from __future__ import annotations

import functools
import logging
import os
import sys
from typing import Any

from lsp_fast.envs import gl
from lsp_fast.errors import LspFastError


@functools.cache
def suite_tasks() -> dict[str, tuple[str, str]]:
    """Every suite task: `domain_task` to (domain, task). Domains contain underscores, so a name is never split."""
    return {f"{domain}_{name}": (domain, name) for domain, name in suite().ALL_TASKS}


def suite() -> Any:
    """dm_control's suite, imported at first use: it takes most of a second."""
    # Features need no renderer, and looking for one fails on many machines. A user's own choice stands.
    if os.environ.setdefault("MUJOCO_GL", "disable") != "disable":
        gl.before_loading()
    try:
        from dm_control import suite
    except ModuleNotFoundError as error:
        alone = "--no-deps " if error.name == "dm_control" and sys.version_info >= (3, 13) else ""
        raise LspFastError(
            f"dm_control cannot be imported: {error}; pip install {alone}{error.name}, or install lsp_fast again"
        ) from error
    except (ImportError, AttributeError, RuntimeError) as error:
        # A renderer without its library breaks dm_control's import with an AttributeError that does not say so.
        raise LspFastError(
            f"dm_control cannot be imported (MUJOCO_GL={os.environ['MUJOCO_GL']!r}): {error}. Unset MUJOCO_GL to train "
            "from features"
        ) from error
    # MuJoCo warns of an attribute in dm_control's own models, once for every environment.
    logging.getLogger("absl").addFilter(_is_not_about_total_mass)
    return suite


def _is_not_about_total_mass(record: logging.LogRecord) -> bool:
    return "settotalmass" not in record.getMessage()
