"""The folder of data sets, and the search for files in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from emphasis.datasets.errors import DataNotFoundError
from emphasis.files import cache_dir

ENVIRONMENT_VARIABLE = "EMPHASIS_DATA"


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds data sets: `root` if given, else $EMPHASIS_DATA, else `cache_dir()`.

    Raises:
        DataNotFoundError: A given path is not a folder.
    """
    named = {"data folder": root, ENVIRONMENT_VARIABLE: os.environ.get(ENVIRONMENT_VARIABLE)}
    for source, value in named.items():
        if value:
            path = Path(value).expanduser()
            if not path.is_dir():
                raise DataNotFoundError(f"{source} {str(path)!r} is not a folder; name one that holds the data")
            return path
    return cache_dir()


def find(root: Path, candidates: Iterable[str]) -> Path | None:
    """Return the first of `candidates`, paths relative to `root`, that exists, or None."""
    return next((path for name in candidates if (path := root / name).exists()), None)


def not_found(data: str, root: Path, files: Sequence[str], download: bool = False) -> DataNotFoundError:
    """Return the error for absent data, which says what was searched where, and what to do.

    Args:
        data: Name of the data, such as "CIFAR-10".
        root: The folder searched.
        files: Alternative files, one of which is needed.
        download: Whether `download=True` would help.
    """
    cures = f"put one there, or name the folder that has it with --data DIR or {ENVIRONMENT_VARIABLE}=DIR"
    if download:
        cures += ", or load with download=True (on the command line: --download)"
    return DataNotFoundError(f"{data} is not in {str(root)!r}; looked for {', '.join(files)}: {cures}")
