"""Where the examples of an audit can be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets import ImageFiles, Split
from emphasis.experiments.recipes.settings import Dataset

_READING = ("sep", "encoding", "decimal", "missing")


def pictures_of(split: Split, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    """Return training examples as images (n, channels, height, width), or None if they are no images."""
    if split.train_inputs.dtype == np.uint8:
        return np.asarray(split.train_inputs[rows])
    if split.picture is not None:
        gray = (255.0 * (1.0 - np.asarray(split.train_inputs[rows]))).clip(0, 255).astype(np.uint8)
        return np.asarray(gray.reshape(-1, 1, *split.picture))
    return None


def where_examples_lie(dataset: Dataset, split: Split, has_pictures: bool) -> dict[str, Any]:
    """Return where a review finds the training examples of a data set, as `Examples.data` describes it."""
    options = dataset.options
    if dataset.name == "table":
        read = {name: options[name] for name in _READING if options.get(name)}
        return where_table_lies(Path(options["file"]), options["label"], read)
    if isinstance(split.train_inputs, ImageFiles):
        folder = split.train_inputs.base
    else:
        folder = Path(options["file"]).parent if dataset.name == "image-table" else Path(options.get("folder", ""))
    if split.sources and folder.is_absolute():
        return {"kind": "images", "folder": str(folder)}
    return {"kind": "pictures" if has_pictures else "none"}


def where_table_lies(file: Path, label: str, read: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a review finds the rows of a table."""
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in read.items() if value}
    return {"kind": "table", "file": str(file.resolve()), "label": label, "read": given}
