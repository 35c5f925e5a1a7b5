"""Decisions of a review, applied to the training labels of a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emphasis.corruption import Corruption
from emphasis.datasets import Split
from emphasis.datasets.archives import file_digest
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.settings import Dataset
from emphasis.review.decisions import DECISIONS, Decisions


def decisions_file(path: str | Path) -> Path:
    """Return the file of decisions that a path names: itself, or decisions.jsonl in the folder of an audit."""
    return Path(path) / DECISIONS if Path(path).is_dir() else Path(path)


def labels_settings(path: str | Path) -> dict[str, str]:
    """Return the settings of a recipe that trains on reviewed labels, with the digest of the decisions.

    Raises:
        EmphasisFileNotFoundError, JSONFileError: If there are no decisions, or they are damaged.
    """
    file = decisions_file(path)
    Decisions.read(file)
    return {"dataset.labels": str(file.resolve()), "dataset.labels_digest": file_digest(file, "sha256")[:16]}


def with_reviewed_labels(split: Split, dataset: Dataset) -> Split:
    """Return a data set without noise whose training labels have the decisions applied."""
    return replace(split, train_labels=_apply(split, dataset, split.train_labels, np.arange(len(split.train_labels))))


def with_reviewed_noise(noisy: Corruption, split: Split, dataset: Dataset) -> Corruption:
    """Return noisy labels with the decisions applied that were made about them."""
    labels = _apply(split, dataset, noisy.labels, noisy.index)
    return replace(noisy, labels=labels, changed=labels != noisy.true_labels)


def _apply(split: Split, dataset: Dataset, labels: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.int64]:
    file = Path(dataset.labels)
    decisions = Decisions.read(file)
    if dataset.labels_digest and file_digest(file, "sha256")[:16] != dataset.labels_digest:
        raise EmphasisValueError(f"{file} has changed since the run began; start again with --labels and --force")
    names = split.class_names or tuple(map(str, range(split.num_classes)))
    if split.sources and dataset.name != "table":
        keys: list[object] = [split.sources[row] for row in index]
    else:
        keys = list(index.tolist() if split.rows is None else split.rows[index].tolist())
    reviewed, _ = decisions.apply(keys, [names[label] for label in labels])
    code_of = {name: code for code, name in enumerate(names)}
    if unknown := sorted(set(reviewed) - code_of.keys()):
        raise EmphasisValueError(f"{file} names the class {unknown[0]!r}, which the data does not have")
    return np.array([code_of[label] for label in reviewed], dtype=np.int64)
