"""`Split`: a classification problem cut into training and test part, and ways to cut it further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.image_files import ImageFiles
from emphasis.errors import EmphasisValueError

Inputs = NDArray[Any] | ImageFiles
"""What a `Split` holds: vectors or images in memory, or images that are decoded when they are asked for."""

_CHUNK = 1024  # images whose int64 copies are in memory at once
_SAMPLED = 1000  # images that are decoded for channel statistics


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A classification problem cut into training and test part.

    Attributes:
        train_inputs: (N, D) float32, or (N, channels, height, width) uint8 images, C-contiguous, or `ImageFiles`.
        train_labels: (N,) int64 in [0, num_classes), the true labels.
        test_inputs: (M, ...) like `train_inputs`.
        test_labels: (M,) int64, the true labels.
        num_classes: C.
        class_names: C names in the order of the labels, or none.
        human_labels: (N,) int64 training labels as people gave them, mistakes included, by name.
        sources: Where the N training examples come from, such as their files; or none.
        rows: (N,) int64, the number of each training example in its file, if others are left out; else None.
        picture: Height and width of vectors that are pictures, pixels in [0, 1], row by row; or none.
        crop: Pixels per side of what is cut out of images, at random to train on and in the middle otherwise; 0: all.
        notes: What the user should know of the data, such as what was left out.

    Raises:
        ValueError: Parts do not fit together: lengths, shapes or dtypes differ, a label is outside [0, C), or an input
            is NaN or infinite.
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

    holdout_refusal: ClassVar[str] = ""
    """Why examples of the training part cannot be held out one by one; "" if they can."""

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
    """Cut a validation part off the training part, every class in the same proportion, for a search of settings.

    The test part is not looked at: the result's test part is the validation part, with its true labels. (Noise goes
    on the rest: corrupt the labels of what is returned.)

    Args:
        split: What to cut.
        share: Of the training part, in (0, 1); 0.2 is the paper's 80/20.
        seed: The same seed gives the same cut.
        fold: Which part is cut off, 0 to 1/share - 1: those of one seed have no example in common, unless rounding in
            small classes leaves no other.

    Returns:
        The new `Split`, and the rows of `split`'s training part that it still trains on, ascending: its
        `train_inputs` are `split.train_inputs[rows]`, its `test_inputs` all the others, ascending too.

    Raises:
        ValueError: `share` is out of range or leaves no example, or a class without one, on the training side;
            there is no such fold; or examples cannot be held out one by one.
    """
    if split.holdout_refusal:
        raise EmphasisValueError(f"validation={share} is not for {split.holdout_refusal}; use 0, and no search")
    if not 0.0 < share < 1.0:
        raise EmphasisValueError(f"share={share} is not allowed; use a number between 0 and 1")
    if not 0 <= fold < folds_of(share):
        raise EmphasisValueError(
            f"fold={fold} is not allowed; a share of {share} has the folds 0 to {folds_of(share) - 1}"
        )
    held = draw_stratified(split.train_labels, round(share * len(split.train_labels)), seed, fold)
    kept = np.setdiff1d(np.arange(len(split.train_labels)), held)
    rest = take_training(split, kept)
    return replace(rest, test_inputs=split.train_inputs[held], test_labels=split.train_labels[held]), kept


def folds_of(share: float) -> int:
    """Return how many parts of a share in (0, 1) a whole has: 5 of 0.2."""
    return int(1.0 / max(share, 1e-9) + 1e-9)


def subset(split: Split, train_size: int, seed: int = 0) -> Split:
    """Return `split` with `train_size` of its training examples, every class in the same proportion.

    Args:
        split: What to cut; its test part stays whole.
        train_size: From the number of classes present to the size of the training part.
        seed: The same seed gives the same examples.

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
    left_out = draw_stratified(split.train_labels, size - train_size, seed)
    return take_training(split, np.setdiff1d(np.arange(size), left_out))


def take_training(split: Split, rows: NDArray[Any]) -> Split:
    """Return `split` with the `rows` (indices or mask) of its training part, human labels cut alike."""
    return replace(split, **split.training_part(rows))


def draw_stratified(labels: NDArray[np.int64], size: int, seed: int, draw: int = 0) -> NDArray[np.int64]:
    """Return `size` rows drawn at random, ascending: of each class its share, but never all of it.

    Draws 0, 1, ... of one seed follow each other through each class, and begin at its start again at its end.

    Class c gives floor(size n_c / N) rows, and the classes with the largest remainders one more each; what a small
    class cannot give, because one example must stay, others give.

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
        np.take(one, np.arange(draw * n, (draw + 1) * n), mode="wrap") for one, n in zip(orders, quota, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _kind(inputs: Inputs) -> str:
    return f"(N, {', '.join(map(str, inputs.shape[1:]))}) {inputs.dtype}"
