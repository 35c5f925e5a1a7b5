"""Jobs in several processes. A worker that is killed is replaced; workers whose parent is killed end themselves."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from emphasis.errors import EmphasisError
from emphasis.experiments.runs.jobs import RETRY_SECONDS, Job, Say, run_job, threads_of
from emphasis.files import is_full
from emphasis.process import Stopped, deaf_children, stopping_later, stopping_on_signals
from emphasis.training.settings import Execution

_TRIES = 3  # of a job whose worker was killed: by the system when memory ran out, say
_STEPS_BETWEEN_REPORTS = 20
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # which is a RuntimeError of torch's


class JobError(EmphasisError):
    """A job failed for a reason that is known; the message says which and why."""


class UnforeseenJobError(Exception):
    """A job failed in a way that was not foreseen; the message says which, the notes hold the tracebacks."""


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    Attributes:
        message: In one line.
        traceback: Of an error that was not foreseen; "" of one that was.
        is_everyones: Whether every other job would fail alike.
    """

    message: str
    traceback: str = ""
    is_everyones: bool = False


def run_in_processes(
    jobs: Sequence[Job],
    folder: Path,
    *,
    root: Path | None,
    execution: Execution,
    checkpoint_seconds: float,
    workers: int,
    threads: int | None,
    share: int,
    progress: Callable[[Job, int, int], None],
    say: Say,
) -> None:
    """Run the jobs, `workers` at a time, each in a process of its own; see `runner.run` for the arguments.

    A job that a process outside this pool is at goes back to the end of the line for a second.

    Raises:
        JobError, UnforeseenJobError: A job raised, or its worker was killed three times; the others are run to their
            ends first, unless the disk is full.
    """
    # Not fork: a parent with threads of torch's own cannot be forked safely. One pipe a worker, since a queue's
    # lock would stay taken for ever by a worker killed while it holds it.
    context = multiprocessing.get_context("spawn")
    waiting = deque((job, 1, 0.0) for job in jobs)  # the job, which try it is, and when it is due
    working: list[_Worker] = []
    failed: list[Failure] = []
    passed: set[str] = set()

    def put_off(job: Job, attempt: int) -> None:
        waiting.append((job, attempt, time.monotonic() + RETRY_SECONDS))
        say_passed(job, passed, say)

    def start() -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, folder, root, execution, checkpoint_seconds, threads, share), daemon=True
        )
        with deaf_children():  # the parent ends them itself
            process.start()
        theirs.close()
        return _Worker(process, ours)

    try:
        while (waiting or any(worker.job for worker in working)) and not any(one.is_everyones for one in failed):
            idle = [worker for worker in working if worker.job is None]
            while waiting and waiting[0][2] <= time.monotonic() and (idle or len(working) < workers):
                if not idle:
                    working.append(start())
                    idle.append(working[-1])
                worker = idle.pop()
                worker.job, worker.attempt, _ = waiting.popleft()
                with contextlib.suppress(OSError):  # it has died meanwhile, as its sentinel says below
                    worker.pipe.send(worker.job)
            timeout = (
                max(0.0, waiting[0][2] - time.monotonic()) if waiting and (idle or len(working) < workers) else None
            )
            ready = set(wait([part for worker in working for part in (worker.process.sentinel, worker.pipe)], timeout))
            for worker in list(working):
                if worker.pipe in ready:
                    failed += _messages(worker, progress, say, put_off)
                if worker.process.sentinel in ready:
                    failed += _messages(worker, progress, say, put_off)
                    working.remove(worker)
                    worker.pipe.close()
                    worker.process.join()
                    if worker.job is None:
                        continue
                    code = worker.process.exitcode or 0
                    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
                    if worker.attempt < _TRIES:
                        say(f"{worker.job.title}: its process {how}; starting again")
                        waiting.append((worker.job, worker.attempt + 1, 0.0))
                    else:
                        failed.append(Failure(f"{worker.job.title}: its process {how}, {_TRIES} times"))
    finally:
        _end(working, progress, say, put_off)
    raise_failures(failed)


