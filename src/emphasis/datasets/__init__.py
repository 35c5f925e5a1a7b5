"""Real data sets, as arrays: `load(name, root)` is the door to all of them."""

from __future__ import annotations

import inspect
import numbers
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emphasis.datasets.cifar import load_cifar10, load_cifar100, load_vehicles10
from emphasis.datasets.clothing1m import load_clothing1m
from emphasis.datasets.digits import load_digits
from emphasis.datasets.download import Progress, silent
from emphasis.datasets.errors import DamagedFileError, DataError, DataNotFoundError, DownloadError, UnsafeFileError
from emphasis.datasets.folder import load_image_folder
from emphasis.datasets.image_files import ImageFiles
from emphasis.datasets.imdb import Reviews, load_imdb_vectors, load_reviews
from emphasis.datasets.mars import load_mars_split
from emphasis.datasets.mnist import load_mnist
from emphasis.datasets.root import data_root
from emphasis.datasets.split import Gallery, Split, holdout, subset
from emphasis.datasets.table import load_table
from emphasis.errors import EmphasisValueError
from emphasis.files import cache_dir
from emphasis.texts import did_you_mean

__all__ = [
    "NAMES",
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
    "cache_dir",
    "data_root",
    "holdout",
    "load",
    "load_digits",
    "load_reviews",
    "options",
    "subset",
]


def _digits(_root: Path, _progress: Progress, *, test_size: int = 500, seed: int = 0) -> Split:
    """Return scikit-learn's digits; see `load_digits`."""
    return load_digits(test_size, seed)


_LOADERS: dict[str, Callable[..., Split]] = {
    "digits": _digits,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "vehicles10": load_vehicles10,
    "mnist": load_mnist,
    "imdb-vectors": load_imdb_vectors,
    "image-folder": load_image_folder,
    "clothing1m": load_clothing1m,
    "mars": load_mars_split,
    "table": load_table,
}
NAMES = tuple(_LOADERS)
"""Every name that `load` knows."""


def options(name: str) -> dict[str, Any]:
    """Return what data set `name` can be told in `load`: options and their defaults, `...` for what must be given.

    Raises:
        ValueError: There is no such data set.
    """
    if name not in _LOADERS:
        raise EmphasisValueError(f"unknown data set {name!r}{did_you_mean(name, NAMES)}; known: {', '.join(NAMES)}")
    parameters = inspect.signature(_LOADERS[name]).parameters.values()
    keywords = (p for p in parameters if p.kind is p.KEYWORD_ONLY)
    return {p.name: ... if p.default is p.empty else p.default for p in keywords}


def load(
    name: str, root: str | os.PathLike[str] | None = None, *, progress: Progress = silent, **settings: Any
) -> Split:
    """Return a data set as arrays.

    Args:
        name: One of `NAMES`.
        root: The folder that holds data sets; by default $EMPHASIS_DATA, else a folder in the user's cache.
        progress: Called as `progress(what, done, total)` during downloads and long computations.
        **settings: Options of the data set; see `options(name)` and its loader. Nothing is downloaded unless
            `download=True` is among them.

    Raises:
        ValueError: Unknown name or option, or a value that is not allowed.
        DataError: The data is absent, damaged or unsafe to read.
    """
    known = options(name)
    for key in settings:
        if key not in known:
            raise EmphasisValueError(
                f"{name} has no option {key!r}{did_you_mean(key, known)}; it takes {', '.join(known)}"
            )
        _check_type(name, key, settings[key], known[key])
    if lacking := [key for key, default in known.items() if default is ... and key not in settings]:
        raise EmphasisValueError(f"{name} needs the option {lacking[0]!r}; it takes {', '.join(known)}")
    return _LOADERS[name](data_root(root), progress, **settings)


def _check_type(name: str, key: str, value: Any, default: Any) -> None:
    """Raise ValueError unless `value` is of the kind of `default`; settings come from files, where "0.2" is no 0.2."""
    if isinstance(default, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        right, kind = isinstance(value, numbers.Integral) and not isinstance(value, bool), "a whole number"
    elif isinstance(default, float):
        right, kind = isinstance(value, numbers.Real) and not isinstance(value, bool), "a number"
    elif isinstance(default, tuple):
        right, kind = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value), "a list of texts"
    else:
        right, kind = isinstance(value, (str, os.PathLike)) or (default is None and value is None), "a text"
    if not right:
        raise EmphasisValueError(f"{name}: {key}={value!r} is not allowed; it must be {kind}")
