"""Runs in Weights & Biases: a run for each network, in a group with one that has the figures and the page.

Nothing is sent unless the user has asked for that with WANDB_MODE=online: runs are written to the folder, and
`wandb sync FOLDER/wandb/offline-run-*` sends them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning_fabric.loggers.logger import Logger

from emphasis.experiments.tracking.base import Images


class WandbTracker:
    """A group of runs in Weights & Biases; the arguments are those of `MakeTracker`."""

    def __init__(self, to: str | None, folder: Path, title: str, identity: str) -> None:
        self._project, self._folder, self._title, self._identity = to or title, folder, title, identity

    def _start(self, identity: str, name: str, kind: str) -> Any:
        """Return a run; what an interrupted attempt has written is removed."""
        mode = os.environ.get("WANDB_MODE", "offline")
        for path in (self._folder / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(path)
        return wandb.init(
            project=self._project,
            dir=self._folder,
            id=identity,
            name=name,
            group=f"{self._title}-{self._identity}",
            job_type=kind,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )

    def start_network(self, identity: str, title: str) -> Logger:
        """Return the logger of a run."""
        return _Network(self._start(identity, title, "network"))

    def add_report(self, files: Sequence[Path], images: Images) -> None:
        """Record the figures, and the page as an artifact, in a run of their own."""
        run = self._start(f"{self._identity}-report", self._title, "report")
        figures = {name: wandb.Image(image) for name, image in images().items()}
        if figures:
            run.log(figures)
        artifact = wandb.Artifact(f"report-{self._identity}", "report")
        for path in files:
            artifact.add_file(str(path))
        run.log_artifact(artifact)
        run.finish()

    def close(self) -> None:
        """End the process that writes the files: it has not written all of a run when `finish` returns."""
        wandb.teardown()


class _Network(Logger):
    """A run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return str(self._run.id)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._run.config.update(params, allow_val_change=True)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._run.log(metrics, step=step)

    def finalize(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "success" else 1)
