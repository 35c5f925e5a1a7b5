"""Files of class probabilities, as any other model has predicted them."""

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

_NAMES = ("probabilities", "pred_probs", "proba", "probs")
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
    if not path.is_file():
        raise DataNotFoundError(f"there is no file {str(path)!r} of probabilities")
    numbers: NDArray[np.int64] | None = None
    if path.suffix.lower() in (".npy", ".npz"):
        matrix = _from_numpy(path)
    else:
        matrix, numbers = _from_table(path, class_names)
    if matrix.ndim != 2 or matrix.shape[1] != len(class_names):
        raise EmphasisValueError(
            f"{path} holds probabilities of shape {matrix.shape}; the labels have {len(class_names)} classes: "
            f"{shortened(class_names, _SHOWN)}"
        )
    if numbers is not None:
        return _by_number(path, matrix, numbers, rows)
    if len(matrix) == total:
        return matrix[rows]
    if len(matrix) == len(rows):
        return matrix
    used = f", of which {len(rows):,} are used" if len(rows) != total else ""
    raise EmphasisValueError(f"{path} has {len(matrix):,} rows of probabilities, but the data {total:,}{used}")


def _from_numpy(path: Path) -> NDArray[np.float64]:
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path)
        name = next((name for name in _NAMES if name in arrays), None)
        matrices = [array for array in arrays.values() if array.ndim == 2]
        if name is None and len(matrices) != 1:
            raise EmphasisValueError(f"{path} holds {len(matrices)} matrices; call one of them {_NAMES[0]!r}")
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
    try:
        return frame[columns or names].to_numpy(dtype=np.float64, na_value=np.nan), numbers
    except (TypeError, ValueError) as error:
        raise EmphasisValueError(f"{path} holds other things than numbers ({error})") from error


def _by_number(
    path: Path, matrix: NDArray[np.float64], numbers: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    position = {number: at for at, number in enumerate(numbers.tolist())}
    missing = [row for row in rows.tolist() if row not in position]
    if missing:
        raise EmphasisValueError(
            f"{path} has no probabilities of row {missing[0]}; its column 'row' numbers rows from 0"
        )
    return matrix[[position[row] for row in rows.tolist()]]
