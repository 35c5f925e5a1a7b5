"""The tasks of benchmarks/defaults.py and their wrong labels."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from emphasis.corruption import pair_flip, symmetric
from emphasis.datasets import load, load_reviews

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
HUMAN = "human"
NOISES = ("0 %", "20 % symmetric", "40 % symmetric", "60 % symmetric", "30 % pair")


@dataclass(frozen=True, eq=False)
class Task:
    """A problem whose training labels will be made wrong; inputs are standardized.

    Attributes:
        x: (N, D) or (N, 3, 16, 16) float32.
        y: (N,) true labels in [0, classes).
        x_test, y_test: Likewise, never made wrong.
        classes: C.
        human: (N,) labels that people gave, where there are any.
    """

    x: Floats
    y: Ints
    x_test: Floats
    y_test: Ints
    classes: int
    human: Ints | None = None


def noisy_labels(task: Task, noise: str, seed: int) -> Ints:
    """Return the training labels with `noise`, one of NOISES or HUMAN."""
    if noise == HUMAN:
        assert task.human is not None
        return task.human
    rate, kind = int(noise.split()[0]) / 100, noise.split()[-1]
    corrupt = pair_flip if kind == "pair" else symmetric
    return corrupt(task.y, rate, num_classes=task.classes, seed=seed).labels


def noises_of(name: str) -> tuple[str, ...]:
    """Return the noises of a task, 60 % of two classes left out: those are labels of the opposite meaning."""
    two = name in ("imdb", "mnist-8")
    return tuple(noise for noise in NOISES if not (two and noise.startswith("60")))


def _standardized(x: NDArray[np.floating], test: NDArray[np.floating], pixels: bool = False) -> tuple[Floats, Floats]:
    """Return both parts with the training part's mean 0 and deviation 1 (pixels, components: one deviation for all)."""
    mean, deviation = x.mean(0), (x.std() if pixels else x.std(0)) + 1e-6
    return ((x - mean) / deviation).astype(np.float32), ((test - mean) / deviation).astype(np.float32)


def _digits(root: Path) -> Task:
    split = load("digits", root)
    x, test = (part.reshape(len(part), -1).astype(np.float64) for part in (split.train_inputs, split.test_inputs))
    x, test = _standardized(x, test, pixels=True)
    return Task(x, split.train_labels, test, split.test_labels, 10)


def _mnist(root: Path, *, eights: bool = False) -> Task:
    """Return 64 principal components of 4,000 training and 5,000 test images."""
    split = load("mnist", root)
    chosen = np.random.default_rng(0).permutation(len(split.train_labels))[:4000]
    components = PCA(64, random_state=0)
    x = components.fit_transform(split.train_inputs[chosen].reshape(4000, -1).astype(np.float32))
    x_test = components.transform(split.test_inputs[:5000].reshape(5000, -1).astype(np.float32))
    x, x_test = _standardized(x, x_test, pixels=True)
    y, y_test = split.train_labels[chosen], split.test_labels[:5000]
    if eights:
        y, y_test = (y == 8).astype(np.int64), (y_test == 8).astype(np.int64)
    return Task(x, y, x_test, y_test, 2 if eights else 10)


def _vectors_of_texts(train: list[str], test: list[str], width: int) -> tuple[Floats, Floats]:
    """Return tf-idf of words and pairs of words, reduced by SVD: fitted to the training texts."""
    counts = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2))
    svd = TruncatedSVD(width, random_state=0)
    x = svd.fit_transform(counts.fit_transform(train))
    return _standardized(x, svd.transform(counts.transform(test)))


def _imdb(root: Path) -> Task:
    """Return 4,000 training and 5,000 test reviews as 100 numbers."""
    reviews = load_reviews(root)
    rng = np.random.default_rng(0)
    train = rng.permutation(len(reviews.train_texts))[:4000]
    test = rng.permutation(len(reviews.test_texts))[:5000]
    x, x_test = _vectors_of_texts([reviews.train_texts[i] for i in train], [reviews.test_texts[i] for i in test], 100)
    y, y_test = (np.asarray(labels, np.int64) for labels in (reviews.train_labels[train], reviews.test_labels[test]))
    return Task(x, y, x_test, y_test, 2)


def _clinc150(root: Path) -> Task:
    """Return 6,000 training and 4,500 test texts as 200 numbers."""
    with (root / "clinc150.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {name: number for number, name in enumerate(sorted({row["intent"] for row in rows}))}
    parts = {part: [row for row in rows if row["split"] == part] for part in ("train", "test")}
    chosen = np.random.default_rng(0).permutation(len(parts["train"]))[:6000]
    parts["train"] = [parts["train"][i] for i in chosen]
    x, x_test = _vectors_of_texts(*([row["text"] for row in rows] for rows in parts.values()), 200)
    y, y_test = (np.array([numbers[row["intent"]] for row in rows], np.int64) for rows in parts.values())
    return Task(x, y, x_test, y_test, len(numbers))


def _wine_quality(root: Path) -> Task:
    """Return 3,400 training and 1,498 test wines; qualities 3 and 9 are counted as 4 and 8."""
    with (root / "wine_quality_white.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    x = np.array([[float(value) for name, value in row.items() if name != "class"] for row in rows])
    y = np.clip([int(row["class"]) for row in rows], 4, 8).astype(np.int64) - 4
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:3400], order[3400:]
    x_train, x_test = _standardized(x[train], x[test])
    return Task(x_train, y[train], x_test, y[test], 5)


def _images(name: str, root: Path) -> Task:
    """Return 5,000 training images of 16 x 16 pixels and at most 3,000 test images: averages over 2 x 2 pixels."""
    human = name == "cifar10n"
    split = load("cifar10" if human else name, root, **({"human_labels": True} if human else {}))
    rng = np.random.default_rng(0)
    train = rng.permutation(len(split.train_labels))[:5000]
    test = rng.permutation(len(split.test_labels))[:3000]
    x, x_test = (
        part.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5), dtype=np.float32)
        for part in (split.train_inputs[train], split.test_inputs[test])
    )
    mean, deviation = x.mean((0, 2, 3), keepdims=True), x.std((0, 2, 3), keepdims=True)
    return Task(
        (x - mean) / deviation,
        split.train_labels[train],
        (x_test - mean) / deviation,
        split.test_labels[test],
        split.num_classes,
        split.human_labels["worse_label"][train] if human else None,
    )


VECTORS: dict[str, Callable[[Path], Task]] = {
    "digits": _digits,
    "wine quality": _wine_quality,
    "mnist": _mnist,
    "mnist-8": lambda root: _mnist(root, eights=True),
    "imdb": _imdb,
    "clinc150": _clinc150,
}
IMAGES = ("cifar10", "cifar10n", "vehicles10", "cifar100")


@cache
def task_of(name: str, root: Path) -> Task:
    """Return a task of VECTORS or IMAGES; `root` is the folder of the data."""
    return VECTORS[name](root) if name in VECTORS else _images(name, root)
