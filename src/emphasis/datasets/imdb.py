"""IMDB movie reviews: half of them positive, half negative, as texts or as paragraph vectors.

Source: A. Maas et al., Learning Word Vectors for Sentiment Analysis, ACL 2011,
https://ai.stanford.edu/~amaas/data/sentiment/. Read from the official archive, the folder `aclImdb` it unpacks to, or
the compact `imdb.jsonl.bz2`: one JSON object a line with `split`, `label` and `text`.
"""

from __future__ import annotations

import bz2
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.archives import check_digest, read_members
from emphasis.datasets.download import Progress, RemoteFile, silent
from emphasis.datasets.download import download as fetch
from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.paragraph_vectors import ParagraphVectors, cached_paragraph_vectors
from emphasis.datasets.root import not_found
from emphasis.datasets.split import Split
from emphasis.errors import EmphasisValueError
from emphasis.files import cache_dir

ARCHIVE = RemoteFile(
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    "aclImdb_v1.tar.gz",
    ("md5", "7c2ac02c03563afcf9b574c7e56c153a"),
    84_125_825,
)
_FOLDER, _COMPACT = "aclImdb", "imdb.jsonl.bz2"
_FILES = [f"{_FOLDER}/", ARCHIVE.name, _COMPACT]
LARGEST_TEXT = 1 << 28
"""Bytes of all reviews; the official ones are a quarter of it."""

_MEMBER = re.compile(r"(?:.*/)?(train|test)/(pos|neg|unsup)/(\d+)_(\d+)\.txt")
_PLACE = {("train", 1): 0, ("train", 0): 1, ("test", 1): 2, ("test", 0): 3, ("train", -1): 4}
_LABEL = {"pos": 1, "neg": 0, "unsup": -1}


@dataclass(frozen=True, eq=False, repr=False)
class Reviews:
    """Movie reviews as they were written, including HTML line breaks.

    Attributes:
        train_texts: Training reviews, positive before negative ones, in the order of their numbers.
        train_labels: Labels of the training reviews, (N,) int64: 1 for positive and 0 for negative.
        test_texts: Test reviews, in the same order.
        test_labels: Labels of the test reviews, (M,) int64.
        unlabelled_texts: Reviews without labels; the compact file has none.
    """

    train_texts: list[str]
    train_labels: NDArray[np.int64]
    test_texts: list[str]
    test_labels: NDArray[np.int64]
    unlabelled_texts: list[str]

    def __repr__(self) -> str:
        sizes = len(self.train_texts), len(self.test_texts), len(self.unlabelled_texts)
        return "<Reviews: {} training, {} test, {} unlabeled>".format(*sizes)


