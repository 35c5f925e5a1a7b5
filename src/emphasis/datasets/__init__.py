"""Real data sets as arrays: `load(name, root)` returns any of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from emphasis.datasets.digits import load_digits
from emphasis.datasets.download import Progress, silent
from emphasis.datasets.errors import DamagedFileError, DataError, DataNotFoundError, DownloadError, UnsafeFileError
from emphasis.datasets.image_files import ImageFiles
from emphasis.datasets.imdb import Reviews, load_reviews
from emphasis.datasets.root import data_root
from emphasis.datasets.split import Split, holdout, subset
from emphasis.datasets.video import Gallery, VideoSplit
from emphasis.errors import EmphasisValueError
from emphasis.files import cache_dir
from emphasis.registry import Registry
from emphasis.validation import is_number, is_whole

__all__ = [
    "NAMES",
    "OWN_VALIDATION",
    "DamagedFileError",
    "DataError",
    "DataNotFoundError",
    "DownloadError",
    "Gallery",
    "ImageFiles",
    "Progress",
    "Reviews",
    "Split",
    "UnsafeFileError",
    "VideoSplit",
    "cache_dir",
    "data_root",
    "holdout",
    "load",
    "load_digits",
    "load_reviews",
    "options",
    "subset",
]


DATASETS: Registry[Callable[..., Split]] = Registry(
    "data set",
    {
        "digits": "emphasis.datasets.digits:load_digits_split",
        "cifar10": "emphasis.datasets.cifar:load_cifar10",
        "cifar100": "emphasis.datasets.cifar:load_cifar100",
        "vehicles10": "emphasis.datasets.cifar:load_vehicles10",
        "mnist": "emphasis.datasets.mnist:load_mnist",
        "imdb-vectors": "emphasis.datasets.imdb:load_imdb_vectors",
        "image-folder": "emphasis.datasets.folder:load_image_folder",
        "image-table": "emphasis.datasets.folder:load_image_table",
        "clothing1m": "emphasis.datasets.clothing1m:load_clothing1m",
        "mars": "emphasis.datasets.mars:load_mars_split",
        "table": "emphasis.datasets.table:load_table",
    },
)
"""Loaders (root, progress, *, options) -> `Split`, by name."""

NAMES = DATASETS.names
"""Every name that `load` knows."""

OWN_VALIDATION: dict[str, dict[str, str]] = {"clothing1m": {"test": "val"}}
"""Data sets whose authors give a validation part with verified labels, and the options that make it the test part."""


def options(name: str) -> dict[str, Any]:
    """Return the options that `load` takes for a data set and their defaults; `...` for those that must be given.

    Raises:
        ValueError: The name is unknown.
    """
    return DATASETS.options(name)


def load(
    name: str, root: str | os.PathLike[str] | None = None, *, progress: Progress = silent, **settings: Any
) -> Split:
    """Return a data set as arrays.

    Args:
        name: Name of the data set, from `NAMES`.
        root: The folder that holds data sets; by default $EMPHASIS_DATA, else a folder in the user's cache.
        progress: Called as `progress(task, done, total)` during downloads and long computations.
        **settings: Options of the data set; see `options(name)` and its loader. Nothing is downloaded without
            `download=True`.

    Raises:
        ValueError: A name or option is unknown, or a value is not allowed.
        DataError: The data is absent, damaged or unsafe to read.
    """
    DATASETS.check_options(name, settings)
    defaults = options(name)
    for key, value in settings.items():
        _check_type(name, key, value, defaults[key])
    return DATASETS[name](data_root(root), progress, **settings)


def _check_type(name: str, key: str, value: Any, default: Any) -> None:
    """Raise ValueError unless `value` is of the type of `default`: settings come from files, which may say "0.2"."""
    if isinstance(default, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        right, kind = is_whole(value), "a whole number"
    elif isinstance(default, float):
        right, kind = is_number(value), "a number"
    elif isinstance(default, tuple):
        right, kind = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value), "a list of texts"
    else:
        right, kind = isinstance(value, (str, os.PathLike)) or (default is None and value is None), "a text"
    if not right:
        raise EmphasisValueError(f"{name}: {key}={value!r} is not allowed; it must be {kind}")
