"""Errors that are meant for users: the message names the value and the remedy; the command line exits with status 2."""


class LspFastError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(LspFastError):
    """A configuration value that cannot be used."""


class BackendUnavailable(LspFastError):
    """A backend that was asked for by name and cannot be had; carries the original error."""


class CheckpointError(LspFastError):
    """A run folder or checkpoint that cannot be used."""


class EnvironmentFailed(LspFastError):
    """An environment that raised, or gave what cannot be learned from; carries the original error."""


class ProcessLost(LspFastError):
    """One of the processes that train together is gone, or does not answer."""


def first_line(error: BaseException) -> str:
    """What an error says first; its kind where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
