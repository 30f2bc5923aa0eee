"""MLflow: `--log mlflow`. Its own variables say where to: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from lsp_fast import extras
from lsp_fast.media import Video, png
from lsp_fast.storage.writers.base import LogWriter, Outcome, RunStart, finite

EXPERIMENT = "lsp_fast"
"""Where no other one is named."""
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
AT_ONCE = 100
"""Parameters that one request may hold."""
MOST_METRICS = 1000
"""Numbers that one request may hold."""
LONGEST = 500
"""Characters of a parameter's value that every version takes."""
DATABASES = "sqlite", "postgresql", "mysql", "mssql"
"""What an address of a database begins with."""
SQLITE = "sqlite:///"
"""And that of one which is a file."""


def library() -> Any:
    """The library; what is missing is named with the command that installs it."""
    mlflow = extras.load("mlflow", "mlflow", "--log mlflow")
    if mlflow.get_tracking_uri().startswith(DATABASES):
        for module in ("sqlalchemy", "alembic"):  # the small package has neither, and says so in words of its own
            extras.load(module, "mlflow", "--log mlflow into a database, its default,")
    return mlflow


@contextmanager
def alone(address: str) -> Iterator[None]:
    """Waits for other runs that open the same SQLite file. The first one makes its tables; where two do so at once,
    MLflow leaves a file that nothing can read."""
    with ExitStack() as held:
        if address.startswith(SQLITE):
            with suppress(OSError):  # no such folder, which MLflow tells of; or no locks there
                folder = os.open(Path(unquote(address.removeprefix(SQLITE))).absolute().parent, os.O_RDONLY)
                held.callback(os.close, folder)
                fcntl.flock(folder, fcntl.LOCK_EX)
        yield


class Mlflow(LogWriter):
    """A run there, whose steps are environment steps.

    A resumed run goes on in the same one. A row that it has already is not sent again. Its parameters stay as they were
    first: MLflow lets none change.
    """

    def __init__(self, start: RunStart) -> None:
        mlflow = library()
        self._entities: Any = extras.load("mlflow.entities", "mlflow", "--log mlflow")
        known = start.recall("mlflow_run")
        with alone(mlflow.get_tracking_uri()):
            self._client: Any = mlflow.MlflowClient()
            there = None if known is None else self._find(known)
            if there is None:
                self._id = self._create(start)
                start.remember("mlflow_run", self._id)
            else:
                self._id = there.info.run_id
                self._client.update_run(self._id, status="RUNNING")
        # Of each number the newest step that is there, asked for once; nothing is there of a new run.
        self._newest: dict[str, int] | None = None if there is None else {}
        for row in start.rows:
            self.scalars(row["env_steps"], finite(row))

    def _find(self, run_id: str) -> Any | None:
        """The run; None where it is not in this store, or was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            warnings.warn(f"MLflow has no run {run_id} where it writes now; a new one begins there", stacklevel=2)
            return None
        return run

    def _create(self, start: RunStart) -> str:
        named = os.environ.get("MLFLOW_EXPERIMENT_ID")
        experiment = named or self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        tags = {"task": start.task, "method": start.method, "seed": str(start.seed)}
        run_id = self._client.create_run(experiment, run_name=start.name, tags=tags).info.run_id
        parameters = [self._entities.Param(name, str(value)[:LONGEST]) for name, value in start.config.items()]
        for first in range(0, len(parameters), AT_ONCE):
            self._client.log_batch(run_id, params=parameters[first : first + AT_ONCE])
        return run_id

    def _experiment(self, name: str) -> str:
        """The experiment's number; of several runs that begin at once one makes it."""
        from mlflow.exceptions import MlflowException

        if (there := self._client.get_experiment_by_name(name)) is None:
            try:
                return self._client.create_experiment(name)
            except MlflowException:
                if (there := self._client.get_experiment_by_name(name)) is None:
                    raise
        return there.experiment_id

    def scalars(self, env_steps: int, row: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, float(value), now, env_steps)
            for name, value in row.items()
            if self._lacks(name, env_steps)
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + MOST_METRICS])

    def _lacks(self, name: str, env_steps: int) -> bool:
        """Whether the run has no such number of that step, or a later one, from an earlier start."""
        if self._newest is None:
            return True
        if name not in self._newest:
            history = self._client.get_metric_history(self._id, name)
            self._newest[name] = max((metric.step for metric in history), default=-1)
        return env_steps > self._newest[name]

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        self._file("images", f"{name}_{env_steps:09d}.png", png(pixels))

    def video(self, env_steps: int, name: str, video: Video) -> None:
        self._file("videos", f"{name}_{env_steps:09d}.mp4", video.mp4)

    def _file(self, kind: str, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._client.log_artifact(self._id, str(path), kind)

    def finish(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, STATUS[outcome])