def describe_failure(job: Job, error: Exception) -> Failure:
    """Return what went wrong with a job, with the traceback unless it was foreseen."""
    if isinstance(error, EmphasisError):
        return Failure(f"{job.title}: {error}", is_everyones=is_full(error))
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _NO_MEMORY in str(error):
        first = str(error).partition(". ")[0]
        return Failure(f"{job.title}: not enough memory{f' ({first})' if first else ''}; use a smaller "
                       "solver.batch_size, or fewer --workers")  # fmt: skip
    return Failure(f"{job.title}: {type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def raise_failures(failed: Sequence[Failure]) -> None:
    """Raise JobError if any job failed, UnforeseenJobError if any did in a way that was not foreseen."""
    if not failed:
        return
    faults = [one for one in failed if one.traceback]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    message = f"{(faults or failed)[0].message}{more}; the same command goes on with the rest"
    if not faults:
        raise JobError(message)
    fault = UnforeseenJobError(message)
    for one in faults:
        fault.add_note(f"\n{one.message}\n{one.traceback}")
    raise fault


def say_passed(job: Job, passed: set[str], say: Say) -> None:
    """Say, once for each job, that it is left to another process for now."""
    if job.name not in passed:
        passed.add(job.name)
        say(f"{job.title}: another process is at it; seen to later")


@dataclass(eq=False)
class _Worker:
    """A process, the pipe to it, and what it is at."""

    process: Any
    pipe: Connection
    job: Job | None = None
    attempt: int = 0


def _end(
    working: Sequence[_Worker],
    progress: Callable[[Job, int, int], None],
    say: Say,
    put_off: Callable[[Job, int], None],
) -> None:
    """Ask the workers to end, and wait for the checkpoints that they then write; at a second Ctrl-C end them."""
    try:
        with stopping_later():
            for worker in working:
                worker.process.terminate()
            while any(worker.process.is_alive() for worker in working):
                for worker in working:
                    _messages(worker, progress, say, put_off)
                wait([worker.process.sentinel for worker in working if worker.process.is_alive()], 0.1)
    except BaseException:
        for worker in working:
            worker.process.kill()
        raise


def _messages(
    worker: _Worker,
    progress: Callable[[Job, int, int], None],
    say: Say,
    put_off: Callable[[Job, int], None],
) -> list[Failure]:
    """Pass on what a worker has said; return its errors."""
    errors = []
    with contextlib.suppress(EOFError, OSError):  # it has gone, perhaps in the middle of a message
        while worker.pipe.poll():
            kind, *content = worker.pipe.recv()
            job = worker.job
            assert job is not None
            if kind == "progress":
                progress(job, *content)
            elif kind == "say":
                say(content[0])
            else:
                worker.job = None
                if kind == "error":
                    errors.append(content[0])
                elif kind == "busy":
                    put_off(job, worker.attempt)
    return errors


def _work(
    pipe: Connection,
    folder: Path,
    root: Path | None,
    execution: Execution,
    checkpoint_seconds: float,
    threads: int | None,
    share: int,
) -> None:
    """Run the jobs that come through the pipe; the target of a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers itself
    steps = 0

    def report(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if done == total or steps % _STEPS_BETWEEN_REPORTS == 1:
            pipe.send(("progress", done, total))

    with stopping_on_signals():
        try:
            while True:
                job = pipe.recv()
                torch.set_num_threads(threads or threads_of(job, share))
                try:
                    finished = run_job(
                        job, folder, root=root, execution=execution, checkpoint_seconds=checkpoint_seconds,
                        progress=report, say=lambda message: pipe.send(("say", message)),
                    )  # fmt: skip
                except Exception as error:  # whatever it is, the parent must hear of it
                    pipe.send(("error", describe_failure(job, error)))
                else:
                    pipe.send(("done" if finished else "busy",))
        except Stopped as stop:
            sys.exit(128 + stop.number)


def _end_with_parent() -> None:
    """Wait until the parent process has ended, however it did, and end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
