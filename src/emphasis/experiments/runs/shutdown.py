"""How the ranks of a distributed run shut down together.

Only rank 0 can tell what has been written, so it decides and the others follow. A rank that is asked to stop must not
stop on its own: the others would wait for it in the middle of a step, and rank 0 could not write a checkpoint. The
ranks communicate through a key-value store of `torch.distributed`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist

from emphasis.compatibility.fabric import Fabric
from emphasis.errors import EmphasisRuntimeError
from emphasis.process import asked, exit_at_once, stopping_later

_SIGNAL, _SHUTDOWN, _LEFT = "asked", "ended", "left"  # keys of the store
_POLL_SECONDS = 0.2
_PATIENCE = 5.0  # seconds that rank 0 waits for the others to leave
_CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")


@contextmanager
def shutting_down_together(ranks: Fabric | None) -> Iterator[None]:
    """Within this context all ranks exit if one is asked to stop or rank 0 fails, with the exception of rank 0.

    Args:
        ranks: The processes that train together; None for this process alone, for which nothing changes.
    """
    if ranks is None:
        yield
        return
    stores: Any = dist
    store = stores.PrefixStore(
        f"emphasis-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}",  # torchrun's store outlives a restart
        stores.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False),
    )
    if not ranks.is_global_zero:
        threading.Thread(target=_follow, args=(store,), daemon=True).start()
        with stopping_later():
            yield
        return
    threading.Thread(target=_listen, args=(store,), daemon=True).start()
    try:
        yield
    except BaseException as error:
        with stopping_later(), suppress(dist.DistError):
            _dismiss(store, ranks.world_size - 1, isinstance(error, KeyboardInterrupt))
        raise


def explain_lost_rank(error: Exception) -> Exception:
    """Return `error`, or an error that says so if its cause is that another rank has exited."""
    is_lost = isinstance(error, dist.DistError) or any(text in str(error) for text in _CONNECTION_LOST)
    if not (is_lost and isinstance(error, RuntimeError)):
        return error
    explained = EmphasisRuntimeError("another of the processes that train the network together has exited")
    explained.__cause__ = error
    return explained


def _listen(store: Any) -> None:
    """In rank 0: receive the signal that another rank was sent, as if it had been sent to this one."""
    while asked() is None:
        time.sleep(_POLL_SECONDS)
        with suppress(dist.DistError):
            if store.check([_SIGNAL]) and asked() is None:
                os.kill(os.getpid(), int(store.get(_SIGNAL)))


def _dismiss(store: Any, others: int, is_requested: bool) -> None:
    """In rank 0: tell the others to leave, and wait for them; only briefly after a failure, as they may be gone."""
    store.set(_SHUTDOWN, str(asked() or 0))
    deadline = time.monotonic() + (_PATIENCE if is_requested else _POLL_SECONDS)
    while store.add(_LEFT, 0) < others and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS / 4)


def _follow(store: Any) -> None:
    """In another rank: pass the signal that it was sent on to rank 0, and leave together with it."""
    passed_on = False
    while True:
        time.sleep(_POLL_SECONDS)
        try:
            if (number := asked()) is not None and not passed_on:
                store.set(_SIGNAL, str(number))
                passed_on = True
            if not store.check([_SHUTDOWN]):
                continue
            number = int(store.get(_SHUTDOWN))
            store.add(_LEFT, 1)
        except dist.DistError:  # the store has closed, and rank 0 with it
            return
        # The exit code of the command is that of rank 0. If it has started the others, a failure of theirs would make
        # its launcher kill it.
        started_by_first = "LOCAL_WORLD_SIZE" not in os.environ
        exit_at_once(0 if started_by_first else 128 + number if number else 1)