def load_reviews(root: Path, progress: Progress = silent, download: bool = False) -> Reviews:
    """Return the reviews, in an order that does not depend on the file system.

    Args:
        root: The data folder.
        progress: Called as `progress(task, done, total)` during a download.
        download: Whether to download the official archive (84 MB) if no form of the data is in `root`.

    Raises:
        DataError: The data is absent, damaged or unsafe.
    """
    folder, archive, compact = root / _FOLDER, root / ARCHIVE.name, root / _COMPACT
    if folder.is_dir():
        paths = (path for part in ("train", "test") for path in folder.glob(f"{part}/*/*.txt"))
        return _sorted((path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths)
    if archive.exists():
        check_digest(archive, ARCHIVE.digest)
    elif compact.exists():
        return _read_compact(compact)
    elif download:
        fetch(ARCHIVE, root, progress)
    else:
        raise not_found("IMDB", root, _FILES, download=True)
    return _sorted(read_members(archive, lambda name: _MEMBER.fullmatch(name) is not None))


def load_imdb_vectors(
    root: Path,
    progress: Progress,
    *,
    size: int = 100,
    epochs: int = 20,
    negative: int = 5,
    min_count: int = 2,
    sample: float = 0.0,
    shuffle: bool = True,
    seed: int = 0,
    workers: int = 1,
    download: bool = False,
) -> Split:
    """Return the labeled reviews as paragraph vectors, which are cached in `cache_dir()`.

    The vectors are trained without labels on all reviews, including those without labels; 50,000 reviews take 3 to 8
    minutes of one core.

    Args:
        root: The data folder.
        progress: Called as `progress(task, done, total)` during a download and training.
        size: See `ParagraphVectors`.
        epochs: See `ParagraphVectors`.
        negative: See `ParagraphVectors`.
        min_count: See `ParagraphVectors`.
        sample: See `ParagraphVectors`.
        shuffle: See `ParagraphVectors`.
        seed: See `ParagraphVectors`.
        workers: See `ParagraphVectors`.
        download: Whether to download the official archive (84 MB) if no form of the data is in `root`.

    Raises:
        DataError: The data is absent, damaged or unsafe.
        ValueError: A setting is out of range.
    """
    settings = ParagraphVectors(
        size=size,
        epochs=epochs,
        negative=negative,
        min_count=min_count,
        sample=float(sample),
        shuffle=shuffle,
        seed=seed,
        workers=workers,
    )
    reviews = load_reviews(root, progress, download)
    texts = [*reviews.train_texts, *reviews.test_texts, *reviews.unlabelled_texts]
    vectors = cached_paragraph_vectors(
        texts, settings, cache_dir(), lambda done, total: progress("training paragraph vectors, epochs", done, total)
    )
    train, test, _ = np.split(vectors, np.cumsum([len(reviews.train_texts), len(reviews.test_texts)]))
    return Split(train, reviews.train_labels, test, reviews.test_labels, 2, ("negative", "positive"))


def _read_compact(path: Path) -> Reviews:
    try:
        with bz2.open(path) as file:
            content = file.read(LARGEST_TEXT + 1)
        if len(content) > LARGEST_TEXT:
            raise EmphasisValueError(f"it unpacks to more than {LARGEST_TEXT:,} bytes")
        lines = content.decode("utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        return _reviews([(row["split"], row["label"], row["text"]) for row in rows], str(path))
    except DamagedFileError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(f"{path} is cut off or damaged ({error!r}); get it again") from error


def _sorted(files: Iterable[tuple[str, bytes]]) -> Reviews:
    """Return the reviews from the files of the official tree, which are named PART/KIND/NUMBER_RATING.txt."""
    rows, where = [], _FOLDER
    for name, content in files:
        if match := _MEMBER.fullmatch(name):
            part, kind, number, _ = match.groups()
            try:
                rows.append((_PLACE[part, _LABEL[kind]], int(number), part, _LABEL[kind], content.decode("utf-8")))
            except UnicodeDecodeError as error:
                raise DamagedFileError(f"{name} is damaged: it is not UTF-8 ({error}); get it again") from error
    rows.sort(key=lambda row: row[:2])
    return _reviews([row[2:] for row in rows], where)


def _reviews(rows: list[tuple[str, int, str]], where: str) -> Reviews:
    parts: dict[tuple[str, bool], list[tuple[str, int]]] = {}
    for part, label, text in rows:
        if (part, label) not in _PLACE or not isinstance(text, str):
            raise DamagedFileError(f"{where} is damaged: a review has split {part!r} and label {label!r}")
        parts.setdefault((part, label >= 0), []).append((text, label))
    train, test, unlabelled = (parts.get(key, []) for key in (("train", True), ("test", True), ("train", False)))
    for name, reviews in {"training": train, "test": test}.items():
        if {label for _, label in reviews} != {0, 1}:
            raise DamagedFileError(f"{where} is incomplete: its {name} part lacks positive or negative reviews")
    labels = [np.array([label for _, label in reviews], dtype=np.int64) for reviews in (train, test)]
    return Reviews(
        [text for text, _ in train], labels[0], [text for text, _ in test], labels[1], [text for text, _ in unlabelled]
    )
