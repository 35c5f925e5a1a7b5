"""Runs in TensorBoard: a folder for each network, side by side in that of the run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorboard as _tensorboard  # noqa: F401  (so that it is missed here)
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from emphasis.experiments.tracking.base import Images

_REPORT = "report"


class TensorBoardTracker:
    """A run in a folder of TensorBoard; the arguments are those of `MakeTracker`."""

    def __init__(self, to: str | None, folder: Path, title: str, identity: str) -> None:
        self._root, self._name = Path(to) if to else folder / "tensorboard", f"{title}-{identity}"

    def start_network(self, identity: str, title: str) -> TensorBoardLogger:
        """Return the logger of a network."""
        version = f"{title.replace('/', '_')} {identity[-16:]}"
        shutil.rmtree(self._root / self._name / version, ignore_errors=True)
        return _Network(self._root, self._name, version)

    def add_report(self, files: Sequence[Path], images: Images) -> None:  # noqa: ARG002
        """Show the figures; TensorBoard shows no pages."""
        shutil.rmtree(self._root / self._name / _REPORT, ignore_errors=True)
        logger = TensorBoardLogger(self._root, self._name, _REPORT)
        for name, image in images().items():
            logger.experiment.add_image(name, image, dataformats="HWC")
        logger.finalize("success")

    def close(self) -> None:
        """Do nothing: each logger is closed by itself."""


class _Network(TensorBoardLogger):
    """Writes the parameters as text: TensorBoard's table of parameters takes numbers for metrics of their own."""

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        lines = "\n".join(f"| {name} | {value} |" for name, value in params.items())
        self.experiment.add_text("parameters", f"| setting | value |\n|---|---|\n{lines}")
