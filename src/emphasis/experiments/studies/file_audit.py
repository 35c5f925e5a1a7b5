"""Audits by probabilities of any other model, which a file holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from emphasis.datasets import Split
from emphasis.datasets.probability_files import read_probabilities
from emphasis.datasets.table import TableOptions, read_labels
from emphasis.datasets.table_features import natural_texts
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.runs.data import corrupted
from emphasis.experiments.studies.audit_result import Audit
from emphasis.experiments.studies.example_data import pictures_of, where_examples_lie, where_table_lies
from emphasis.experiments.studies.label_audit import audit_predictions


def audit_table_by_file(source: Path, label: str, file: Path, options: TableOptions) -> Audit:
    """Rank the labels of a table by out-of-sample probabilities; its other columns may hold anything.

    Args:
        source: The table.
        label: Its label column.
        file: The probabilities, as `read_probabilities` takes them.
        options: How the table is written, and what becomes of odd labels.

    Returns:
        The ranking; its `notes` say what was odd about the table.

    Raises:
        DataError, ValueError: If a file cannot be read, or they do not fit together.
    """
    labels, table = read_labels(source, label, options)
    used = np.flatnonzero(labels.codes >= 0)
    rows = table.rows[used]
    probabilities = read_probabilities(file, labels.names, rows, table.total)
    audit = audit_predictions(labels.codes[used], probabilities, class_names=labels.names, about=_about(file))
    sources: tuple[str, ...] = ()
    if options.id_column:
        codes, texts = natural_texts(table.frame[options.id_column])
        sources = tuple("" if code < 0 else texts[code] for code in codes[used])
    notes = tuple(finding.text for finding in (*table.findings, *labels.findings))
    title = f"The column {label} of {source.name}"
    data = where_table_lies(source, label, dataclasses.asdict(options.read))
    return dataclasses.replace(audit, title=title, rows=rows, sources=sources, notes=notes, data=data)


def audit_split_by_file(recipe: Recipe, split: Split, file: Path) -> Audit:
    """Rank the training labels of a recipe of one network by out-of-sample probabilities.

    Args:
        recipe: The recipe, from `audit_recipe`.
        split: Its data.
        file: The probabilities of all training examples, as `read_probabilities` takes them.

    Raises:
        DataError, ValueError: If the file cannot be read, or does not fit the data.
    """
    cell = next(recipe.cells())
    noisy = corrupted(split, cell.noise, cell.seed)
    names = split.class_names or tuple(map(str, range(split.num_classes)))
    probabilities = read_probabilities(file, names, noisy.index, len(split.train_labels))
    audit = audit_predictions(noisy.labels, probabilities, class_names=names, about=_about(file))
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


def _about(file: Path) -> str:
    return f"Probabilities of another model, from {file.name}."
