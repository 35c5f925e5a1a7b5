"""What a process is told from outside: which of several it is, and that it should end.

Ctrl-C, SIGTERM (a scheduler, `kill`) and SIGHUP (a terminal that closes) ask it to end. It does so at once; while it
trains, after the step under way, so that it can write a checkpoint first. A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def is_first() -> bool:
    """Return whether this is the first of the processes that train each network together; it alone prints."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal, `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Asked:
    """The handler of the signals: what this process was asked, and whether it sees to that itself."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.later = 0  # blocks under way that look at it where they can end

    def __call__(self, number: int, _frame: Any) -> None:
        insists = self.number is not None and number == signal.SIGINT  # a scheduler may send a signal twice
        self.number = self.number or number
        if not self.later or insists:
            raise Stopped(number)


_asked = _Asked()


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Within, raise `Stopped` on Ctrl-C, SIGTERM and SIGHUP; a signal that is ignored, as by nohup, stays ignored.

    Nothing is changed in a thread other than the main one, which alone gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    _asked.number = None
    try:
        for number in heard:
            signal.signal(number, _asked)
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


@contextmanager
def stopping_later() -> Iterator[None]:
    """Within, a signal raises nothing, unless it is a second Ctrl-C: look at `asked`, or call `stop_if_asked`."""
    _asked.later += 1
    try:
        yield
    finally:
        _asked.later -= 1


def asked() -> int | None:
    """Return the number of the signal that has asked this process to end; None if none has."""
    return _asked.number


def stop_if_asked() -> None:
    """Raise `Stopped` if this process has been asked to end."""
    if _asked.number is not None:
        raise Stopped(_asked.number)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Within, start processes that no Ctrl-C and no SIGHUP reaches, though both reach a terminal's whole group."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
