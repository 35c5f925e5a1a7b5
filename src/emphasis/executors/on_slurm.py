"""Work on a Slurm cluster, by submitit: array jobs that are requeued with their checkpoints.

A driver that was killed leaves its Slurm jobs in the queue. The next one finds them by the names of the work, and
waits for them instead of submitting them again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

from emphasis.executors.base import ExecutorOptions, Work, WorkerLostError
from emphasis.files import write_text
from emphasis.process import usable_cores

_MOST_AT_ONCE = 1000  # Slurm's limit for the size of an array, unless its configuration changes it
_MOST_REQUEUES = 1000  # after the time limit
_DEFAULT_MINUTES = 60  # submitit's own, 5, is too short, and Slurm starts jobs of an hour earlier than those of days
_POLL_SECONDS = 0.5
_QUEUE_SECONDS = 5.0  # between two looks at the queue, and before a job that has left it without a result is lost


@dataclass(frozen=True)
class _Requeued:
    """Work that submitit submits again, as it is, when its job is preempted or reaches its time limit.

    Attributes:
        work: The work.
        driver: Process without which nobody waits for the result; None for a Slurm job, which the next driver finds.
    """

    work: Work
    driver: int | None = None

    def __call__(self) -> Any:
        if self.driver is not None:
            threading.Thread(target=_exit_after, args=(self.driver,), daemon=True).start()
        return self.work(lambda _: None)

    def checkpoint(self) -> DelayedSubmission:
        """Return what to submit again; the work finds its own checkpoint."""
        return DelayedSubmission(self)


@dataclass
class _Pending:
    """A submitted piece of work."""

    job: Any
    future: Future[Any]
    missing_since: float | None = None  # when it was first seen neither in the queue nor finished


class SlurmExecutor:
    """Runs work as Slurm jobs, or, where there is no Slurm, as processes of this machine that submitit starts.

    Args:
        folder: Folder, on a disk that all machines share, for submitit's files.
        options: Partition, time limit and most jobs at a time.
        cpus: Number of CPU cores of each job.
        gpus: Number of GPUs of each job.
    """

    shares_disk = True

    def __init__(self, folder: Path, options: ExecutorOptions, cpus: int, gpus: int) -> None:
        self._folder = folder.absolute() / ".slurm"
        self._executor = submitit.AutoExecutor(self._folder, slurm_max_num_timeout=_MOST_REQUEUES)
        self._has_slurm = self._executor.cluster == "slurm"
        at_once = _MOST_AT_ONCE if self._has_slurm else max(1, usable_cores() // cpus)
        self._capacity = min(options.jobs or at_once, at_once)
        self._executor.update_parameters(name="emphasis", cpus_per_task=cpus, gpus_per_node=gpus)
        self._executor.update_parameters(timeout_min=options.minutes or _DEFAULT_MINUTES)
        if options.partition:
            self._executor.update_parameters(slurm_partition=options.partition)
        if options.jobs:
            self._executor.update_parameters(slurm_array_parallelism=options.jobs)
        self._new: dict[str, _Pending] = {}  # of the present batch
        self._pending: dict[str, _Pending] = {}
        self._lock = threading.Lock()  # of `_pending`
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def capacity(self) -> int:
        """Return the number of jobs that Slurm queues, or the number of cores where there is no Slurm."""
        return self._capacity

    def submit(self, name: str, work: Work, receive: Callable[[Any], None]) -> Future[Any]:  # noqa: ARG002
        """Submit work, within `batch`; see `Executor`. Nothing that the work sends is received."""
        driver = None if self._has_slurm else os.getpid()
        job = self._submitted_earlier(name) or self._executor.submit(_Requeued(work, driver))
        self._new[name] = _Pending(job, Future())
        return self._new[name].future

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make the submissions within the block one array of jobs."""
        with self._executor.batch(allow_implicit_submissions=True):
            yield
        for name, pending in self._new.items():
            write_text(self._folder / f"{name}.id", pending.job.job_id)
        with self._lock:
            self._pending |= self._new
        self._new = {}

    def share(self, value: Any) -> None:
        """Return None: each job loads the data from the shared disk."""

    def _submitted_earlier(self, name: str) -> Any:
        """Return the Slurm job that an earlier driver submitted for this work; None if there is none to wait for."""
        if not self._has_slurm or not (file := self._folder / f"{name}.id").exists():
            return None
        job: Any = submitit.SlurmJob(self._folder, file.read_text(encoding="utf-8"))
        return job if job.paths.result_pickle.exists() or job.job_id in (_queued() or ()) else None

    def _watch(self) -> None:
        """Complete the futures of jobs that end."""
        checked = time.monotonic()
        while not self._closing.wait(_POLL_SECONDS):
            with self._lock:
                pending = dict(self._pending)
            alive: set[str] | None = None  # not known
            if time.monotonic() - checked >= _QUEUE_SECONDS or not self._has_slurm:
                checked = time.monotonic()
                alive = self._alive(pending)
            for name, entry in pending.items():
                if entry.job.paths.result_pickle.exists() or (alive is not None and self._is_lost(entry, alive)):
                    with self._lock:
                        del self._pending[name]
                    self._complete(name, entry)

    def _alive(self, pending: dict[str, _Pending]) -> set[str] | None:
        """Return the ids of the jobs that wait or run; None if that cannot be found out now."""
        if self._has_slurm:
            return _queued()
        return {entry.job.job_id for entry in pending.values() if not entry.job.done()}

    @staticmethod
    def _is_lost(entry: _Pending, alive: set[str]) -> bool:
        """Return whether a job ended without a result; the file of one may appear late on a shared disk."""
        if entry.job.job_id in alive:
            entry.missing_since = None
        elif entry.missing_since is None:
            entry.missing_since = time.monotonic()
        return entry.missing_since is not None and time.monotonic() - entry.missing_since > _QUEUE_SECONDS

    def _complete(self, name: str, entry: _Pending) -> None:
        if not entry.job.paths.result_pickle.exists():
            entry.future.set_exception(WorkerLostError(f"the job {entry.job.job_id} ended without a result"))
        else:
            try:
                entry.future.set_result(entry.job.result())
            except Exception as error:  # of the worker: the last line of its traceback tells
                last = str(error).rstrip().rpartition("\n")[2]
                entry.future.set_exception(WorkerLostError(f"the job {entry.job.job_id} failed ({last})"))
        for path in self._folder.glob(f"{entry.job.job_id}_*"):
            path.unlink(missing_ok=True)
        (self._folder / f"{name}.id").unlink(missing_ok=True)

    def close(self) -> None:
        """Cancel what is unfinished, and remove submitit's files if nothing is."""
        self._closing.set()
        self._thread.join()
        for name, entry in self._pending.items():
            entry.job.cancel(check=False)
            (self._folder / f"{name}.id").unlink(missing_ok=True)
        if not self._pending:
            shutil.rmtree(self._folder, ignore_errors=True)


def _exit_after(driver: int) -> None:
    """Exit soon after a process of this machine has ended."""
    while True:
        time.sleep(_POLL_SECONDS)
        try:
            os.kill(driver, 0)
        except ProcessLookupError:
            os._exit(1)


def _queued() -> set[str] | None:
    """Return the ids of this user's jobs that wait or run, or None if the queue cannot be read at the moment."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError):
        return None
