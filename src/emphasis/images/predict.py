"""Predictions of a saved network for images in a folder, in files, or in a table of paths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.image_files import SUFFIXES, read_images
from emphasis.datasets.image_list import files_below
from emphasis.datasets.table_report import TableError
from emphasis.datasets.table_source import ReadOptions, open_table
from emphasis.images.saved import SavedImageModel
from emphasis.tabular.predict import Predictions
from emphasis.texts import did_you_mean, encodable, shortened

_LISTED = 20


def predict_images(
    model: SavedImageModel, sources: Sequence[Path], options: ReadOptions | None = None, *, images: str = ""
) -> Predictions:
    """Return a model's predictions for images. Images that cannot be read are skipped and listed in the notes.

    Args:
        model: Trained model.
        sources: Image files, folders, which are searched recursively, and tables.
        options: Options for reading tables.
        images: Column of paths in tables.

    Returns:
        One row per image. If an image is in a folder named after a class, that class is its label.

    Raises:
        DataNotFoundError: There are no images.
        DamagedFileError: No image can be read.
        TableError: A table has no such column.
    """
    names = [name for source in sources for name in _names(source, options, images)]
    if not names:
        raise DataNotFoundError(f"there are no images in {shortened([str(source) for source in sources], _LISTED)}")
    pixels, readable, unreadable = read_images([base / name for base, name in names], model.size, model.channels)
    notes: tuple[str, ...] = ()
    if unreadable:
        listed = shortened(unreadable, _LISTED, "; ")
        notes = (f"{len(unreadable):,} of {len(names):,} images cannot be read and were skipped: {listed}",)
    if not len(readable):
        raise DamagedFileError(f"none of {len(names):,} images can be read: {listed}")
    p = model.predict_proba(pixels)
    predicted = np.array(model.classes)[p.argmax(1)]
    labels = np.array([_label(names[row][0], names[row][1], model.classes) for row in readable], dtype=object)
    import pandas as pd

    columns: dict[str, Any] = {
        "row": readable,
        "file": [encodable(names[row][1]) for row in readable],
        "predicted": predicted,
        **{f"p_{name}": p[:, index] for index, name in enumerate(model.classes)},
    }
    trained = np.array([digest in model.trained for digest in image_digests(pixels)])
    labeled = labels != ""
    return Predictions(pd.DataFrame(columns), notes, labeled, labeled & (labels == predicted), trained)


def image_digests(images: NDArray[np.uint8]) -> list[str]:
    """Return a short digest of the pixels of each image (N, ...), which identifies the image."""
    return [hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest() for image in images]


def _names(source: Path, options: ReadOptions | None, column: str) -> list[tuple[Path, str]]:
    """Return the images of a source, each as a folder and a path relative to it."""
    if source.is_dir():
        return [
            (source, path.relative_to(source).as_posix())
            for path in files_below(source)
            if path.suffix.lower() in SUFFIXES
        ]
    if not source.is_file():
        raise DataNotFoundError(f"there is no file or folder {source}")
    if source.suffix.lower() in SUFFIXES:
        return [(source.parent, source.name)]
    if not column:
        raise TableError([f"name the column of {source.name} that holds the paths of images: --images COLUMN"])
    frame: Any = open_table(source, options, as_text=[column], needed=[column]).frame
    if column not in frame.columns:
        raise TableError([f"{source.name} has no column {column!r}{did_you_mean(column, list(frame.columns))}"])
    return [(source.parent, str(path)) for path in frame[column].dropna()]


def _label(base: Path, name: str, classes: Sequence[str]) -> str:
    """Return the class that the outermost folder of an image within `base` is named after; "" if there is none."""
    first = name.split("/")[0] if "/" in name else base.name
    return first if first in classes else ""
