"""What a worker of an executor does: it trains the networks of a job, and returns what the driver stores of them."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emphasis.executors import Send
from emphasis.experiments.runs.context import Level, Reporter, RunContext
from emphasis.experiments.runs.data import keep_loaded
from emphasis.experiments.runs.failures import Failure, describe_failure
from emphasis.experiments.runs.jobs import Job
from emphasis.experiments.runs.store import Row, packed
from emphasis.experiments.runs.train_job import train_networks

_SECONDS_BETWEEN_REPORTS = 0.2
_received: list[Any] = []  # at most one: the function that returned the data that is loaded


@dataclass(frozen=True)
class JobResult:
    """What a job stores: a line per network, and the content of the file of its arrays."""

    rows: list[Row]
    arrays: bytes


@dataclass(frozen=True)
class JobWork:
    """The training of one job, in a worker; called there, it returns a `JobResult`, or a `Failure`.

    It sends ("progress", done, total), ("message", text, level), and, unless the disk is shared, ("checkpoint", bytes)
    whenever it has written one.

    Attributes:
        job: The job.
        context: How it is trained, and the number of threads.
        checkpoint: File of the checkpoint on a disk that is shared, or the content of the last one, or None.
        data: Function that returns the whole data set, if the executor has it; None if the worker loads it.
        directory: Working directory, which relative paths in recipes refer to.
    """

    job: Job
    context: RunContext
    checkpoint: Path | bytes | None
    data: Callable[[], Any] | None
    directory: Path

    def __call__(self, send: Send) -> JobResult | Failure:
        """Train the networks."""
        with suppress(OSError):  # another machine may not have the directory
            os.chdir(self.directory)
        torch.set_num_threads(self.context.threads or 1)
        try:
            if isinstance(self.checkpoint, Path):
                return self._train(self.checkpoint, send)
            self._receive_data()
            with tempfile.TemporaryDirectory(prefix="emphasis-") as folder:
                path = Path(folder) / f"{self.job.name}.pt"
                if self.checkpoint is not None:
                    path.write_bytes(self.checkpoint)
                return self._train(path, send, lambda: send(("checkpoint", path.read_bytes())))
        except Exception as error:  # whatever it is, the driver has to know
            return describe_failure(self.job, error)

    def _train(self, path: Path, send: Send, saved: Callable[[], None] | None = None) -> JobResult:
        rows, arrays = train_networks(self.job, path, self.context, _SendingReporter(send), saved=saved)
        return JobResult(rows, packed(arrays))

    def _receive_data(self) -> None:
        if self.data is not None and self.data not in _received:
            cell = self.job.cells[0]
            loaded = copy.deepcopy(self.data())  # what is in the object store cannot be written to
            keep_loaded(cell.dataset, cell.noise, self.context, loaded)
            _received[:] = [self.data]


class _SendingReporter(Reporter):
    """Sends what a job reports to the driver."""

    def __init__(self, send: Send) -> None:
        self.send, self._last = send, -1.0

    def progress(self, job: Job, done: int, total: int) -> None:  # noqa: ARG002  (the driver knows the job)
        now = time.monotonic()
        if done == total or now - self._last >= _SECONDS_BETWEEN_REPORTS:
            self._last = now
            self.send(("progress", done, total))

    def message(self, text: str, level: Level = "info") -> None:
        self.send(("message", text, level))
