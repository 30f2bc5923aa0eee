"""Latent Skill Planning: fast and checked.

    import lsp_fast

    config = lsp_fast.make_config("cpu", "lsp", task="cheetah_run")
    lsp_fast.train(config, "runs/example")
    agent = lsp_fast.load("runs/example")
    env = lsp_fast.envs.make("cheetah_run")

What these names stand for is imported when one of them is first used, so that `import lsp_fast` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsp_fast import envs
    from lsp_fast.config import make_config
    from lsp_fast.evaluate import load
    from lsp_fast.training.loop import train

__version__ = "0.1.0"

__all__ = ["envs", "load", "make_config", "train"]

_HOME = {
    "envs": ("lsp_fast.envs", None),
    "load": ("lsp_fast.evaluate", "load"),
    "make_config": ("lsp_fast.config", "make_config"),
    "train": ("lsp_fast.training.loop", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lsp_fast' has no attribute {name!r}; there are {', '.join(__all__)}")
    module, attribute = _HOME[name]
    found = importlib.import_module(module)
    globals()[name] = found = found if attribute is None else getattr(found, attribute)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
