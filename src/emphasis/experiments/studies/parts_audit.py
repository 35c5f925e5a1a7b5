"""Audits of tables that are larger than memory, from Parquet files of labels and out-of-fold probabilities.

The thresholds of confident learning are means over all labels of a class. A first pass adds them up, and a second one
ranks the labels of one file at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError
from emphasis.errors import EmphasisValueError
from emphasis.experiments.studies.audit_result import AUDIT, SUSPECTS, suspects_columns
from emphasis.experiments.studies.label_audit import (
    confidence_totals,
    confident_suspects,
    log_probabilities,
    thresholds_of,
)
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.texts import encodable, one_line

FOLDER = "suspects"
_MOST = 1000  # labels in the ranking of all files
_GIVEN, _PREFIX, _ROW = "given", "p_", "row"

Progress = Callable[[str, int, int], None]  # (task, done, total)


@dataclass(frozen=True)
class PartsAudit:
    """Result of an audit of files.

    Attributes:
        title: Description of the data.
        numbers: Counts and rates, as in audit.json.
        most_suspicious: The most suspicious labels of all files: "source" (the file), "row", "given", "suggested",
            "suspect", "score" and "sample_weight".
    """

    title: str
    numbers: dict[str, Any]
    most_suspicious: tuple[dict[str, Any], ...]


def parts_in(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder, in order; [] if it is none or holds none."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith(".")) if folder.is_dir() else []


def audit_parts(files: Sequence[Path], folder: Path, title: str, progress: Progress = lambda *_: None) -> PartsAudit:
    """Rank the labels in files by their out-of-fold probabilities.

    Writes a file into `folder`/suspects for each file, with a line for each label in the order of the rows, the most
    suspicious labels of all files into suspects.csv, and audit.json.

    Args:
        files: Parquet files with the columns "given", the label, and "p_CLASS", the probability of each class; "row"
            names the rows if it is there. The folder "predictions" of `emphasis fit --engine dask` holds such files.
        folder: Folder to write to.
        title: Description of the data.
        progress: Called as `progress(task, done, total)`.

    Raises:
        DamagedFileError: A file cannot be read.
        ValueError: A column is missing, or holds something else.
    """
    import pandas as pd

    names = _class_names(files[0])
    totals, counts = np.zeros(len(names)), np.zeros(len(names), dtype=np.int64)
    for number, part in enumerate(_parts(files, names)):
        progress("confidence of each class", number, 2 * len(files))
        of_part = confidence_totals(part.log_p, part.labels)
        totals, counts = totals + of_part[0], counts + of_part[1]
    if not counts.any():
        raise EmphasisValueError("the files hold no labels")
    thresholds = thresholds_of(totals, counts)
    with naming_refusals("write to", folder):
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    suspects, first = 0, None
    for number, part in enumerate(_parts(files, names)):
        progress("ranking of the labels", len(files) + number, 2 * len(files))
        found = confident_suspects(part.log_p, part.labels, thresholds)
        table = pd.DataFrame(suspects_columns(found, part.labels, names, part.rows))
        with replacing(folder / FOLDER / part.file.name) as partial:
            table.to_parquet(partial, index=False)
        suspects += int(table["suspect"].sum())
        first = _most_suspicious(first, table.assign(source=part.file.name))
    examples = int(counts.sum())
    numbers = {
        "examples": examples,
        "classes": len(names),
        "suspects": suspects,
        "estimated_noise_rate": suspects / examples,
    }
    assert first is not None
    write_text(folder / SUSPECTS, encodable(first.to_csv(index=False, float_format="%.4f")))
    write_text(folder / AUDIT, json.dumps(numbers, indent=1) + "\n")
    return PartsAudit(title, numbers, tuple(first.to_dict("records")))


@dataclass(frozen=True, eq=False)
class _Part:
    """The content of one file: labels (n,), logarithms of probabilities (n, C), and rows (n,)."""

    file: Path
    labels: NDArray[np.int64]
    log_p: NDArray[np.float64]
    rows: NDArray[np.int64]


def _class_names(file: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = pyarrow.parquet.read_schema(file).names
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedFileError(f"{file} cannot be read as Parquet ({one_line(error)})") from error
    names = [name.removeprefix(_PREFIX) for name in columns if name.startswith(_PREFIX)]
    if _GIVEN not in columns or len(names) < 2:
        raise EmphasisValueError(
            f"{file} needs the column {_GIVEN!r}, the label, and a column {_PREFIX}CLASS for each class; it has "
            f"{', '.join(columns)}"
        )
    return names


def _parts(files: Sequence[Path], names: Sequence[str]) -> Iterator[_Part]:
    import pyarrow.parquet

    index = {name: number for number, name in enumerate(names)}
    for file in files:
        if _class_names(file) != names:
            raise EmphasisValueError(f"{files[0]} and {file} have the probabilities of different classes")
        table = pyarrow.parquet.ParquetFile(file).read(use_threads=False)
        given = [str(value) for value in table[_GIVEN].to_pylist()]
        if unknown := {*given} - index.keys():
            raise EmphasisValueError(f"{file}: the label {min(unknown)!r} has no column {_PREFIX}{min(unknown)}")
        p = np.stack([table[f"{_PREFIX}{name}"].to_numpy().astype(np.float64) for name in names], axis=1)
        try:
            log_p = log_probabilities(p)
        except EmphasisValueError as error:
            raise EmphasisValueError(f"{file}: {error}") from error
        rows = table[_ROW].to_numpy() if _ROW in table.column_names else np.arange(len(given))
        yield _Part(file, np.array([index[name] for name in given], dtype=np.int64), log_p, rows)


def _most_suspicious(first: Any, table: Any) -> Any:
    """Return the most suspicious labels of the earlier files and of another one."""
    import pandas as pd

    table = table.nsmallest(_MOST, "score")
    return table if first is None else pd.concat([first, table]).nsmallest(_MOST, "score")
