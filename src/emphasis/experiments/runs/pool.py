"""Jobs in several worker processes. A worker that is killed is replaced; workers exit if their parent is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from emphasis.experiments.runs.context import Level, Reporter, RunContext
from emphasis.experiments.runs.failures import Failure, describe_failure, raise_failures
from emphasis.experiments.runs.jobs import Job, threads_of
from emphasis.experiments.runs.train_job import RETRY_SECONDS, run_job
from emphasis.process import Stopped, deaf_children, stopping_later, stopping_on_signals

_MAX_ATTEMPTS = 3  # at a job whose worker was killed, for instance because memory ran out
_STEPS_BETWEEN_REPORTS = 20


@dataclass(eq=False)
class _Worker:
    """A worker process, the pipe to it, and the job that it is running."""

    process: Any
    pipe: Connection
    job: Job | None = None
    attempt: int = 0


def run_in_processes(
    jobs: Sequence[Job], folder: Path, context: RunContext, reporter: Reporter, cores_each: int
) -> None:
    """Run the jobs in `context.workers` processes.

    Args:
        jobs: The jobs.
        folder: Folder of the run.
        context: How they are trained.
        reporter: Receives progress and messages.
        cores_each: Number of cores of each process.

    Raises:
        JobError, UnforeseenJobError: If a job failed, or its worker was killed three times. The other jobs are
            finished first, unless the disk is full.
    """
    pool = _Pool(jobs, folder, context, reporter, cores_each)
    try:
        pool.run()
    finally:
        pool.shut_down()
    raise_failures(pool.failures)


class _Pool:
    """The state of the worker processes; the arguments are those of `run_in_processes`."""

    def __init__(
        self, jobs: Sequence[Job], folder: Path, context: RunContext, reporter: Reporter, cores_each: int
    ) -> None:
        self.folder, self.context, self.reporter, self.cores_each = folder, context, reporter, cores_each
        # Not fork, since torch's threads do not survive it.
        self.multiprocessing = multiprocessing.get_context("spawn")
        self.queue = deque((job, 1, 0.0) for job in jobs)  # job, number of the attempt, and time when it is due
        self.workers: list[_Worker] = []
        self.failures: list[Failure] = []
        self.postponed: set[str] = set()

    def run(self) -> None:
        """Run until the queue is empty and all workers are idle, or a failure concerns every job."""
        while self.queue or any(worker.job for worker in self.workers):
            if any(failure.concerns_all for failure in self.failures):
                return
            self._assign()
            self._wait()
            for worker in list(self.workers):
                self._receive(worker)
                if not worker.process.is_alive():
                    self._receive(worker)  # what it sent before it died
                    self._bury(worker)

    def _can_assign(self) -> bool:
        return len(self.workers) < self.context.workers or any(worker.job is None for worker in self.workers)

    def _assign(self) -> None:
        """Give the jobs that are due to idle workers, and start workers where there are fewer than allowed."""
        while self.queue and self.queue[0][2] <= time.monotonic() and self._can_assign():
            worker = next((worker for worker in self.workers if worker.job is None), None) or self._start()
            worker.job, worker.attempt, _ = self.queue.popleft()
            with suppress(OSError):  # it has died in the meantime; its sentinel tells
                worker.pipe.send(worker.job)

    def _start(self) -> _Worker:
        # One pipe per worker: the lock of a shared queue would stay locked if a worker is killed while it holds it.
        ours, theirs = self.multiprocessing.Pipe()
        process = self.multiprocessing.Process(
            target=_work, args=(theirs, self.folder, self.context, self.cores_each), daemon=True
        )
        with deaf_children():  # the parent stops them itself
            process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))
        return self.workers[-1]

    def _wait(self) -> None:
        """Wait until a worker has sent something or died, or a job that can be assigned is due."""
        timeout = max(0.0, self.queue[0][2] - time.monotonic()) if self.queue and self._can_assign() else None
        wait([source for worker in self.workers for source in (worker.process.sentinel, worker.pipe)], timeout)

    def _receive(self, worker: _Worker) -> None:
        """Handle the messages that a worker has sent."""
        with suppress(EOFError, OSError):  # it has died, perhaps in the middle of a message
            while worker.pipe.poll():
                kind, *content = worker.pipe.recv()
                job = worker.job
                if job is None:
                    continue
                if kind == "progress":
                    self.reporter.progress(job, *content)
                elif kind == "message":
                    self.reporter.message(*content)
                else:
                    worker.job = None
                    if kind == "error":
                        self.failures.append(content[0])
                    elif kind == "busy":
                        self.queue.append((job, worker.attempt, time.monotonic() + RETRY_SECONDS))
                        report_postponed(job, self.postponed, self.reporter)

    def _bury(self, worker: _Worker) -> None:
        """Remove a worker that has died; its job is tried again, up to a limit."""
        self.workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        if worker.job is None:
            return
        code = worker.process.exitcode or 0
        cause = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        if worker.attempt < _MAX_ATTEMPTS:
            self.reporter.message(f"{worker.job.title}: its process {cause}; starting again", "warning")
            self.queue.append((worker.job, worker.attempt + 1, 0.0))
        else:
            self.failures.append(Failure(f"{worker.job.title}: its process {cause}, {_MAX_ATTEMPTS} times"))

    def shut_down(self) -> None:
        """Ask the workers to stop, and wait for the checkpoints that they then write; a second Ctrl-C kills them."""
        try:
            with stopping_later():
                for worker in self.workers:
                    worker.process.terminate()
                while any(worker.process.is_alive() for worker in self.workers):
                    for worker in self.workers:
                        self._receive(worker)
                    wait([worker.process.sentinel for worker in self.workers if worker.process.is_alive()], 0.1)
        except BaseException:
            for worker in self.workers:
                worker.process.kill()
            raise


def report_postponed(job: Job, postponed: set[str], reporter: Reporter) -> None:
    """Report, once per job, that a job is skipped for now because it is running in another process."""
    if job.name not in postponed:
        postponed.add(job.name)
        reporter.message(f"{job.title}: running in another process; skipped for now")


class _PipeReporter(Reporter):
    """Sends what a job reports to the parent process."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self.send, self.steps = send, 0

    def progress(self, job: Job, done: int, total: int) -> None:  # noqa: ARG002  (the parent knows the job)
        self.steps += 1
        if done == total or self.steps % _STEPS_BETWEEN_REPORTS == 1:
            self.send(("progress", done, total))

    def message(self, text: str, level: Level = "info") -> None:
        self.send(("message", text, level))


def _work(pipe: Connection, folder: Path, context: RunContext, cores: int) -> None:
    """Run the jobs that arrive through the pipe; the target of a worker process."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers itself
    reporter = _PipeReporter(pipe.send)
    with stopping_on_signals():
        try:
            while True:
                job = pipe.recv()
                torch.set_num_threads(context.threads or threads_of(job, cores))
                try:
                    finished = run_job(job, folder, context, reporter)
                except Exception as error:  # whatever it is, the parent has to know
                    pipe.send(("error", describe_failure(job, error)))
                else:
                    pipe.send(("done" if finished else "busy",))
        except Stopped as stop:
            sys.exit(128 + stop.number)


def _exit_with_parent() -> None:
    """Wait until the parent process has ended, for whatever reason, and exit."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
