"""Work on a Slurm cluster, by submitit: array jobs that are requeued with their checkpoints.

A job does several pieces of work one after the other if asked, since the start of a process that imports PyTorch may
take longer than a small network. Each result is a file, so that a job that is lost loses only what it was doing. A
driver that was killed leaves its Slurm jobs in the queue. The next one finds them by the names of the work, and waits
for them instead of submitting them again.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

from emphasis.executors.base import ExecutorOptions, Work, WorkerLostError
from emphasis.files import replacing, write_text
from emphasis.process import usable_cores

_MOST_AT_ONCE = 1000  # Slurm's limit for the size of an array, unless its configuration changes it
_MOST_REQUEUES = 1000  # after the time limit
_DEFAULT_MINUTES = 60  # submitit's own, 5, is too short, and Slurm starts jobs of an hour earlier than those of days
_POLL_SECONDS = 0.5
_QUEUE_SECONDS = 5.0  # between two looks at the queue, and before a job that has left it without a result is lost


@dataclass(frozen=True)
class _Group:
    """The work of a job, which submitit submits again, as it is, when the job is preempted or reaches its time limit.

    Attributes:
        works: Pieces of work by name, in the order in which they are done.
        folder: Folder of the results; what has one there is not done again.
        driver: Process without which nobody waits for the results; None for a Slurm job, which the next driver finds.
    """

    works: Mapping[str, Work]
    folder: Path
    driver: int | None = None

    def __call__(self) -> None:
        if self.driver is not None:
            threading.Thread(target=_exit_after, args=(self.driver,), daemon=True).start()
        for name, work in self.works.items():
            path = _result_file(self.folder, name)
            if not path.exists():
                outcome = pickle.dumps(_outcome(work))
                with replacing(path) as partial:
                    partial.write_bytes(outcome)

    def checkpoint(self) -> DelayedSubmission:
        """Return what to submit again; the work finds its own checkpoint."""
        return DelayedSubmission(self)


def _outcome(work: Work) -> tuple[bool, Any]:
    """Return whether the work succeeded, and its result or the last line of its traceback."""
    try:
        return True, work(lambda _: None)
    except Exception as error:  # whatever it is, the driver has to know
        return False, traceback.format_exception_only(error)[-1].rstrip()


def _result_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.result"


@dataclass
class _Pending:
    """A submitted piece of work, and the job that does it."""

    job: Any
    future: Future[Any]
    missing_since: float | None = None  # when the job was first seen neither in the queue nor finished


class SlurmExecutor:
    """Runs work as Slurm jobs, or, where there is no Slurm, as processes of this machine that submitit starts.

    Args:
        folder: Folder, on a disk that all machines share, for submitit's files.
        options: Partition, time limit, most jobs at a time, and most pieces of work of each.
        cpus: Number of CPU cores of each job.
        gpus: Number of GPUs of each job.
    """

    shares_disk = True

    def __init__(self, folder: Path, options: ExecutorOptions, cpus: int, gpus: int) -> None:
        self._folder = folder.absolute() / ".slurm"
        self._executor = submitit.AutoExecutor(self._folder, slurm_max_num_timeout=_MOST_REQUEUES)
        self._has_slurm = self._executor.cluster == "slurm"
        at_once = _MOST_AT_ONCE if self._has_slurm else max(1, usable_cores() // cpus)
        self._most_jobs = min(options.jobs or at_once, at_once)
        self._per_job = options.per_job or 1
        self._executor.update_parameters(name="emphasis", cpus_per_task=cpus, gpus_per_node=gpus)
        self._executor.update_parameters(timeout_min=options.minutes or _DEFAULT_MINUTES)
        if options.partition:
            self._executor.update_parameters(slurm_partition=options.partition)
        if options.jobs:
            self._executor.update_parameters(slurm_array_parallelism=options.jobs)
        self._new: dict[str, tuple[Work, Future[Any]]] = {}  # of the present batch
        self._pending: dict[str, _Pending] = {}
        self._lost: set[str] = set()  # jobs that ended without all results, while some are to be told of it
        self._lock = threading.Lock()  # of `_pending`
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def capacity(self) -> int:
        """Return how much fits into the jobs that Slurm queues, or, where there is no Slurm, that the cores run.

        What a job has finished makes no room: it would be a job of its own.
        """
        with self._lock:
            jobs = {entry.job.job_id for entry in self._pending.values()}
            return len(self._pending) + self._per_job * max(0, self._most_jobs - len(jobs))

    def submit(self, name: str, work: Work, receive: Callable[[Any], None]) -> Future[Any]:  # noqa: ARG002
        """Submit work, within `batch`; see `Executor`. Nothing that the work sends is received."""
        future: Future[Any] = Future()
        self._new[name] = work, future
        return future

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make the submissions within the block one array of jobs."""
        yield
        new, self._new = self._new, {}
        pending = {name: _Pending(self._submitted_earlier(name), future) for name, (_, future) in new.items()}
        names = [name for name, entry in pending.items() if entry.job is None]
        driver = None if self._has_slurm else os.getpid()
        with self._executor.batch(allow_implicit_submissions=True):
            for first in range(0, len(names), self._per_job):
                group = names[first : first + self._per_job]
                for name in group:
                    _result_file(self._folder, name).unlink(missing_ok=True)
                job = self._executor.submit(_Group({name: new[name][0] for name in group}, self._folder, driver))
                for name in group:
                    pending[name].job = job
        for name in names:
            write_text(self._folder / f"{name}.id", pending[name].job.job_id)
        with self._lock:
            self._pending |= pending

    def share(self, value: Any) -> None:
        """Return None: each job loads the data from the shared disk."""

    def _submitted_earlier(self, name: str) -> Any:
        """Return the Slurm job that an earlier driver submitted for this work; None if there is none to wait for."""
        if not self._has_slurm or not (file := self._folder / f"{name}.id").exists():
            return None
        job: Any = submitit.SlurmJob(self._folder, file.read_text(encoding="utf-8"))
        return job if _result_file(self._folder, name).exists() or job.job_id in (_queued() or ()) else None

    def _watch(self) -> None:
        """Complete the futures of work that has ended."""
        checked = time.monotonic()
        while not self._closing.wait(_POLL_SECONDS):
            with self._lock:
                pending = dict(self._pending)
            alive: set[str] | None = None  # not known
            if time.monotonic() - checked >= _QUEUE_SECONDS or not self._has_slurm:
                checked = time.monotonic()
                alive = self._alive(pending)
            left = Counter(entry.job.job_id for entry in pending.values())
            for name, entry in pending.items():
                is_last = left[entry.job.job_id] == 1
                is_lost = alive is not None and self._is_lost(entry, alive)
                if is_lost or self._has_result(name, entry, is_last):
                    with self._lock:
                        del self._pending[name]
                    left[entry.job.job_id] -= 1
                    self._complete(name, entry, is_last)

    def _has_result(self, name: str, entry: _Pending, is_last: bool) -> bool:
        """Return whether there is a result; with its last one, a job must have ended, as its files are removed."""
        if not _result_file(self._folder, name).exists():
            return False
        job = entry.job
        return not is_last or bool(job.paths.result_pickle.exists() if self._has_slurm else job.done())

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

    def _complete(self, name: str, entry: _Pending, is_last: bool) -> None:
        path, job = _result_file(self._folder, name), entry.job
        if path.exists():
            succeeded, content = pickle.loads(path.read_bytes())
            if succeeded:
                entry.future.set_result(content)
            else:
                entry.future.set_exception(WorkerLostError(f"the job {job.job_id} failed ({content})"))
        else:
            entry.future.set_exception(self._loss(job))
        if is_last:
            self._lost.discard(job.job_id)
            for file in self._folder.glob(f"{job.job_id}_*"):
                file.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        (self._folder / f"{name}.id").unlink(missing_ok=True)

    def _loss(self, job: Any) -> WorkerLostError:
        """Return the error of the next piece of work that a lost job left undone, of which only the first had begun."""
        begun = job.job_id not in self._lost
        self._lost.add(job.job_id)
        text = f"the job {job.job_id} ended without a result"
        if job.paths.result_pickle.exists():  # of the worker: the last line of its traceback tells
            text = f"the job {job.job_id} failed ({str(job.exception()).rstrip().rpartition(chr(10))[2]})"
        return WorkerLostError(text, begun=begun)

    def close(self) -> None:
        """Cancel what is unfinished, and remove submitit's files if nothing is."""
        self._closing.set()
        self._thread.join()
        for job in {entry.job.job_id: entry.job for entry in self._pending.values()}.values():
            job.cancel(check=False)
        for name in self._pending:
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
