"""`Split`: a classification problem cut into training and test part, and ways to cut it further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.copies import representatives
from emphasis.datasets.image_files import ImageFiles
from emphasis.errors import EmphasisValueError

Inputs = NDArray[Any] | ImageFiles
"""Inputs of a `Split`: vectors or images in memory, or images that are decoded on access."""

_CHUNK = 1024  # images that are converted to int64 at a time
_SAMPLED = 1000  # images that are decoded for channel statistics


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """The training and the test part of a classification problem.

    Attributes:
        train_inputs: Training inputs: (N, D) float32, C-contiguous (N, channels, height, width) uint8, or `ImageFiles`.
        train_labels: True labels of the training part, (N,) int64 in [0, num_classes).
        test_inputs: Test inputs, (M, ...), of the same kind.
        test_labels: True labels of the test part, (M,) int64.
        num_classes: Number of classes C.
        class_names: Names of the C classes, or ().
        human_labels: Training labels that people have given, including wrong ones, by name, each (N,) int64.
        sources: Origins of the N training examples, such as their files, or ().
        rows: Number of each training example in its file, (N,) int64, if not all are used; None otherwise.
        groups: Number of the group of each training example, (N,) int64, if some examples are equal; examples of a
            group are held out together. None if each example is a group of its own.
        picture: Height and width if vectors are pictures, row by row with pixels in [0, 1]; None otherwise.
        crop: Pixels per side of the crops of images, random in training and centered in evaluation; 0 for no crops.
        notes: Notes about the data for the user, such as skipped examples.

    Raises:
        ValueError: Lengths, shapes or dtypes do not match, a label is outside [0, C), or an input is NaN or infinite.
    """

    train_inputs: Inputs
    train_labels: NDArray[np.int64]
    test_inputs: Inputs
    test_labels: NDArray[np.int64]
    num_classes: int
    class_names: tuple[str, ...] = ()
    human_labels: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    picture: tuple[int, int] | None = None
    crop: int = 0
    notes: tuple[str, ...] = ()
    rows: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None

    holdout_refusal: ClassVar[str] = ""
    """Reason why single training examples cannot be held out; "" if they can."""

    def __post_init__(self) -> None:
        train, test = self.train_inputs, self.test_inputs
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise EmphasisValueError(f"training inputs are {_kind(train)}, but test inputs {_kind(test)}")
        if (train.ndim, train.dtype.name) not in ((2, "float32"), (4, "uint8")):
            raise EmphasisValueError(
                f"inputs are {_kind(train)}; use (N, D) float32, or uint8 images (N, channels, H, W)"
            )
        if train.ndim == 2 and not all(np.isfinite(np.asarray(part)).all() for part in (train, test)):
            raise EmphasisValueError("inputs hold NaN or infinite values; fill or remove them")
        if not 0 <= self.crop <= (min(train.shape[2:]) if train.ndim == 4 else 0):
            raise EmphasisValueError(
                f"crop={self.crop} is not allowed for inputs {_kind(train)}; use 0, or at most their side"
            )
        labels = {"train_labels": (self.train_labels, train), "test_labels": (self.test_labels, test)}
        labels |= {f"human_labels[{name!r}]": (given, train) for name, given in self.human_labels.items()}
        for name, (given, inputs) in labels.items():
            if given.shape != inputs.shape[:1] or given.dtype != np.int64:
                raise EmphasisValueError(
                    f"{name} are {given.shape} {given.dtype}; {len(inputs)} inputs need int64 of one axis"
                )
            if name != "test_labels":
                self._check_range(name, given)
        self._check_test_labels()
        if self.class_names and len(self.class_names) != self.num_classes:
            raise EmphasisValueError(f"{len(self.class_names)} class_names were given for {self.num_classes} classes")

    def _check_range(self, name: str, labels: NDArray[np.int64]) -> None:
        if not 0 <= labels.min(initial=0) <= labels.max(initial=0) < self.num_classes:
            raise EmphasisValueError(
                f"{name} reach from {labels.min()} to {labels.max()}, but num_classes={self.num_classes}"
            )

    def _check_test_labels(self) -> None:
        self._check_range("test_labels", self.test_labels)

    def training_part(self, rows: NDArray[Any]) -> dict[str, Any]:
        """Return the fields that change where only the `rows` (indices or mask) of the training part are kept."""
        return {
            "train_inputs": self.train_inputs[rows],
            "train_labels": self.train_labels[rows],
            "human_labels": {name: labels[rows] for name, labels in self.human_labels.items()},
            "sources": tuple(np.array(self.sources)[rows].tolist()) if self.sources else (),
            "rows": None if self.rows is None else self.rows[rows],
            "groups": None if self.groups is None else self.groups[rows],
        }

    def __repr__(self) -> str:
        human = f", human labels {', '.join(self.human_labels)}" if self.human_labels else ""
        sizes = f"{len(self.train_labels)} + {len(self.test_labels)} examples of {self.num_classes} classes"
        return f"<Split: {sizes}, inputs {self.train_inputs.shape[1:]} {self.train_inputs.dtype}{human}>"

    def channel_statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of each channel of the training images, as pixels in [0, 1].

        They are exact, from counts of the 256 values; of `ImageFiles`, for 1,000 images at most, evenly spaced. A
        channel of one value everywhere has deviation 1, so that dividing by it is safe.

        Returns:
            Two arrays (channels,) float64.

        Raises:
            ValueError: The inputs are vectors, or there are none.
            DamagedFileError: An image cannot be decoded.
        """
        inputs = self.train_inputs
        if inputs.dtype != np.uint8 or not len(inputs):
            raise EmphasisValueError(
                f"inputs {inputs.shape} {inputs.dtype} have no channels; statistics need uint8 images"
            )
        images = inputs.sample(_SAMPLED) if isinstance(inputs, ImageFiles) else inputs
        counts = np.zeros((images.shape[1], 256), dtype=np.int64)
        for start in range(0, len(images), _CHUNK):
            for channel, count in enumerate(counts):
                count += np.bincount(images[start : start + _CHUNK, channel].ravel(), minlength=256)
        shares = counts / counts.sum(axis=1, keepdims=True)
        values = np.arange(256) / 255.0
        mean = shares @ values
        std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
        std[(counts > 0).sum(axis=1) == 1] = 1.0
        return mean, std


