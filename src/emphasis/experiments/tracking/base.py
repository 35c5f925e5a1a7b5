"""The protocol of trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lightning_fabric.loggers.logger import Logger

Images = Callable[[], Mapping[str, bytes]]
"""Returns PNG files by names such as "curves"."""


class Tracker(Protocol):
    """A tracker's own run for the folder; all of its methods may be called again after an interruption."""

    def start_network(self, identity: str, title: str) -> Logger:
        """Return the logger of a nested run, emptied of what an interrupted attempt has recorded."""

    def add_report(self, files: Sequence[Path], images: Images) -> None:
        """Record the figures of the whole run as files or as images, whichever the tracker shows, and its page."""

    def close(self) -> None:
        """Write what is pending, and end the run."""
