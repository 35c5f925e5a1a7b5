"""Jobs in several processes. A worker that is killed is replaced; workers whose parent is killed end themselves."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from emphasis.experiments.jobs import Job, Say, run_job
from emphasis.training.settings import Execution

_TRIES = 3  # of a job whose worker was killed: by the system when memory ran out, say
_STEPS_BETWEEN_REPORTS = 20


class JobError(Exception):
    """A job failed in its worker; the message says which and why."""


def run_in_processes(
    jobs: Sequence[Job],
    folder: Path,
    *,
    root: Path | None,
    execution: Execution,
    checkpoint_seconds: float,
    workers: int,
    threads: int,
    progress: Callable[[Job, int, int], None],
    say: Say,
) -> None:
    """Run the jobs, `workers` at a time, each in a process of its own; see `runner.run` for the arguments.

    Raises:
        JobError: A job raised, or its worker was killed three times; the others are run to their ends first.
    """
    # Not fork: a parent with threads of torch's own cannot be forked safely. One pipe a worker, since a queue's
    # lock would stay taken for ever by a worker killed while it holds it.
    context = multiprocessing.get_context("spawn")
    waiting = deque((job, 1) for job in jobs)
    running: dict[Any, tuple[Job, int, Connection, Any]] = {}
    failed: list[str] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job, attempt = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work, args=(theirs, job, folder, root, execution, checkpoint_seconds, threads), daemon=True
                )
                process.start()
                theirs.close()
                running[process.sentinel] = (job, attempt, ours, process)
            ready = set(wait([*running, *(one[2] for one in running.values())]))
            for sentinel, (job, attempt, pipe, process) in list(running.items()):
                if pipe not in ready and sentinel not in ready:
                    continue
                error = _messages(pipe, job, progress, say)
                if error:
                    failed.append(error)
                if sentinel in ready:
                    process.join()
                    pipe.close()
                    del running[sentinel]
                    if process.exitcode and process.exitcode < 0:
                        if attempt < _TRIES:
                            say(f"{job.title}: its process was killed (signal {-process.exitcode}); starting again")
                            waiting.append((job, attempt + 1))
                        else:
                            failed.append(f"{job.title}: its process was killed {_TRIES} times")
    finally:
        for _, _, _, process in running.values():
            process.terminate()
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise JobError(f"{failed[0]}{more}; the same command goes on with the rest")


def _messages(pipe: Connection, job: Job, progress: Callable[[Job, int, int], None], say: Say) -> str:
    """Pass on what a worker has said; return its error, or ""."""
    error = ""
    try:
        while pipe.poll():
            kind, *content = pipe.recv()
            if kind == "progress":
                progress(job, *content)
            elif kind == "say":
                say(content[0])
            else:
                error = f"{job.title}: {content[0]}"
    except (EOFError, OSError):  # it has gone, perhaps in the middle of a message
        pass
    return error


def _work(
    pipe: Connection,
    job: Job,
    folder: Path,
    root: Path | None,
    execution: Execution,
    checkpoint_seconds: float,
    threads: int,
) -> None:
    """Run one job; the target of a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    steps = 0

    def report(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if done == total or steps % _STEPS_BETWEEN_REPORTS == 1:
            pipe.send(("progress", done, total))

    try:
        run_job(
            job, folder, root=root, execution=execution, checkpoint_seconds=checkpoint_seconds, progress=report,
            say=lambda message: pipe.send(("say", message)),
        )  # fmt: skip
    except Exception as error:  # whatever it is, the parent must hear of it
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        pipe.send(("error", f"{type(error).__name__}: {error} ({where})"))
    finally:
        pipe.close()


def _end_with_parent() -> None:
    """Wait until the parent process has ended, however it did, and end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
