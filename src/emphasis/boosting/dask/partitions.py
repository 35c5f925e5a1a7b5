"""What both estimators do with partitions and workers: count the classes, and train again if a worker is lost."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from dask import delayed, is_dask_collection
from distributed import Client
from numpy.typing import NDArray

from emphasis.boosting.labels import FloatArray, class_totals, merged_totals
from emphasis.errors import EmphasisTypeError, EmphasisValueError

_Result = TypeVar("_Result")
_ATTEMPTS = 3
_NOTICED_WITHIN = 5.0  # seconds until the scheduler has noticed that a worker is gone
_BACK_WITHIN = 30.0  # seconds until a nanny has replaced it; without it, the others would hold all rows


def check_client(client: Client) -> None:
    """Raise EmphasisTypeError for an asynchronous client."""
    if client.asynchronous:
        raise EmphasisTypeError("the client is asynchronous, which is not supported; use Client(asynchronous=False)")


def parts_of(collection: Any, name: str) -> list[Any]:
    """Return the partitions of a dask array, series or dataframe as delayed objects.

    Raises:
        EmphasisTypeError: If it is something else.
    """
    if not is_dask_collection(collection) or not hasattr(collection, "to_delayed"):
        raise EmphasisTypeError(f"{name} must be a dask array, series or dataframe, got {type(collection).__name__}")
    return list(np.ravel(collection.to_delayed()))


def count_classes(
    client: Client, y: Any, sample_weight: Any = None
) -> tuple[NDArray[Any], FloatArray, list[NDArray[Any]]]:
    """Return the sorted classes, the total weight of each, and the classes of each partition.

    Raises:
        EmphasisTypeError: If y or the weights are not dask collections.
        EmphasisValueError: If there is one class only, a label is missing, or the partitions do not fit.
    """
    labels = parts_of(y, "y")
    weights = [None] * len(labels) if sample_weight is None else parts_of(sample_weight, "sample_weight")
    if len(weights) != len(labels):
        raise EmphasisValueError(
            f"sample_weight has {len(weights)} partitions, y has {len(labels)}; partition both alike"
        )
    count = delayed(class_totals, pure=False)
    totals = client.gather(client.compute([count(*pair) for pair in zip(labels, weights, strict=True)]))
    return (*merged_totals(totals), [classes for classes, _ in totals])


def train_again_without_lost_workers(client: Client, train: Callable[[], _Result]) -> _Result:
    """Return the result of `train`, which is called again if it has failed because workers were lost.

    Dask computes the lost partitions again on the workers that are left, or have been replaced: the training waits for
    those, as all rows may be more than the others can hold. The libraries train from the first round.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        workers = set(client.nthreads())
        try:
            return train()
        except Exception:
            lost = _lost_workers(client, workers)
            if not lost or attempt == _ATTEMPTS:
                raise
            warnings.warn(
                f"training stopped because {', '.join(sorted(lost))} was lost; it starts again on the other workers",
                stacklevel=3,
            )
        # Here the error is gone, and with it what it held of the data.
        _await_workers(client, len(workers))
    raise AssertionError("unreachable")


def _lost_workers(client: Client, workers: set[str]) -> set[str]:
    """Return which of the workers are gone, once the scheduler has had the time to notice."""
    deadline = time.monotonic() + _NOTICED_WITHIN
    while not (lost := workers - set(client.nthreads())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return lost


def _await_workers(client: Client, number: int) -> None:
    """Wait until there are as many workers again, and spread the data that is held over them."""
    deadline = time.monotonic() + _BACK_WITHIN
    while len(client.nthreads()) < number and time.monotonic() < deadline:
        time.sleep(0.1)
    with suppress(Exception):  # it is of use only, and what it moves may be lost as well
        client.rebalance()
