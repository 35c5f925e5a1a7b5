"""Audits by probabilities or features of any other model, which a file holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets import Split
from emphasis.datasets.probability_files import read_features, read_probabilities
from emphasis.datasets.table import TableOptions, read_labels
from emphasis.datasets.table_features import natural_texts
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.runs.data import corrupted
from emphasis.experiments.studies.audit_result import Audit
from emphasis.experiments.studies.example_data import pictures_of, where_examples_lie, where_table_lies
from emphasis.experiments.studies.label_audit import audit_features, audit_predictions
from emphasis.weighting import Weighting

_FOLDS, _FEWEST = 5, 2


Rank = Callable[[NDArray[np.int64], tuple[str, ...], NDArray[np.int64], int], Audit]
"""Ranks labels (n,), given the names of the classes, the rows (n,) of the examples, and the number of all rows."""


def by_probabilities(file: Path) -> Rank:
    """Return the ranking by out-of-sample probabilities in a file, as `read_probabilities` takes them."""

    def rank(labels: NDArray[np.int64], names: tuple[str, ...], rows: NDArray[np.int64], total: int) -> Audit:
        about = f"Probabilities of another model, from {file.name}."
        return audit_predictions(labels, read_probabilities(file, names, rows, total), class_names=names, about=about)

    return rank


def by_features(file: Path, weighting: Weighting | None = None) -> Rank:
    """Return the ranking by features in a file, as `read_features` takes them, from which the classes are predicted."""

    def rank(labels: NDArray[np.int64], names: tuple[str, ...], rows: NDArray[np.int64], total: int) -> Audit:
        counts = np.bincount(labels, minlength=len(names))
        rarest = int(np.where(counts > 0, counts, len(labels) + 1).argmin())
        if counts[rarest] < _FEWEST:
            raise EmphasisValueError(
                f"class {names[rarest]!r} has one example, but classes are predicted by cross-validation; leave out "
                'rare classes (--rare-classes drop, rare_classes="drop")'
            )
        folds = min(_FOLDS, int(counts[rarest]))
        features = read_features(file, rows, total)
        audit = audit_features(features, labels, class_names=names, weighting=weighting, folds=folds)
        return dataclasses.replace(audit, about=f"Features from {file.name}. {audit.about}")

    return rank


def audit_table_by_file(source: Path, label: str, rank: Rank, options: TableOptions) -> Audit:
    """Rank the labels of a table by what a file holds; the other columns of the table may hold anything.

    Args:
        source: The table.
        label: Its label column.
        rank: The ranking, such as `by_probabilities(file)`.
        options: How the table is written, and what becomes of odd labels.

    Returns:
        The ranking; its `notes` say what was odd about the table.

    Raises:
        DataError, ValueError: If a file cannot be read, or they do not fit together.
    """
    labels, table = read_labels(source, label, options)
    used = np.flatnonzero(labels.codes >= 0)
    rows = table.rows[used]
    audit = rank(labels.codes[used], labels.names, rows, table.total)
    sources: tuple[str, ...] = ()
    if options.id_column:
        codes, texts = natural_texts(table.frame[options.id_column])
        sources = tuple("" if code < 0 else texts[code] for code in codes[used])
    notes = tuple(finding.text for finding in (*table.findings, *labels.findings))
    title = f"The column {label} of {source.name}"
    data = where_table_lies(source, label, dataclasses.asdict(options.read))
    return dataclasses.replace(audit, title=title, rows=rows, sources=sources, notes=notes, data=data)


def audit_split_by_file(recipe: Recipe, split: Split, rank: Rank) -> Audit:
    """Rank the training labels of a recipe of one network by what a file holds about all training examples.

    Args:
        recipe: The recipe, from `audit_recipe`.
        split: Its data.
        rank: The ranking, such as `by_probabilities(file)`.

    Raises:
        DataError, ValueError: If the file cannot be read, or does not fit the data.
    """
    cell = next(recipe.cells())
    noisy = corrupted(split, cell.noise, cell.seed)
    names = split.class_names or tuple(map(str, range(split.num_classes)))
    audit = rank(noisy.labels, names, noisy.index, len(split.train_labels))
    sources = tuple(split.sources[i] for i in noisy.index) if split.sources else ()
    wrong = noisy.labels != split.train_labels[noisy.index]
    pictures = pictures_of(split, noisy.index)
    return dataclasses.replace(
        audit,
        title=recipe.title,
        rows=noisy.index if split.rows is None else split.rows[noisy.index],
        sources=sources,
        wrong=wrong if wrong.any() else None,
        notes=split.notes,
        pictures=pictures,
        data=where_examples_lie(cell.dataset, split, pictures is not None),
    )
