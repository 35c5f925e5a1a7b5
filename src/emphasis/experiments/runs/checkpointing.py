"""Checkpoints of a job: when they are written, and how training resumes from one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from emphasis.compatibility.fabric import Fabric
from emphasis.errors import EmphasisOSError
from emphasis.experiments.runs.context import Reporter, RunContext
from emphasis.experiments.runs.jobs import Job
from emphasis.process import asked, stop_if_asked
from emphasis.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from emphasis.training.loop import State


class JobCheckpointer:
    """Writes and reads the checkpoints of one job.

    Args:
        job: The job that is trained.
        path: The file.
        context: How it is trained.
        fabric: Fabric that trains it.
        reporter: Receives messages.
        saved: Called after each checkpoint was written.
    """

    def __init__(
        self,
        job: Job,
        path: Path,
        context: RunContext,
        fabric: Fabric,
        reporter: Reporter,
        saved: Callable[[], None] | None = None,
    ) -> None:
        self.path, self.title, self.saved = path, job.title, saved
        self.steps, self.interval = job.cells[0].solver.iterations, context.checkpoint_seconds
        self.fabric, self.reporter = fabric, reporter
        self.is_sharded = context.execution.strategy == "fsdp"
        # A compiled network and other devices round differently: what one of them began, another must not finish.
        self.identity = f"{job.name} on {fabric.device.type}{', compiled' if context.execution.compile else ''}"
        self.identity += f", {fabric.world_size} ranks" if fabric.world_size > 1 else ""
        self.identity += " with shards" if self.is_sharded else ""
        self._earlier_seconds = 0.0  # spent on training before the checkpoint that was resumed from
        self._started = self._saved = time.monotonic()
        self._failed_before = False

    @property
    def seconds(self) -> float:
        """Time spent on training the job so far, interruptions not counted."""
        return self._earlier_seconds + time.monotonic() - self._started

    def resume(self, state: State) -> None:
        """Set `state` to that of the checkpoint, if there is a usable one.

        Raises:
            CheckpointError: If the ranks do not find the same checkpoint.
        """
        self._check_same_on_all_ranks(self.path.exists())  # shards are read by all ranks together
        try:
            extra = load_checkpoint(self.path, state, self.fabric, self.identity)
            self._earlier_seconds = float(extra["seconds"])
            torch.set_num_threads(extra["threads"])  # the result is then the same bit for bit
            self.reporter.message(f"{self.title}: going on from iteration {state.iteration:,} of {self.steps:,}")
        except FileNotFoundError:
            pass
        except CheckpointError as error:
            self.reporter.message(f"{error}; starting from the beginning", "warning")
        self._check_same_on_all_ranks(state.iteration)
        self._started = self._saved = time.monotonic()

    def after_step(self, state: State) -> None:
        """Write a checkpoint if one is due, or if the process is asked to stop.

        A failure to write one does not end training: there may be room for the next one, and the previous one is
        intact.

        Raises:
            Stopped: If the process is asked to stop.
        """
        is_stopping = asked() is not None
        due = (is_stopping or time.monotonic() - self._saved >= self.interval) and self.fabric.is_global_zero
        if self.is_sharded:  # every rank has to contribute its shards
            due = self.fabric.broadcast(due)
        # Not after the last step, whose evaluation's probabilities are not part of a checkpoint.
        if not due or state.iteration == self.steps:
            return
        extra = {"seconds": self.seconds, "threads": torch.get_num_threads()}
        try:
            save_checkpoint(self.path, state, self.fabric, self.identity, extra)
            if self.saved is not None:
                self.saved()
        except EmphasisOSError as error:
            if is_stopping:
                self.reporter.message(f"{self.title}: {error}", "warning")
            elif not self._failed_before:
                again = f"training goes on, and checkpoints are tried again every {self.interval:g} s"
                self.reporter.message(f"{self.title}: {error}; {again}", "warning")
            self._failed_before = True
        self._saved = time.monotonic()
        if self.fabric.is_global_zero:  # the other ranks stop together with it
            stop_if_asked()

    def _check_same_on_all_ranks(self, value: int) -> None:
        """Raise CheckpointError on a rank whose value differs from that of rank 0."""
        if self.fabric.broadcast(value) != value:
            shared = self.path.parents[1]
            raise CheckpointError(f"{self.path} is not the same on all machines; they must share {shared}")
