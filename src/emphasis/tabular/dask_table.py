"""A table in several Parquet files, whose rows are read and encoded by the workers of a Dask cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask import delayed
from distributed import Client
from numpy.typing import NDArray

from emphasis.boosting.dask import EmphasisDaskXGBClassifier
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.datasets.table_parts import (
    PartColumns,
    PartSummary,
    codes_of,
    fold_sizes,
    folds_of,
    merged_encoder,
    merged_labels,
    read_part,
    summarize_part,
)
from emphasis.datasets.table_report import TableError, argument
from emphasis.tabular.cross_validation import Trainer, weights_of
from emphasis.weighting import Weighting

_AHEAD = 2  # files that are predicted or summarized at a time, per worker


@dataclass(frozen=True, eq=False)
class TablePart:
    """What a worker needs to read one file.

    Attributes:
        file: The file.
        number: Its number.
        before: Number of rows of each class in the files before, (C,).
        columns: Columns of the table.
        classes: Names of the classes.
        folds: Number of folds.
        seed: Seed of the folds.
    """

    file: Path
    number: int
    before: NDArray[np.int64]
    columns: PartColumns
    classes: tuple[str, ...]
    folds: int
    seed: int

    def read(self) -> tuple[Any, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64] | None]:
        """Return the labeled rows as a pandas table, their classes, folds and weights."""
        table = read_part(self.file, self.columns)
        codes = codes_of(table[self.columns.label], self.classes)
        fold = folds_of(codes, self.before, self.folds, self.seed, self.number)
        rows = np.flatnonzero(codes >= 0)
        table = table.iloc[rows]
        weights = weights_of(table, self.columns.weight) if self.columns.weight else None
        return table, codes[rows], fold[rows], weights


@dataclass(frozen=True, eq=False)
class DaskTable:
    """The table of a fit on the workers of a cluster.

    Attributes:
        client: Client of the cluster.
        parts: Its files.
        encoder: Encoder of the whole table, which depends on no label.
        counts: Number of rows of each class in each file, (files, C).
    """

    client: Client
    parts: tuple[TablePart, ...]
    encoder: TableEncoder
    counts: NDArray[np.int64]

    @classmethod
    def summarized(
        cls, client: Client, paths: Sequence[Path], columns: PartColumns, folds: int, seed: int
    ) -> DaskTable:
        """Return the table, after a first pass over its files."""
        summaries: list[PartSummary] = list(in_order(client, summarize_part, [(path, columns) for path in paths]))
        classes, counts = merged_labels(columns.label, summaries)
        if (counts.sum(axis=0) < folds).any():
            rare = int(counts.sum(axis=0).argmin())
            text = (
                f"the class {classes[rare]!r} has {counts[:, rare].sum()} rows, fewer than {argument('folds')}={folds}"
            )
            raise TableError([f"{text}; use fewer folds, or leave its rows out of the files"])
        before = counts.cumsum(axis=0) - counts
        parts = tuple(
            TablePart(path, number, before[number], columns, classes, folds, seed) for number, path in enumerate(paths)
        )
        return cls(client, parts, merged_encoder(columns, summaries), counts)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.parts[0].classes

    def trained(self, train: Trainer, weighting: Weighting, without: int | None) -> EmphasisDaskXGBClassifier:
        """Return a classifier trained on all rows, or on those that are not in the fold `without`."""
        sizes = self.counts.sum(axis=1)
        if without is not None:
            sizes = sizes - fold_sizes(self.counts, self.parts[0].folds)[:, without]
        number = len(self.encoder.feature_names)
        blocks, labels, weights = [], [], []
        for part, size in zip(self.parts, sizes.tolist(), strict=True):
            if size:
                features, codes, weight = delayed(_encoded, nout=3, pure=False)(part, self.encoder, without)
                blocks.append(da.from_delayed(features, (size, number), np.float32))
                labels.append(da.from_delayed(codes, (size,), np.int64))
                weights.append(da.from_delayed(weight, (size,), np.float64))
        # They are read several times during a fit, and encoded once.
        X, y, w = self.client.persist([da.concatenate(arrays) for arrays in (blocks, labels, weights)])
        model: EmphasisDaskXGBClassifier = train(weighting, X, y, w if self.parts[0].columns.weight else None)
        return model


def _encoded(part: TablePart, encoder: TableEncoder, without: int | None) -> tuple[Any, Any, Any]:
    """Return features, classes and weights of the rows of a file that are not in a fold."""
    table, codes, fold, weights = part.read()
    rows = slice(None) if without is None else np.flatnonzero(fold != without)
    weights = np.ones(len(codes)) if weights is None else weights
    return encoder.transform(table.iloc[rows]), codes[rows], weights[rows]


def in_order(client: Client, function: Any, arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the results of calls on the workers, in order; few are made ahead, so that results do not pile up."""
    ahead = _AHEAD * max(1, len(client.nthreads()))
    waiting = deque(arguments)
    running: deque[Any] = deque()
    while waiting or running:
        while waiting and len(running) < ahead:
            running.append(client.submit(function, *waiting.popleft(), pure=False))
        yield running.popleft().result()
