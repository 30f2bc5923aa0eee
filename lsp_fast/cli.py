"""The command line: `lsp-fast` and what `commands.COMMANDS` lists."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import tyro

import lsp_fast
from lsp_fast import machine, terminal
from lsp_fast.commands import COMMANDS
from lsp_fast.commands.train import Train
from lsp_fast.config import ALGORITHMS, PRESETS, base_config
from lsp_fast.errors import LspFastError


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit status; 2 for what the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        with terminal.streams():
            return _told(argv)
    except terminal.OutputLost as error:
        if error.reason == errno.EPIPE:  # whoever read the output, `head` say, has seen enough
            return 128 + signal.SIGPIPE
        with terminal.streams():
            print(f"lsp-fast: standard output cannot be written: {error}; name another place for it", file=sys.stderr)
        return 2


def _told(argv: list[str]) -> int:
    """Run one command, and put what stops it into a line."""
    if not argv or argv[0] not in COMMANDS:
        return _usage(argv)
    for line in machine.drop_thread_variables():
        print(f"lsp-fast: warning: {line}", file=sys.stderr)
    warnings.formatwarning = _one_line
    try:
        return at_home(parse(argv)).run()
    except LspFastError as error:
        if _tells():
            print(f"lsp-fast: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"lsp-fast: {error.filename}: {error.strerror}; name a path that can be used", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = (
            "; what was written up to the newest checkpoint stays" if argv[0] in ("train", "transfer", "sweep") else ""
        )
        print(f"lsp-fast: quit{kept}", file=sys.stderr)
        return 130


def _tells() -> bool:
    """Whether this process tells of an error: one of those that train together does."""
    together = sys.modules.get("lsp_fast.processes")
    return together is None or together.tells()


def _one_line(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
    """A warning of ours is for the user, who need not know where in the code it is."""
    return (
        f"lsp-fast: warning: {message}\n" if category is UserWarning else _formatted(message, category, *place, **line)
    )


_formatted = warnings.formatwarning


def _usage(argv: list[str]) -> int:
    """What there is to type; of a name that is no command the nearest."""
    if argv[:1] == ["--version"]:
        print(f"lsp-fast {lsp_fast.__version__}")
        return 0
    asked = not argv or argv[0] in ("-h", "--help")
    if not asked:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"lsp-fast: no command {argv[0]!r}; {hint}", file=sys.stderr)
        return 2
    known = "\n".join(f"  {name:9} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items())
    print(
        f"usage: lsp-fast COMMAND [OPTIONS]\n\n{known}\n\n"
        "`lsp-fast COMMAND --help` lists its options, `lsp-fast --version` names the version."
    )
    return 0 if argv else 2


def at_home(command: Any) -> Any:
    """The command with `~` of its paths replaced by the user's home, as a shell does where it stands alone."""

    def expanded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(expanded, value))
        if hasattr(value, "run"):  # a command's own command
            return at_home(value)
        return value.expanduser() if isinstance(value, Path) else value

    try:
        return dataclasses.replace(
            command, **{f.name: expanded(getattr(command, f.name)) for f in dataclasses.fields(command)}
        )
    except RuntimeError as error:  # no home
        raise LspFastError(f"~ cannot be replaced: {str(error).rstrip('.')}; name the whole path") from error


def parse(argv: list[str]) -> Any:
    """The command with its options; presets and algorithms are the defaults that the options then override."""
    if argv[0] != "train":
        return tyro.cli(COMMANDS[argv[0]], prog=f"lsp-fast {argv[0]}", args=argv[1:])
    rows = argparse.ArgumentParser("lsp-fast train", add_help=False, allow_abbrev=False)
    rows.add_argument("--preset", default="paper", choices=PRESETS)
    rows.add_argument("--algorithm", default="lsp", choices=ALGORITHMS)
    row, _ = rows.parse_known_args(argv[1:])
    default = Train(base_config(row.preset, row.algorithm))
    return tyro.cli(Train, prog="lsp-fast train", args=argv[1:], default=default)


if __name__ == "__main__":
    sys.exit(main())
