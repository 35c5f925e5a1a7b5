"""Signals that stop this process, its rank among processes that train together, and the cores that are free.

Ctrl-C, SIGTERM (from a scheduler, or `kill`) and SIGHUP (from a terminal that closes) stop the process at once, or,
during training, after the current step, so that it can write a checkpoint. A second Ctrl-C stops it at once.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SAMPLES, _SECONDS_BETWEEN_SAMPLES = 11, 0.02  # of the number of running threads


def is_first() -> bool:
    """Return whether this process has rank 0 among those that train together; only that one prints."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def usable_cores() -> int:
    """Return the number of cores that this process may run on: schedulers and containers may allow it some only."""
    cores = os.cpu_count() or 1
    return min(cores, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else cores


def threads_of_each(processes: int = 1) -> int:
    """Return the number of threads of each of several processes: their share of the cores, at most OMP_NUM_THREADS."""
    share, most = usable_cores() // processes, os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(share, int(most)) if most.isdecimal() else share)


def idle_cores() -> int:
    """Return the number of cores that other programs do not use at present, at least 1.

    Threads that compute one thing together wait for the slowest of them. Where other programs use the cores as well,
    they wait most of the time, and one thread is faster than two. At most `threads_of_each`, and that where the
    system does not tell.
    """
    import statistics  # which takes longer than the rest of this module

    cores, most = os.cpu_count() or 1, threads_of_each()
    running = []
    for _ in range(_SAMPLES):
        try:
            counts = Path("/proc/loadavg").read_text().split()[3]
        except (OSError, IndexError):
            return most
        running.append(int(counts.partition("/")[0]) - 1)  # without this process
        time.sleep(_SECONDS_BETWEEN_SAMPLES)
    return max(1, min(most, cores - round(statistics.median(running))))


def end_if_rank(code: int) -> None:
    """End the process with an exit code at once if it trained together with others; otherwise return.

    A process group that DistributedDataParallel has used keeps its threads until the process ends, and a thread that
    needs the interpreter while that is torn down aborts the process, although all is written. So functions registered
    with atexit run and the streams are flushed, but the interpreter is not torn down.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    for number in _SIGNALS:  # one rank that has ended makes its launcher terminate the others, which are ending as well
        signal.signal(number, signal.SIG_IGN)
    atexit._run_exitfuncs()
    exit_at_once(code)


def exit_at_once(code: int) -> NoReturn:
    """End the process with an exit code, without tearing the interpreter down, after flushing its streams."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(code)


class Stopped(KeyboardInterrupt):
    """A signal, `number`, has asked the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _SignalHandler:
    """Handler of the signals: it records the first signal, and raises `Stopped` unless that is deferred."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.deferrals = 0  # number of active `stopping_later` blocks

    def __call__(self, number: int, _frame: Any) -> None:
        is_second_interrupt = self.number is not None and number == signal.SIGINT  # a scheduler may repeat SIGTERM
        self.number = self.number or number
        if not self.deferrals or is_second_interrupt:
            raise Stopped(number)


_handler = _SignalHandler()


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise `Stopped` on Ctrl-C, SIGTERM and SIGHUP within the block; ignored signals, as under nohup, stay ignored.

    In a thread other than the main thread, which alone receives signals, the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    _handler.number = None
    try:
        for number in heard:
            signal.signal(number, _handler)
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
        _handler.number = None  # what comes later in this process has not been asked to stop


@contextmanager
def stopping_later() -> Iterator[None]:
    """Defer signals within the block, which checks `asked` or calls `stop_if_asked`; a second Ctrl-C still raises."""
    _handler.deferrals += 1
    try:
        yield
    finally:
        _handler.deferrals -= 1


def asked() -> int | None:
    """Return the number of the signal that has asked this process to stop; None if there was none."""
    return _handler.number


def stop_if_asked() -> None:
    """Raise `Stopped` if a signal has asked this process to stop."""
    if _handler.number is not None:
        raise Stopped(_handler.number)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Block SIGINT and SIGHUP in processes started within the block; a terminal sends both to its whole group."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
