"""Any table, CSV or Parquet, with a label column: numbers and categories become one float vector per row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.split import Split, draw_stratified
from emphasis.datasets.table_encoder import fit_encoder, numeric_first, text_of
from emphasis.errors import EmphasisValueError
from emphasis.files import replacing
from emphasis.texts import did_you_mean, shortened

_PARQUET = (".parquet", ".pq")
_COLUMNS_SHOWN = 20


def load_table(
    root: Path,
    _progress: Progress,
    *,
    file: str,
    label: str,
    test_file: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    missing: Sequence[str] = (),
    max_levels: int = 100,
) -> Split:
    """Return a table's rows as vectors (N, D) float32 and its label column as classes.

    A numeric column is standardised, (x - mean) / deviation, by the training part's statistics; where a value is
    missing, the training part's median stands in, and a further column says so with a 1, provided the training part
    misses some too. Any other column (text, boolean, category) becomes one column of 0 and 1 per level that the
    training part has, a missing value being a level of its own; a level that only the test part has is all zeros.
    Columns are in the order of the table's, rows too. Classes are numbered in the order of the label's sorted values.

    Args:
        root: The data folder.
        file: The table, relative to `root` or absolute; Parquet by its suffix (.parquet, .pq), else CSV with a header,
            with tabs if it is a .tsv.
        label: The label column: texts, booleans or whole numbers.
        test_file: A second table with the same columns as the test part; what else it has is passed over.
        test_share: Without it, the share of each class that becomes the test part, in (0, 1). 0: all rows are trained
            on, and the test part is the training part.
        seed: Of that choice.
        categorical: Numeric columns whose numbers are mere names.
        drop: Columns to leave out.
        missing: What means "missing" in a CSV file besides an empty field and pandas' own NA, NaN, None, null and the
            like: "?", for instance.
        max_levels: More distinct values than this in a column that is not numeric are an error: it may be a name
            or an identifier, from which nothing general is learned.

    Raises:
        DataNotFoundError: There is no such file.
        DamagedFileError: It cannot be read.
        ValueError: An option or a column is unfit; the message says which and what to do.
    """
    if not 0.0 <= test_share < 1.0:
        raise EmphasisValueError(
            f"test_share={test_share} is not allowed; use a number between 0 and 1, or 0 for no test part"
        )
    table = read_table(root / file, missing)
    for name in (label, *categorical, *drop):
        require_column(table, name, root / file)
    if label in drop:
        raise EmphasisValueError(f"the label column {label!r} cannot be dropped")
    whole, names = classes_of(table[label], label, max_levels)
    if test_file is None and not test_share:
        train = test = table
        train_labels = test_labels = whole
    elif test_file is None:
        is_test = np.zeros(len(table), dtype=bool)
        is_test[draw_stratified(whole, max(round(test_share * len(table)), 1), seed)] = True
        train, test = table[~is_test], table[is_test]
        train_labels, test_labels = whole[~is_test], whole[is_test]
    else:
        train, test = table, read_table(root / test_file, missing)
        for name in table.columns.difference(list(drop)):
            require_column(test, name, root / test_file)
        train_labels, test_labels = whole, _known_classes(test[label], names, root / test_file, label)
    features = [name for name in table.columns if name != label and name not in drop]
    if not features:
        raise EmphasisValueError(f"{root / file} has no column besides the label {label!r} to learn from")
    encoder = fit_encoder(train, features, categorical, max_levels)
    return Split(encoder.transform(train), train_labels, encoder.transform(test), test_labels, len(names), names)


def read_table(path: Path, missing: Sequence[str] = ()) -> Any:
    """Return a CSV or Parquet file as a pandas table with rows and with names that are texts, each there once.

    Raises:
        DataNotFoundError, DamagedFileError, ValueError: As `load_table`.
    """
    import pandas as pd

    if not path.is_file():
        raise DataNotFoundError(f"table {str(path)!r} does not exist; name it with the option 'file'")
    try:
        if is_parquet(path):
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(
                path, sep=separator_of(path), na_values=list(missing), skipinitialspace=True, low_memory=False
            )
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise DamagedFileError(f"table {str(path)!r} cannot be read ({error})") from error
    table.columns = [str(name) for name in table.columns]
    if twice := table.columns[table.columns.duplicated()].tolist():
        raise EmphasisValueError(f"{path} has two columns {twice[0]!r}; rename one")
    if not len(table):
        raise EmphasisValueError(f"{path} has no rows")
    return table


def write_table(table: Any, path: Path) -> None:
    """Write a pandas table without its index, as Parquet or CSV by the suffix, whole or not at all."""
    with replacing(path) as partial:
        if is_parquet(partial):
            table.to_parquet(partial, index=False)
        else:
            table.to_csv(partial, index=False)


def separator_of(path: Path) -> str:
    """Return what separates the cells of a text file, by its suffix."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its suffix."""
    return path.suffix.lower() in _PARQUET


def require_column(table: Any, name: str, path: Path) -> None:
    """Raise ValueError that names a similar column if the table of `path` has none of this name."""
    if name not in table.columns:
        listed = shortened([repr(column) for column in table.columns], _COLUMNS_SHOWN)
        raise EmphasisValueError(f"{path} has no column {name!r}{did_you_mean(name, table.columns)}; it has {listed}")


def classes_of(column: Any, label: str, max_levels: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return each row's class, and the classes' names in their order.

    Raises:
        ValueError: The column is no label: empty somewhere, one value only, too many of them, or fractions.
    """
    texts = _label_texts(column, label)
    levels = sorted(set(texts), key=numeric_first)
    if len(levels) < 2:
        raise EmphasisValueError(
            f"the label column {label!r} is {levels[0]!r} in every row; classification needs 2 classes"
        )
    if len(levels) > max_levels:
        raise EmphasisValueError(
            f"the label column {label!r} has {len(levels)} distinct values in {len(texts)} rows, more than "
            f"max_levels={max_levels}; name another column, or raise max_levels"
        )
    code = {level: place for place, level in enumerate(levels)}
    return np.array([code[text] for text in texts], dtype=np.int64), tuple(levels)


def _known_classes(column: Any, names: tuple[str, ...], path: Path, label: str) -> NDArray[np.int64]:
    code = {level: place for place, level in enumerate(names)}
    texts = _label_texts(column, label)
    if strange := [text for text in texts if text not in code]:
        raise EmphasisValueError(f"{path} has the label {strange[0]!r}, which the training table lacks")
    return np.array([code[text] for text in texts], dtype=np.int64)


def _label_texts(column: Any, label: str) -> list[str]:
    import pandas as pd

    if absent := int(column.isna().sum()):
        raise EmphasisValueError(
            f"the label column {label!r} is empty in {absent} of {len(column)} rows; fill or remove them"
        )
    if pd.api.types.is_float_dtype(column.dtype):
        values = column.to_numpy(dtype=np.float64)
        if (broken := values[values != np.floor(values)]).size or np.isinf(values).any():
            example = broken[0] if broken.size else np.inf
            raise EmphasisValueError(
                f"the label column {label!r} holds {example:g}: classes are texts or whole numbers"
            )
        return [str(int(value)) for value in values]
    return [text_of(value) for value in column]
