"""How ranks end together. The first decides, for it alone can tell what is written; the others leave with it.

A rank that is asked to end must not do so by itself: the others would wait for it in the middle of a step, and the
first could not write a checkpoint. They tell each other by the store at which they have met.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from lightning_fabric import Fabric

from emphasis.errors import EmphasisRuntimeError
from emphasis.process import asked, stopping_later

_ASKED, _ENDED, _LEFT = "asked", "ended", "left"
_EVERY = 0.2  # seconds between two looks at the store
_PATIENCE = 5.0  # seconds that the first waits for the others to leave
_CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")


@contextmanager
def ending_together(ranks: Fabric | None) -> Iterator[None]:
    """Within, if a rank is asked to end or the first one fails, all end: the first by what it raises.

    Args:
        ranks: The ones that train together; None: this process alone, of which nothing is changed.
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


def lost_rank(error: Exception) -> Exception:
    """Return `error`, or what it means if another rank has ended before its time."""
    lost = isinstance(error, dist.DistError) or any(text in str(error) for text in _CONNECTION_LOST)
    if not (lost and isinstance(error, RuntimeError)):
        return error
    named = EmphasisRuntimeError("another of the processes that train it together has ended")
    named.__cause__ = error
    return named


def _listen(store: Any) -> None:
    """In the first rank: pass on what another was asked, as if it had been asked of this one."""
    while asked() is None:
        time.sleep(_EVERY)
        with suppress(dist.DistError):
            if store.check([_ASKED]) and asked() is None:
                os.kill(os.getpid(), int(store.get(_ASKED)))


def _dismiss(store: Any, others: int, asked_to_end: bool) -> None:
    """In the first rank: tell the others that it ends, and wait until they have left, unless they may be gone."""
    store.set(_ENDED, str(asked() or 0))
    deadline = time.monotonic() + (_PATIENCE if asked_to_end else _EVERY)
    while store.add(_LEFT, 0) < others and time.monotonic() < deadline:
        time.sleep(_EVERY / 4)


def _follow(store: Any) -> None:
    """In another rank: pass on what it was asked, and leave with the first."""
    told = False
    while True:
        time.sleep(_EVERY)
        try:
            if (number := asked()) is not None and not told:
                store.set(_ASKED, str(number))
                told = True
            if not store.check([_ENDED]):
                continue
            number = int(store.get(_ENDED))
            store.add(_LEFT, 1)
        except dist.DistError:  # the store has ended, and the first rank with it
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        # The first rank's code is the command's. Where it has started the others, one that fails would have it killed.
        started_by_first = "LOCAL_WORLD_SIZE" not in os.environ
        os._exit(0 if started_by_first else 128 + number if number else 1)
