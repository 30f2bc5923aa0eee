"""Libraries that only some users need, and the command that brings each."""

from __future__ import annotations

import importlib
from typing import Any

from lsp_fast.errors import LspFastError


def load(module: str, extra: str, what: str) -> Any:
    """An optional library's module, as `load("optuna", "search", "[search]")`.

    Args:
        module: to import.
        extra: of this package that installs it.
        what: cannot be done without it; begins the error.

    Raises:
        LspFastError: it cannot be imported; the error carries the cause and the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # One that is there and broken tells more by its own words than by a name.
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        why = "" if missing else f" ({error})"
        raise LspFastError(
            f"{what} needs {module.partition('.')[0]}{why}; install it: pip install 'lsp-fast[{extra}]', or in this "
            f"folder pip install -e '.[{extra}]'"
        ) from error
