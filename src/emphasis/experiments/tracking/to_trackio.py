"""Runs in Trackio, on this machine: a run for each network in a project."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import trackio
from lightning_fabric.loggers.logger import Logger

from emphasis.experiments.tracking.base import Images

_ALONE = {"resume": "never", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}


class TrackioTracker:
    """Runs in a project of Trackio; the arguments are those of `MakeTracker`."""

    def __init__(self, to: str | None, folder: Path, title: str, identity: str) -> None:  # noqa: ARG002
        self._project, self._identity = to or title, identity

    def start_network(self, identity: str, title: str) -> Logger:
        """Return the logger of a run."""
        return _Network(self._project, f"{title} {identity}")

    def add_report(self, files: Sequence[Path], images: Images) -> None:  # noqa: ARG002
        """Record the figures; Trackio keeps no pages."""
        figures = {name: trackio.Image(image) for name, image in images().items()}
        if figures:
            _write(self._project, f"report {self._identity}", {}, {0: figures})

    def close(self) -> None:
        """Do nothing: each run is finished by itself."""


def _write(project: str, name: str, config: dict[str, Any], metrics: Mapping[int, dict[str, Any]]) -> None:
    """Write a run, all at once, in place of an earlier one of this name."""
    with suppress(ValueError):  # there is no such project yet
        for run in trackio.Api().runs(project):
            if run.name == name:
                run.delete()
    with redirect_stdout(io.StringIO()):  # it prints how to open its dashboard
        trackio.init(project=project, name=name, config=config, **_ALONE)
        for step, values in metrics.items():
            trackio.log(values, step=step)
        trackio.finish()


class _Network(Logger):
    """A run of Trackio, which is written at its end."""

    def __init__(self, project: str, run: str) -> None:
        self._project, self._run = project, run
        self._params: dict[str, Any] = {}
        self._metrics: dict[int, dict[str, float]] = {}

    @property
    def name(self) -> str:
        return "trackio"

    @property
    def version(self) -> str:
        return self._run

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._params.update(params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._metrics.setdefault(step or 0, {}).update(metrics)

    def finalize(self, status: str) -> None:  # noqa: ARG002
        _write(self._project, self._run, self._params, self._metrics)
