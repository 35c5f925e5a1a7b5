"""Work in processes of this machine. A process that is killed is replaced; all exit if their parent is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from emphasis.executors.base import Work, WorkerLostError
from emphasis.process import Stopped, deaf_children, stopping_later, stopping_on_signals


@dataclass(eq=False)
class _Worker:
    """A worker process and the pipe to it."""

    process: Any
    pipe: Connection


class LocalExecutor:
    """Runs work in at most `workers` processes, each of which is followed by a thread of this process."""

    shares_disk = True

    def __init__(self, workers: int) -> None:
        self._number = workers
        # Not fork, since torch's threads do not survive it.
        self._multiprocessing = multiprocessing.get_context("spawn")
        self._threads = ThreadPoolExecutor(workers)
        self._lock = threading.Lock()  # of the two lists, and of starting and reaping processes
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._closing = False

    def capacity(self) -> int:
        """Return the number of processes."""
        return self._number

    def submit(self, name: str, work: Work, receive: Callable[[Any], None]) -> Future[Any]:  # noqa: ARG002
        """Submit work, see `Executor`."""
        return self._threads.submit(self._run, work, receive)

    def batch(self) -> AbstractContextManager[None]:
        """Do nothing: processes start at once."""
        return nullcontext()

    def share(self, value: Any) -> None:
        """Return None: each process loads its own data, once."""

    def _run(self, work: Work, receive: Callable[[Any], None]) -> Any:
        worker = self._idle_worker()
        with suppress(EOFError, OSError):  # it has died, perhaps in the middle of a message
            worker.pipe.send(work)
            while True:
                kind, content = worker.pipe.recv()
                if kind == "sent":
                    receive(content)
                    continue
                with self._lock:
                    self._idle.append(worker)
                if kind == "raised":
                    raise content
                return content
        raise WorkerLostError(f"its process {self._bury(worker)}")

    def _idle_worker(self) -> _Worker:
        with self._lock:
            if self._closing:
                raise WorkerLostError("the executor is closing")
            while self._idle:
                worker = self._idle.pop()
                if worker.process.is_alive():
                    return worker
                self._workers.remove(worker)
            # One pipe per worker: the lock of a shared queue would stay locked if a worker is killed while it holds it.
            ours, theirs = self._multiprocessing.Pipe()
            process = self._multiprocessing.Process(target=_serve, args=(theirs,), daemon=True)
            with deaf_children():  # the parent stops them itself
                process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))
            return self._workers[-1]

    def _bury(self, worker: _Worker) -> str:
        """Remove a worker that has died, and return how it did."""
        with self._lock:
            worker.pipe.close()
            worker.process.join()
            self._workers.remove(worker)
            code = worker.process.exitcode or 0
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """Ask the processes to stop, and wait for the checkpoints that they then write; a second Ctrl-C kills them."""
        with self._lock:
            self._closing, workers = True, list(self._workers)
        try:
            with stopping_later():
                for worker in workers:
                    worker.process.terminate()
                while alive := [worker.process.sentinel for worker in workers if worker.process.is_alive()]:
                    wait(alive, 0.1)
                self._threads.shutdown(cancel_futures=True)  # each thread ends with its process
        except BaseException:
            for worker in workers:
                worker.process.kill()
            raise


def _serve(pipe: Connection) -> None:
    """Do the work that arrives through the pipe; the target of a worker process."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers itself
    with stopping_on_signals():
        try:
            while True:
                work = pipe.recv()
                try:
                    result = work(lambda content: pipe.send(("sent", content)))
                except Exception as error:  # whatever it is, the parent has to know
                    pipe.send(("raised", error))
                else:
                    pipe.send(("returned", result))
        except EOFError:  # the parent has closed the pipe
            return
        except Stopped as stop:
            sys.exit(128 + stop.number)


def _exit_with_parent() -> None:
    """Wait until the parent process has ended, for whatever reason, and exit."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
