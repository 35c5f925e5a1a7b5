"""How jobs are run, and whom they report to: the two arguments that every layer of `runs` and `studies` passes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emphasis.executors import LOCAL, ExecutorOptions
from emphasis.training.settings import Execution
from emphasis.validation import check

if TYPE_CHECKING:
    from emphasis.experiments.runs.jobs import Job
    from emphasis.experiments.runs.store import Row

Level = Literal["info", "note", "warning"]


@dataclass(frozen=True)
class RunContext:
    """How jobs are run. Nothing here changes what is trained.

    Attributes:
        root: Folder of the data sets; None for the default of `emphasis.datasets.data_root`.
        download: Whether missing data is downloaded from its official address.
        execution: Device, compilation and distribution. The precision is the recipe's.
        workers: Number of processes of the local executor, each of which trains one job at a time.
        threads: Number of CPU threads of each process. None chooses one thread for stacked perceptrons, whose products
            are too small to be split, and an equal share of the cores for other networks; on a cluster one thread.
        checkpoint_seconds: Seconds between two checkpoints of a job.
        executor: Where jobs run: in processes of this machine, or on a cluster.
        locks: "flock" where the disk that processes share has such locks; "lease" where it has not (NFS without locks,
            SMB): a job of a process that died is then taken up by another after half a minute.

    Raises:
        ValueError: If a value is not allowed.
    """

    root: Path | None = None
    download: bool = False
    execution: Execution = field(default_factory=Execution)
    workers: int = 1
    threads: int | None = None
    checkpoint_seconds: float = 10.0
    executor: ExecutorOptions = LOCAL
    locks: Literal["flock", "lease"] = "flock"

    def __post_init__(self) -> None:
        check(self.workers >= 1, "workers", self.workers, "use a whole number >= 1")
        check(self.locks in ("flock", "lease"), "locks", self.locks, 'use "flock" or "lease"')
        check(self.threads is None or self.threads >= 1, "threads", self.threads, "use a whole number >= 1, or None")
        allowed = 0.0 <= self.checkpoint_seconds < math.inf
        check(allowed, "checkpoint_seconds", self.checkpoint_seconds, "use a finite number >= 0")


class Reporter:
    """Receives what a run has to report. This one ignores all of it; a subclass overrides what it shows."""

    def progress(self, job: Job, done: int, total: int) -> None:
        """Report that `done` of the `total` training steps of a job have been taken."""

    def loading(self, task: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of preparing the data are done; a total of 0 means it is not known."""

    def message(self, text: str, level: Level = "info") -> None:
        """Report one line of text for the user."""

    def finished(self, job: Job, rows: Sequence[Row]) -> None:
        """Report that a job is finished, and the lines of results that were stored."""

    def resumed(self, folder: Path, finished: int, total: int) -> None:
        """Report that the folder already holds `finished` of the `total` networks that a run asks for."""
        if finished == total:
            self.message(f"{folder} already holds all {total} networks: nothing is trained (--force trains them again)")
        elif finished:
            self.message(f"{folder} already holds {finished} of {total} networks")


class Printer(Reporter):
    """Prints messages, and ignores progress."""

    def message(self, text: str, level: Level = "info") -> None:
        """Print a line, which begins with the level unless that is info."""
        print(text if level == "info" else f"{level}: {text}", flush=True)


class PassingOn(Reporter):
    """Passes everything on to another reporter; a subclass overrides what it treats otherwise."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def progress(self, job: Job, done: int, total: int) -> None:
        """Pass on."""
        self._reporter.progress(job, done, total)

    def loading(self, task: str, done: int, total: int) -> None:
        """Pass on."""
        self._reporter.loading(task, done, total)

    def message(self, text: str, level: Level = "info") -> None:
        """Pass on."""
        self._reporter.message(text, level)

    def finished(self, job: Job, rows: Sequence[Row]) -> None:
        """Pass on."""
        self._reporter.finished(job, rows)

    def resumed(self, folder: Path, finished: int, total: int) -> None:
        """Pass on."""
        self._reporter.resumed(folder, finished, total)


class WithoutMessages(PassingOn):
    """Drops messages: for networks that only serve another purpose."""

    def message(self, text: str, level: Level = "info") -> None:
        """Drop."""

    def resumed(self, folder: Path, finished: int, total: int) -> None:
        """Drop."""


class WithoutResumed(PassingOn):
    """Drops `resumed`: for a study whose runs share a folder, where each run resumes."""

    def resumed(self, folder: Path, finished: int, total: int) -> None:
        """Drop."""


DEFAULT_CONTEXT = RunContext()
SILENT = Reporter()
