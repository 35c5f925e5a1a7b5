"""The protocol of trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from lightning_fabric.loggers.logger import Logger
from numpy.typing import NDArray

Images = Callable[[], Mapping[str, NDArray[np.uint8]]]
"""Returns images (height, width, 3) by names such as "curves"."""


class Tracker(Protocol):
    """A tracker's own run for the folder; all of its methods may be called again after an interruption."""

    def start_network(self, identity: str, title: str) -> Logger:
        """Return the logger of a nested run, emptied of what an interrupted attempt has recorded."""

    def add_report(self, files: Sequence[Path], images: Images) -> None:
        """Record the figures of the whole run as files or as images, whichever the tracker shows, and its page."""

    def close(self) -> None:
        """Write what is pending, and end the run."""


class MakeTracker(Protocol):
    """A class of trackers."""

    def __call__(self, to: str | None, folder: Path, title: str, identity: str) -> Tracker:
        """Return a tracker.

        Args:
            to: Where it records: a folder of TensorBoard, a URI of MLflow, or a project; None for a default.
            folder: Folder of the run, within which trackers record by default.
            title: Name of the run.
            identity: The same for a run that is resumed.
        """
