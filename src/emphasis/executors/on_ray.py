"""Work on a Ray cluster, which needs no folder that its machines share."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray

from emphasis.errors import EmphasisRuntimeError
from emphasis.executors.base import Work, WorkerLostError

_MOST_AT_ONCE = 1024  # each is followed by a thread of the driver
_UNREAD = 2  # messages of a task that the driver has not read yet; the task waits before it sends more
_AHEAD = 2  # work that is submitted per piece that the cluster has cores for, so that no core waits for the driver


@dataclass(frozen=True)
class _Shared:
    """A value in the object store; called in a worker, it returns the value."""

    reference: Any

    def __call__(self) -> Any:
        return ray.get(self.reference)


_last_shared: list[tuple[Any, _Shared]] = []  # at most one, so that a study sends its data once


class RayExecutor:
    """Runs work as Ray tasks, in a cluster that is joined or started.

    Args:
        address: Address of the cluster; None for the one of this machine, which is started if there is none.
        cpus: Number of CPU cores of each piece of work.
        gpus: Number of GPUs of each piece of work.
        jobs: Most pieces of work at a time; None for as many as the cluster has cores for.

    Raises:
        EmphasisRuntimeError: If the cluster cannot be joined.
    """

    shares_disk = False

    def __init__(self, address: str | None, cpus: int, gpus: int, jobs: int | None) -> None:
        if not ray.is_initialized():
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                text = str(error).partition("\n")[0]
                raise EmphasisRuntimeError(f"the Ray cluster {address or ''} cannot be joined: {text}") from error
        self._cpus, self._gpus, self._jobs = cpus, gpus, jobs
        options = {"num_returns": "streaming", "num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self._task = ray.remote(**options, _generator_backpressure_num_objects=_UNREAD)(_stream)
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE)
        self._running: set[Any] = set()
        self._closing = False

    def capacity(self) -> int:
        """Return a multiple of what the cluster, as large as it is now, runs at a time."""
        resources = ray.cluster_resources()
        at_once = int(resources.get("CPU", 0) // self._cpus)
        if self._gpus:
            at_once = min(at_once, int(resources.get("GPU", 0) // self._gpus))
        return self._jobs or min(max(1, _AHEAD * at_once), _MOST_AT_ONCE)

    def submit(self, name: str, work: Work, receive: Callable[[Any], None]) -> Future[Any]:
        """Submit work, see `Executor`."""
        return self._threads.submit(self._follow, name, work, receive)

    def batch(self) -> AbstractContextManager[None]:
        """Do nothing: each piece of work is submitted at once."""
        return nullcontext()

    def share(self, value: Any) -> Callable[[], Any]:
        """Put a value into the object store, from which each machine fetches it once."""
        if not _last_shared or _last_shared[0][0] is not value:
            _last_shared[:] = [(value, _Shared(ray.put(value)))]
        return _last_shared[0][1]

    def _follow(self, name: str, work: Work, receive: Callable[[Any], None]) -> Any:
        """Receive what a task sends, and return its result."""
        if self._closing:
            raise WorkerLostError("the executor is closing")
        task = self._task.options(name=f"emphasis {name}").remote(work)
        self._running.add(task)
        try:
            for reference in task:
                kind, content = ray.get(reference)
                if kind == "sent":
                    receive(content)
                elif kind == "raised":
                    raise content
                else:
                    return content
        except ray.exceptions.RayError as error:  # of the worker, its machine or the object store
            raise WorkerLostError(f"its Ray worker was lost ({type(error).__name__})") from error
        finally:
            self._running.discard(task)
        raise WorkerLostError("its Ray worker ended early")

    def close(self) -> None:
        """Cancel what is running; it goes on later from the checkpoints that have been received."""
        self._closing = True
        for task in list(self._running):
            ray.cancel(task, force=True)
        self._threads.shutdown(cancel_futures=True)


def _stream(work: Work) -> Iterator[tuple[str, Any]]:
    """Do the work in a thread, and yield what it sends and what it returns; the Ray task."""
    events: queue.Queue[tuple[str, Any]] = queue.Queue(1)  # work that sends faster than the network takes it waits

    def run() -> None:
        try:
            events.put(("returned", work(lambda content: events.put(("sent", content)))))
        except BaseException as error:  # whatever it is, the driver has to know
            events.put(("raised", error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        kind, content = events.get()
        yield kind, content
        if kind != "sent":
            return
