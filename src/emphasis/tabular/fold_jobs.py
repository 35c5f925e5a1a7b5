"""Folds of a cross-validation as jobs of a cluster. This process, the driver, alone writes their predictions."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisError, EmphasisRuntimeError
from emphasis.executors import Executor, ExecutorOptions, Send, WorkerLostError, make_executor
from emphasis.executors.base import MAX_ATTEMPTS, SIGNAL_SECONDS
from emphasis.process import stop_if_asked
from emphasis.tabular.cross_validation import Data, Progress, Trainer, split_data
from emphasis.tabular.folder import read_fold, write_fold
from emphasis.tabular.result import FOLDS
from emphasis.weighting import Weighting


@dataclass(frozen=True)
class FoldWork:
    """The training of one fold, in a worker; called there, it returns each method's probabilities of the held-out rows.

    An error that the user can mend is returned instead.

    Attributes:
        data: The table, or a function that returns it, if the executor has it.
        methods: Weightings by name.
        train: Trains a classifier.
        training_rows: Training rows of the fold.
        test_rows: Its held-out rows.
    """

    data: Data | Callable[[], Data]
    methods: Mapping[str, Weighting]
    train: Trainer
    training_rows: NDArray[Any]
    test_rows: NDArray[Any]

    def __call__(self, send: Send) -> dict[str, NDArray[np.float64]] | EmphasisError:  # noqa: ARG002
        """Train each method and predict."""
        try:
            data = self.data if isinstance(self.data, Data) else self.data()
            predict = data.predict_fold(self.methods, self.train, self.training_rows, self.test_rows)
            return {name: predict(name) for name in self.methods}
        except EmphasisError as error:
            return error


def train_folds(
    data: Data,
    methods: Mapping[str, Weighting],
    train: Trainer,
    folder: Path,
    digest: str,
    folds: int,
    options: ExecutorOptions,
    progress: Progress,
) -> None:
    """Write the folds that the folder does not hold yet, each trained as a job; the arguments are `cross_validate`'s.

    Args:
        data: The table.
        methods: Weightings by name.
        train: Trains a classifier.
        folder: Folder of the fit.
        digest: Digest of the fit.
        folds: Number of folds.
        options: Where the folds are trained.
        progress: Called as `progress(task, done, total)`.

    Raises:
        EmphasisError: A fold failed; the others that run are stopped.
    """
    parts = split_data(data, folds, train.seed)
    names, classes = list(methods), len(data.table.classes)
    waiting = {
        number: (1, rows)
        for number, rows in enumerate(parts)
        if read_fold(folder, number, digest, names, (len(rows[1]), classes)) is None
    }
    if not waiting:
        return
    executor = make_executor(options, folder / FOLDS)
    try:
        source = executor.share(data) or data
        finished: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
        works = {number: FoldWork(source, methods, train, *rows) for number, (_, rows) in waiting.items()}
        _submit(executor, finished, digest, works)
        while waiting:
            stop_if_asked()
            progress(f"folds on {options.name}", folds - len(waiting), folds)
            with suppress(queue.Empty):
                number, future = finished.get(timeout=SIGNAL_SECONDS)
                attempt, rows = waiting.pop(number)
                try:
                    result = future.result()
                except WorkerLostError as lost:
                    if attempt == MAX_ATTEMPTS and lost.begun:
                        raise EmphasisRuntimeError(f"fold {number + 1}: {lost}, {MAX_ATTEMPTS} times") from lost
                    waiting[number] = attempt + lost.begun, rows
                    _submit(executor, finished, digest, {number: FoldWork(source, methods, train, *rows)})
                    continue
                if isinstance(result, EmphasisError):
                    raise result
                write_fold(folder, number, digest, result)
    finally:
        executor.close()


def _submit(
    executor: Executor,
    finished: queue.SimpleQueue[tuple[int, Future[Any]]],
    digest: str,
    works: Mapping[int, FoldWork],
) -> None:
    with executor.batch():
        for number, work in works.items():
            future = executor.submit(f"fold-{number}-{digest[:16]}", work, lambda _: None)
            future.add_done_callback(lambda done, number=number: finished.put((number, done)))  # type: ignore[misc]