def holdout(split: Split, share: float = 0.2, seed: int = 0, fold: int = 0) -> tuple[Split, NDArray[np.int64]]:
    """Return a `Split` with a stratified part of the training examples as its test part, for a search of settings.

    The test part of `split` is not used; that of the result has true labels. Add label noise to the result afterwards.

    Args:
        split: The data set.
        share: Share of the training part that is held out, in (0, 1); 0.2 in the paper.
        seed: Seed of the selection.
        fold: Part that is held out, 0 to 1/share - 1. Folds with the same seed are disjoint, except for rounding in
            small classes.

    Returns:
        The new `Split`, and the rows of the training part of `split` that it trains on, ascending: its `train_inputs`
        are `split.train_inputs[rows]`, and its `test_inputs` all others, ascending.

    Raises:
        ValueError: `share` or `fold` is out of range, a class would have no training example, or single examples cannot
            be held out.
    """
    if split.holdout_refusal:
        raise EmphasisValueError(f"validation={share} is not for {split.holdout_refusal}; use 0, and no search")
    if not 0.0 < share < 1.0:
        raise EmphasisValueError(f"share={share} is not allowed; use a number between 0 and 1")
    if not 0 <= fold < folds_of(share):
        raise EmphasisValueError(
            f"fold={fold} is not allowed; a share of {share} has the folds 0 to {folds_of(share) - 1}"
        )
    if split.groups is None:
        held = draw_stratified(split.train_labels, round(share * len(split.train_labels)), seed, fold)
    else:
        held = draw_groups(split.groups, split.train_labels, share, seed, fold)
    kept = np.setdiff1d(np.arange(len(split.train_labels)), held)
    rest = take_training(split, kept)
    return replace(rest, test_inputs=split.train_inputs[held], test_labels=split.train_labels[held]), kept


def folds_of(share: float) -> int:
    """Return the number of disjoint parts with a given share: 5 for 0.2."""
    return int(1.0 / max(share, 1e-9) + 1e-9)


def subset(split: Split, train_size: int, seed: int = 0) -> Split:
    """Return `split` with a stratified selection of `train_size` training examples.

    Args:
        split: The data set, the test part of which does not change.
        train_size: Number of training examples, from the number of classes to all.
        seed: Seed of the selection.

    Raises:
        ValueError: `train_size` is out of range.
    """
    size, classes = len(split.train_labels), len(np.unique(split.train_labels))
    if not classes <= train_size <= size:
        raise EmphasisValueError(
            f"train_size={train_size} is not allowed; use {classes} (one of each class) to {size} (all)"
        )
    if train_size == size:
        return split
    removed = draw_stratified(split.train_labels, size - train_size, seed)
    return take_training(split, np.setdiff1d(np.arange(size), removed))


def take_training(split: Split, rows: NDArray[Any]) -> Split:
    """Return `split` with the `rows` (indices or mask) of its training part, including human labels."""
    return replace(split, **split.training_part(rows))


def draw_stratified(labels: NDArray[np.int64], size: int, seed: int, draw: int = 0) -> NDArray[np.int64]:
    """Return `size` random rows, ascending, stratified by class; at least one row of each class is not drawn.

    Draws 0, 1, ... with the same seed take consecutive rows of a random order of each class, and start again at its
    end. The number of rows of class c is floor(size n_c / N), plus 1 for the classes with the largest remainders.

    Raises:
        ValueError: `size` is below 1, or leaves less than one example of each class.
    """
    present, members = np.unique(labels, return_inverse=True)
    most = len(labels) - len(present)
    if not 1 <= size <= most:
        raise EmphasisValueError(
            f"{size} of {len(labels)} examples of {len(present)} classes cannot be drawn; "
            + (f"1 to {most} leave one of each class" if most >= 1 else "each class needs two examples or more")
        )
    counts = np.bincount(members)
    expected = size * counts / len(labels)
    quota = np.minimum(np.floor(expected).astype(np.int64), counts - 1)
    while (missing := size - quota.sum()) > 0:
        room = np.flatnonzero(quota < counts - 1)
        first = room[np.argsort(quota[room] - expected[room], kind="stable")]
        quota[first[:missing]] += 1
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(members == c)) for c in range(len(present))]
    drawn = [
        np.take(order, np.arange(draw * n, (draw + 1) * n), mode="wrap") for order, n in zip(orders, quota, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def draw_groups(
    groups: NDArray[np.int64], labels: NDArray[np.int64], share: float, seed: int, draw: int = 0
) -> NDArray[np.int64]:
    """Return the rows, ascending, of a random `share` of the groups, stratified by the rarest class of each group.

    Raises:
        ValueError: As `draw_stratified`.
    """
    rows, group = representatives(groups, labels)
    drawn = draw_stratified(labels[rows], max(round(share * len(rows)), 1), seed, draw)
    return np.flatnonzero(np.isin(group, drawn))


def _kind(inputs: Inputs) -> str:
    return f"(N, {', '.join(map(str, inputs.shape[1:]))}) {inputs.dtype}"
