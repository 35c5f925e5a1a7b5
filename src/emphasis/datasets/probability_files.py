"""Files of class probabilities or features, as any other model has computed them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.archives import read_npz
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.errors import EmphasisValueError
from emphasis.texts import shortened

_NAMES = {
    "probabilities": ("probabilities", "pred_probs", "proba", "probs"),
    "features": ("features", "embeddings", "embedding"),
}
_SHOWN = 10


def read_probabilities(
    path: Path, class_names: Sequence[str], rows: NDArray[np.int64], total: int
) -> NDArray[np.float64]:
    """Return class probabilities of examples, shape (n, C), from a file.

    Args:
        path: A NumPy file (.npy, or .npz with one matrix or with one called "probabilities"), or a table (Parquet, or
            text with a header). A table's columns are found by the names of the classes, also with "p_" before them,
            as in `predictions.csv` of a fit; if there are none such, it has a column for each class, in their order.
        class_names: Names of the C classes in their order.
        rows: Rows of the data to return, shape (n,).
        total: Number of all rows in the data.

    Raises:
        DataNotFoundError: The file does not exist.
        DamagedFileError: The file cannot be read.
        EmphasisValueError: The file does not match the classes or the rows.
    """
    _check_exists(path, "probabilities")
    numbers: NDArray[np.int64] | None = None
    if path.suffix.lower() in (".npy", ".npz"):
        matrix = _from_numpy(path, "probabilities")
    else:
        matrix, numbers = _from_table(path, class_names)
    if matrix.ndim != 2 or matrix.shape[1] != len(class_names):
        raise EmphasisValueError(
            f"{path} holds probabilities of shape {matrix.shape}; the labels have {len(class_names)} classes: "
            f"{shortened(class_names, _SHOWN)}"
        )
    return _rows_of(path, "probabilities", matrix, numbers, rows, total)


def read_features(path: Path, rows: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    """Return features of examples, shape (n, D), from a file.

    Args:
        path: A NumPy file (.npy, or .npz with one matrix or with one called "features"), or a table of numbers
            (Parquet, or text with a header). Its column "row", if there is one, holds the numbers of the rows.
        rows: Rows of the data to return, shape (n,).
        total: Number of all rows in the data.

    Raises:
        DataNotFoundError: The file does not exist.
        DamagedFileError: The file cannot be read.
        EmphasisValueError: The file holds other things than numbers, or does not match the rows.
    """
    _check_exists(path, "features")
    numbers: NDArray[np.int64] | None = None
    if path.suffix.lower() in (".npy", ".npz"):
        matrix = _from_numpy(path, "features")
    else:
        from emphasis.datasets.table_source import open_table

        frame: Any = open_table(path).frame
        if "row" in frame.columns:
            numbers = frame.pop("row").to_numpy(dtype=np.int64)
        matrix = _numbers_in(path, frame)
    if matrix.ndim != 2 or not matrix.size:
        raise EmphasisValueError(f"{path} holds features of shape {matrix.shape}; use (n, D)")
    if not np.isfinite(matrix).all():
        raise EmphasisValueError(f"{path} holds features that are NaN, infinite or missing")
    return _rows_of(path, "features", matrix, numbers, rows, total)


def _check_exists(path: Path, what: str) -> None:
    if not path.is_file():
        raise DataNotFoundError(f"there is no file {str(path)!r} of {what}")


def _rows_of(
    path: Path,
    what: str,
    matrix: NDArray[np.float64],
    numbers: NDArray[np.int64] | None,
    rows: NDArray[np.int64],
    total: int,
) -> NDArray[np.float64]:
    """Return the lines of a matrix that belong to `rows`; `numbers` are the rows of its lines, if it says so."""
    if numbers is not None:
        position = {number: at for at, number in enumerate(numbers.tolist())}
        missing = [row for row in rows.tolist() if row not in position]
        if missing:
            raise EmphasisValueError(f"{path} has no {what} of row {missing[0]}; its column 'row' numbers rows from 0")
        return matrix[[position[row] for row in rows.tolist()]]
    if len(matrix) == total:
        return matrix[rows]
    if len(matrix) == len(rows):
        return matrix
    used = f", of which {len(rows):,} are used" if len(rows) != total else ""
    raise EmphasisValueError(f"{path} has {len(matrix):,} rows of {what}, but the data {total:,}{used}")


def _from_numpy(path: Path, what: str) -> NDArray[np.float64]:
    names = _NAMES[what]
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path)
        name = next((name for name in names if name in arrays), None)
        matrices = [array for array in arrays.values() if array.ndim == 2]
        if name is None and len(matrices) != 1:
            raise EmphasisValueError(f"{path} holds {len(matrices)} matrices; call one of them {names[0]!r}")
        array = arrays[name] if name is not None else matrices[0]
    else:
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DamagedFileError(f"{path} cannot be read ({error})") from error
    try:
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EmphasisValueError(f"{path} holds no numbers ({error})") from error


def _from_table(path: Path, class_names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
    """Return probabilities, and the rows that they belong to if the table has a column "row"."""
    from emphasis.datasets.table_source import open_table

    frame: Any = open_table(path).frame
    names = list(frame.columns)
    columns = next(
        (
            [f"{prefix}{name}" for name in class_names]
            for prefix in ("p_", "")
            if all(f"{prefix}{name}" in names for name in class_names)
        ),
        None,
    )
    numbers = frame["row"].to_numpy(dtype=np.int64) if columns and "row" in names and "row" not in columns else None
    if columns is None and len(names) != len(class_names):
        raise EmphasisValueError(
            f"{path} has no column for each class; name them {shortened(class_names, _SHOWN)}, or leave out all others"
        )
    return _numbers_in(path, frame[columns or names]), numbers


def _numbers_in(path: Path, frame: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError) as error:
        raise EmphasisValueError(f"{path} holds other things than numbers ({error})") from error
