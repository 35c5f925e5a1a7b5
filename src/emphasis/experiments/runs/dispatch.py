"""Jobs on an executor. This process, the driver, holds their locks, and only it writes their results."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emphasis.errors import EmphasisOSError
from emphasis.executors import Executor, WorkerLostError
from emphasis.executors.base import MAX_ATTEMPTS, SIGNAL_SECONDS
from emphasis.experiments.runs.context import Reporter
from emphasis.experiments.runs.failures import Failure, describe_failure, raise_failures
from emphasis.experiments.runs.job_work import JobResult, JobWork
from emphasis.experiments.runs.jobs import Job
from emphasis.experiments.runs.store import CELLS, write_job
from emphasis.experiments.runs.train_job import RETRY_SECONDS, JobLock
from emphasis.files import replacing

MakeWork = Callable[[Job, Path | bytes | None], JobWork]
"""Returns the work of a job, given the file of its checkpoint or the content of that file."""


def run_on_executor(
    jobs: Sequence[Job], folder: Path, reporter: Reporter, executor: Executor, make_work: MakeWork
) -> None:
    """Run jobs on an executor, and close it.

    Args:
        jobs: The jobs.
        folder: Folder of the run.
        reporter: Receives progress and messages.
        executor: Where they are trained.
        make_work: Returns the work of a job.

    Raises:
        JobError, UnforeseenJobError: If a job failed, or its worker was lost three times. The other jobs are finished
            first, unless the disk is full.
    """
    dispatcher = _Dispatcher(jobs, folder, reporter, executor, make_work)
    try:
        dispatcher.run()
    finally:
        try:
            executor.close()
        finally:
            dispatcher.finish()
    raise_failures(dispatcher.failures)


def report_postponed(job: Job, postponed: set[str], reporter: Reporter) -> None:
    """Report, once per job, that a job is skipped for now because it is running in another process."""
    if job.name not in postponed:
        postponed.add(job.name)
        reporter.message(f"{job.title}: running in another process; skipped for now")


@dataclass(frozen=True)
class _Running:
    """A job that was submitted, the number of the attempt, and its lock."""

    job: Job
    attempt: int
    lock: JobLock


class _Dispatcher:
    """The jobs that wait and those that run; the arguments are those of `run_on_executor`."""

    def __init__(
        self, jobs: Sequence[Job], folder: Path, reporter: Reporter, executor: Executor, make_work: MakeWork
    ) -> None:
        self.folder, self.reporter, self.executor, self.make_work = folder, reporter, executor, make_work
        self.waiting = deque((job, 1, 0.0) for job in jobs)  # job, number of the attempt, and time when it is due
        self.running: dict[str, _Running] = {}
        self.inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()  # name of a job, and what came from it
        self.failures: list[Failure] = []
        self.postponed: set[str] = set()
        self.closing = False

    def run(self) -> None:
        """Run until all jobs are finished, or a failure concerns every job."""
        while self.waiting or self.running:
            if any(failure.concerns_all for failure in self.failures):
                return
            with self.executor.batch():
                self._submit_due()
            self._receive_next()

    def _submit_due(self) -> None:
        """Submit the jobs that are due, as many as the executor takes."""
        if not self._has_due():
            return
        room = self.executor.capacity() - len(self.running)
        while room > 0 and self._has_due():
            job, attempt, _ = self.waiting.popleft()
            lock = JobLock(job, self.folder)
            try:
                acquired, finished = lock.acquire()
            except Exception as error:  # the failure of one job does not stop the others
                lock.release()
                self.failures.append(describe_failure(job, error))
                continue
            if not acquired:
                self.waiting.append((job, attempt, time.monotonic() + RETRY_SECONDS))
                report_postponed(job, self.postponed, self.reporter)
                continue
            if finished:
                self.reporter.progress(job, *[job.cells[0].solver.iterations] * 2)
                lock.release()
                lock.remove()
                continue
            self.running[job.name] = _Running(job, attempt, lock)
            self._submit(job)
            room -= 1

    def _has_due(self) -> bool:
        return bool(self.waiting) and self.waiting[0][2] <= time.monotonic()

    def _submit(self, job: Job) -> None:
        checkpoint: Path | bytes | None = self._checkpoint(job)
        if not self.executor.shares_disk:
            checkpoint = self._checkpoint(job).read_bytes() if self._checkpoint(job).exists() else None
        name, inbox = job.name, self.inbox
        future = self.executor.submit(name, self.make_work(job, checkpoint), lambda sent: inbox.put((name, sent)))
        future.add_done_callback(lambda done: inbox.put((name, done)))

    def _checkpoint(self, job: Job) -> Path:
        return (self.folder / CELLS / f"{job.name}.pt").absolute()

    def _receive_next(self) -> None:
        """Wait until something arrives or a job is due, and handle everything that has arrived."""
        timeout = SIGNAL_SECONDS
        if self.waiting and self.executor.capacity() > len(self.running):
            timeout = min(timeout, max(0.0, self.waiting[0][2] - time.monotonic()))
        with suppress(queue.Empty):
            self._handle(*self.inbox.get(timeout=timeout))
            while True:
                self._handle(*self.inbox.get_nowait())

    def _handle(self, name: str, content: Any) -> None:
        job = self.running[name].job
        if isinstance(content, Future):
            self._end(self.running.pop(name), content)
            return
        kind, *details = content
        if kind == "progress":
            self.reporter.progress(job, *details)
        elif kind == "message":
            self.reporter.message(*details)
        elif kind == "checkpoint":
            self._keep_checkpoint(job, *details)

    def _keep_checkpoint(self, job: Job, content: bytes) -> None:
        try:
            with replacing(self._checkpoint(job)) as partial:
                partial.write_bytes(content)
        except EmphasisOSError as error:  # there may be room for the next one
            self.reporter.message(f"{job.title}: {error}", "warning")

    def _end(self, running: _Running, future: Future[Any]) -> None:
        """Store the result of a job, note its failure, or let it be tried again if its worker was lost."""
        job, result = running.job, None
        try:
            result = future.result()
            if isinstance(result, JobResult):
                write_job(self.folder, job.name, result.rows, result.arrays)
                self.reporter.finished(job, result.rows)
            else:
                self.failures.append(result)
        except WorkerLostError as lost:
            if running.attempt < MAX_ATTEMPTS or not lost.begun:
                self.waiting.append((job, running.attempt + lost.begun, 0.0))
                if lost.begun and not self.closing:
                    self.reporter.message(f"{job.title}: {lost}; starting again", "warning")
            else:
                self.failures.append(Failure(f"{job.title}: {lost}, {MAX_ATTEMPTS} times"))
        except Exception as error:  # the failure of one job does not stop the others
            self.failures.append(describe_failure(job, error))
        finally:
            running.lock.release()
        if isinstance(result, JobResult):
            running.lock.remove()

    def finish(self) -> None:
        """After the executor was closed, store and report what had arrived, and release the other locks."""
        self.closing = True
        with suppress(queue.Empty):
            while True:
                name, content = self.inbox.get_nowait()
                if not (isinstance(content, Future) and content.cancelled()):
                    self._handle(name, content)
        for running in self.running.values():
            running.lock.release()
