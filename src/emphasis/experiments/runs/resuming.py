"""The checkpoints of a job: where it goes on from, and when they are written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric

from emphasis.errors import EmphasisOSError
from emphasis.process import asked, stop_if_asked
from emphasis.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from emphasis.training.loop import State
from emphasis.training.settings import Execution


class Checkpoints:
    """The checkpoints of one job under way.

    Args:
        path: The file.
        title: Of the job, for people.
        run: What it trains, and on what: what one began, another must not end.
        steps: In all.
        every: Seconds between two checkpoints.
        fabric: The one that trains it.
        execution: How.
        say: Called with what the user should know.
    """

    def __init__(
        self, path: Path, title: str, run: str, steps: int, every: float, fabric: Fabric, execution: Execution,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.path, self.title, self.run, self.steps, self.every = path, title, run, steps, every
        self.fabric, self.shards, self.say = fabric, execution.strategy == "fsdp", say
        self._earlier = 0.0  # seconds of training before the checkpoint that it goes on from
        self._began = self._saved = time.monotonic()
        self._refused = False

    @property
    def seconds(self) -> float:
        """How long the job has been trained."""
        return self._earlier + time.monotonic() - self._began

    def resume(self, state: State) -> None:
        """Bring `state` to where the checkpoint was, if there is one that can be used.

        Raises:
            CheckpointError: It is not the same on all ranks.
        """
        self._check_shared(self.path.exists())  # shards are read by all together
        try:
            extra = load_checkpoint(self.path, state, self.fabric, self.run)
            self._earlier = float(extra["seconds"])
            torch.set_num_threads(extra["threads"])  # so that it ends as it would have, bit for bit
            self.say(f"{self.title}: going on from iteration {state.iteration:,} of {self.steps:,}")
        except FileNotFoundError:
            pass
        except CheckpointError as error:
            self.say(f"{error}; starting from the beginning")
        self._check_shared(state.iteration)
        self._began = self._saved = time.monotonic()

    def after_step(self, state: State) -> None:
        """Write a checkpoint if it is time, or if the process is asked to end.

        One that the system refuses ends nothing: room may be made before the next, and an earlier one is still whole.

        Raises:
            Stopped: The process is asked to end.
        """
        stops = asked() is not None
        due = (stops or time.monotonic() - self._saved >= self.every) and self.fabric.is_global_zero
        if self.shards:  # of which all ranks give theirs
            due = self.fabric.broadcast(due)
        # None after the last step: its evaluation's probabilities are not part of a checkpoint.
        if not due or state.iteration == self.steps:
            return
        extra = {"seconds": self.seconds, "threads": torch.get_num_threads()}
        try:
            save_checkpoint(self.path, state, self.fabric, self.run, extra)
        except EmphasisOSError as error:
            if not (self._refused or stops):
                self.say(f"{self.title}: {error}; training goes on, and tries again every {self.every:g} s")
            elif stops:
                self.say(f"{self.title}: {error}")
            self._refused = True
        self._saved = time.monotonic()
        if self.fabric.is_global_zero:  # the other ranks leave with it
            stop_if_asked()

    def _check_shared(self, found: int) -> None:
        """Raise CheckpointError on a rank that has not found in a checkpoint what the first has."""
        if self.fabric.broadcast(found) != found:
            where = self.path.parents[1]
            raise CheckpointError(f"{self.path} is not the same on all machines; they must share {where}")
