"""The part of an audit that a review needs: examples, predictions, features, and the location of the data.

An audit's folder holds

    examples.json        title, classes, location of the data, and the digest of the arrays
    examples.npz         arrays of n examples, without pickles
    pictures.npy         images of examples that are not in separate files
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.archives import file_digest, read_npz
from emphasis.datasets.errors import DamagedFileError
from emphasis.errors import EmphasisFileNotFoundError, EmphasisValueError
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.json_files import read_json

EXAMPLES, ARRAYS, PICTURES = "examples.json", "examples.npz", "pictures.npy"
_FORMAT = 1
_MAX_CLASSES_KEPT = 20  # probabilities of each example
_MAX_FEATURES = 64  # features with more columns are projected to their principal components
_MAX_PICTURE_BYTES = 1 << 30


class ReviewError(EmphasisValueError):
    """A folder cannot be reviewed, or decisions do not fit it; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Examples:
    """n audited examples of C classes.

    Attributes:
        title: Description of the data.
        class_names: Names of the C classes.
        labels: (n,) int64, given labels.
        suggested: (n,) int64, classes suggested by the audit.
        suspect: (n,) bool, whether the label is a suspect.
        score: (n,) score of each label; the lower, the more suspicious.
        sample_weight: (n,) sample weights in (0, 1).
        rows: (n,) int64, row of each example in the data.
        sources: Name of each example, such as its file relative to the folder of the data; empty if there are none.
        data: Location of the examples: {"kind": "images", "folder": ...}; {"kind": "pictures"} for `pictures`;
            {"kind": "table", "file": ..., "label": ..., "read": {...}}; or {"kind": "none"}.
        top_classes: (n, K) int32, K most probable classes of each example, or None.
        top_probabilities: (n, K) probabilities of these classes, or None.
        features: (n, D) features with which neighbors are found, or None.
        pictures: (n, channels, height, width) uint8 images, or None.
    """

    title: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    suggested: NDArray[np.int64]
    suspect: NDArray[np.bool_]
    score: NDArray[np.float64]
    sample_weight: NDArray[np.float64]
    rows: NDArray[np.int64]
    sources: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=lambda: {"kind": "none"})
    top_classes: NDArray[np.int32] | None = None
    top_probabilities: NDArray[Any] | None = None
    features: NDArray[Any] | None = None
    pictures: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The examples from the most to the least suspicious, suspects first."""
        return np.lexsort((self.score, ~self.suspect))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of the examples in decisions: file names of images, and row numbers otherwise."""
        if self.data.get("kind") == "images" and self.sources:
            return self.sources
        return tuple(map(str, self.rows.tolist()))

    @cached_property
    def index_of(self) -> dict[str, int]:
        """The index of each example by its key."""
        return {key: index for index, key in enumerate(self.keys)}

    def probability_of(self, classes: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return the probability of one class of each example, (n,); 0 for classes not kept, NaN if none are."""
        if self.top_classes is None or self.top_probabilities is None:
            return np.full(len(self), np.nan)
        is_class = self.top_classes == np.asarray(classes)[:, None]
        return np.asarray(np.where(is_class, self.top_probabilities, 0.0).sum(axis=1), dtype=np.float64)


def likeliest_classes(probabilities: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Return the most probable classes of each example, in descending order, and their probabilities, from (n, C)."""
    count = min(probabilities.shape[1], _MAX_CLASSES_KEPT)
    top = np.argpartition(-probabilities, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(probabilities, top, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1)
    return np.take_along_axis(top, order, axis=1).astype(np.int32), values.astype(np.float16)


def narrow_features(features: NDArray[Any]) -> NDArray[np.float16]:
    """Return features of unit length for cosine similarity, with at most 64 principal components."""
    values = np.asarray(features, dtype=np.float32)
    if values.shape[1] > _MAX_FEATURES and len(values) > _MAX_FEATURES:
        from sklearn.decomposition import PCA

        values = PCA(_MAX_FEATURES, svd_solver="randomized", random_state=0).fit_transform(values)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(length, 1e-12), dtype=np.float16)


def write_examples(examples: Examples, folder: Path) -> None:
    """Write the examples to the folder of an audit; examples.json is written last.

    Raises:
        EmphasisOSError: The folder cannot be written to.
    """
    with naming_refusals("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(examples, name) for name in _ARRAYS if getattr(examples, name) is not None}
    with replacing(folder / ARRAYS) as partial:
        np.savez_compressed(partial, **arrays)
    data = dict(examples.data)
    if examples.pictures is not None and examples.pictures.nbytes <= _MAX_PICTURE_BYTES:
        with replacing(folder / PICTURES) as partial:
            np.save(partial, np.ascontiguousarray(examples.pictures, dtype=np.uint8))
    elif data.get("kind") == "pictures":
        data = {"kind": "none"}
    manifest = {
        "format": _FORMAT,
        "title": examples.title,
        "class_names": examples.class_names,
        "data": data,
        "arrays": {"file": ARRAYS, "sha256": file_digest(folder / ARRAYS, "sha256")},
        "sources": examples.sources,
    }
    write_text(folder / EXAMPLES, json.dumps(manifest, indent=1) + "\n")


def read_examples(folder: Path) -> Examples:
    """Return the examples of an audit.

    Raises:
        EmphasisFileNotFoundError: The folder holds no audit that can be reviewed.
        DamagedFileError, JSONFileError: A file is damaged.
    """
    try:
        manifest = read_json(folder / EXAMPLES)
    except FileNotFoundError:
        raise EmphasisFileNotFoundError(
            f"{folder} holds no audit that can be reviewed ({EXAMPLES} is missing); run emphasis audit again, which "
            "does not repeat completed training"
        ) from None
    path = folder / EXAMPLES
    if not isinstance(manifest.get("format"), int) or manifest["format"] > _FORMAT:
        raise ReviewError(f"{path} was written by a later version of emphasis; update emphasis")
    try:
        if file_digest(folder / ARRAYS, "sha256") != manifest["arrays"]["sha256"]:
            raise DamagedFileError(f"{folder / ARRAYS} does not match {EXAMPLES}; run the audit again")
        examples = Examples(
            title=_text(manifest["title"]),
            class_names=tuple(map(_text, manifest["class_names"])),
            sources=tuple(map(_text, manifest["sources"])),
            data=dict(manifest["data"]),
            pictures=_read_pictures(folder / PICTURES) if manifest["data"]["kind"] == "pictures" else None,
            **read_npz(folder / ARRAYS),
        )
        _check(examples)
    except (LookupError, TypeError, ValueError, OSError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"{path} is damaged ({error}); run the audit again") from error
    return examples


_ARRAYS = {  # kinds of numpy types
    "labels": "i",
    "suggested": "i",
    "suspect": "b",
    "score": "f",
    "sample_weight": "f",
    "rows": "i",
    "top_classes": "i",
    "top_probabilities": "f",
    "features": "f",
}
_WIDE = ("top_classes", "top_probabilities", "features")


def _check(examples: Examples) -> None:
    """Raise ValueError unless all arrays describe the same n examples of the classes."""
    n, classes = len(examples.labels), len(examples.class_names)
    for name, kind in _ARRAYS.items():
        values = getattr(examples, name)
        if values is None:
            continue
        if values.dtype.kind != kind or values.shape[:1] != (n,) or values.ndim != 1 + (name in _WIDE):
            raise EmphasisValueError(f"{name} is of shape {values.shape} and type {values.dtype}")
    for name in ("labels", "suggested", "top_classes"):
        values = getattr(examples, name)
        if values is not None and values.size and not 0 <= values.min() <= values.max() < classes:
            raise EmphasisValueError(f"{name} holds a class beyond the {classes} classes")
    if (examples.top_classes is None) != (examples.top_probabilities is None):
        raise EmphasisValueError("classes and probabilities do not go together")
    if examples.sources and len(examples.sources) != n:
        raise EmphasisValueError(f"there are {len(examples.sources)} sources of {n} examples")
    if examples.pictures is not None and (len(examples.pictures) != n or examples.pictures.shape[1] not in (1, 3)):
        raise EmphasisValueError(f"the pictures are of shape {examples.pictures.shape}")


def _read_pictures(path: Path) -> NDArray[np.uint8]:
    pictures = np.load(path, mmap_mode="r", allow_pickle=False)
    if pictures.dtype != np.uint8 or pictures.ndim != 4:
        raise EmphasisValueError(f"{PICTURES} is of shape {pictures.shape} and type {pictures.dtype}")
    return np.asarray(pictures) if pictures.nbytes < 1 << 20 else pictures


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise EmphasisValueError(f"{value!r} is not a text")
    return value
