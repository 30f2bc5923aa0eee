"""Where a run's numbers, pictures and videos go: a file for each place.

`LogWriter` is the interface, `RunStart` what a writer is opened with. docs/logging.md has an example of one's own.
"""

from lsp_fast.storage.writers.base import LogWriter, Outcome, RunStart

__all__ = ["LogWriter", "Outcome", "RunStart"]
