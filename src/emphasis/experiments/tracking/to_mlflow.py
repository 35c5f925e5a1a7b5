"""Runs in MLflow: a parent run, and a nested run for each network."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from emphasis.experiments.tracking.base import Images

_IDENTITY = "emphasis.identity"  # a tag
_PARENT, _NAME = "mlflow.parentRunId", "mlflow.runName"
_MOST_CHARACTERS = 500  # of a parameter
_BATCH = 100  # parameters a request; MLflow's limit


class MLflowTracker:
    """A parent run in MLflow; the arguments are those of `MakeTracker`.

    It records in what MLFLOW_TRACKING_URI says by default, or else in a file of the folder.
    """

    def __init__(self, to: str | None, folder: Path, title: str, identity: str) -> None:
        # A server's clients print the address of each run, also between the lines of --json.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        uri = to or _configured_uri()
        self._client = MlflowClient(uri or f"sqlite:///{(folder / 'mlflow.db').absolute()}")
        known = self._client.get_experiment_by_name(title)
        artifacts = None if uri else (folder / "mlartifacts").absolute().as_uri()
        self._experiment = known.experiment_id if known else self._client.create_experiment(title, artifacts)
        self._run = self._find(identity) or self._create(title, {_IDENTITY: identity})

    def _find(self, identity: str) -> str | None:
        """Return the id of the run with this identity; None if there is none."""
        runs = self._client.search_runs([self._experiment], f"tags.`{_IDENTITY}` = '{identity}'")
        return str(runs[0].info.run_id) if runs else None

    def _create(self, name: str, tags: dict[str, str]) -> str:
        return str(self._client.create_run(self._experiment, tags={_NAME: name, **tags}).info.run_id)

    def start_network(self, identity: str, title: str) -> Logger:
        """Return the logger of a nested run."""
        if (interrupted := self._find(identity)) is not None:
            self._client.delete_run(interrupted)
        return _Network(self._client, self._create(title, {_IDENTITY: identity, _PARENT: self._run}))

    def add_report(self, files: Sequence[Path], images: Images) -> None:  # noqa: ARG002
        """Record the files as artifacts of the parent run; MLflow shows SVG files and pages."""
        for path in files:
            self._client.log_artifact(self._run, str(path))

    def close(self) -> None:
        """End the parent run."""
        self._client.set_terminated(self._run)


def _configured_uri() -> str | None:
    """Return the address that the user has configured for MLflow; None if there is none."""
    from mlflow.environment_variables import MLFLOW_TRACKING_URI

    uri: str | None = MLFLOW_TRACKING_URI.get()
    return uri


class _Network(Logger):
    """A run of MLflow."""

    def __init__(self, client: MlflowClient, run: str) -> None:
        self._client, self._run = client, run
        self._metrics: list[Any] = []

    @property
    def name(self) -> str:
        return "mlflow"

    @property
    def version(self) -> str:
        return self._run

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        entries = [Param(name, str(value)[:_MOST_CHARACTERS]) for name, value in params.items()]
        for first in range(0, len(entries), _BATCH):
            self._client.log_batch(self._run, params=entries[first : first + _BATCH])

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        now = int(1000 * time.time())
        self._metrics += [Metric(name, value, now, step or 0) for name, value in metrics.items()]

    def finalize(self, status: str) -> None:
        for first in range(0, len(self._metrics), 10 * _BATCH):
            self._client.log_batch(self._run, metrics=self._metrics[first : first + 10 * _BATCH])
        self._client.set_terminated(self._run, "FINISHED" if status == "success" else "FAILED")
