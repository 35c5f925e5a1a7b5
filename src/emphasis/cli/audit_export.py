"""The table with cleaned labels that `emphasis audit --export` writes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.cli.data_options import requested_reading
from emphasis.cli.options import TABLE_SUFFIXES, UsageError

if TYPE_CHECKING:
    from emphasis.experiments.studies.audit_result import Audit


def check_output_table(option: str, out: Path) -> None:
    """Check that a table can be written, before anything is trained."""
    import pandas  # noqa: F401

    if out.suffix.lower() not in TABLE_SUFFIXES:
        raise UsageError(f"--{option} {out} is not allowed; use a name that ends in .csv or .parquet")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"--{option} {out}: there is no folder {out.parent}")


def check_export(options: argparse.Namespace) -> None:
    """Check that the cleaned table can be written, before anything is trained."""
    from emphasis.datasets.table_source import open_table

    source, out = Path(options.source), options.export
    if options.label is None or options.noise_rate:
        raise UsageError("--export writes a table's own labels cleaned: it needs --label, and no --noise-rate")
    check_output_table("export", out)
    if out.resolve() == source.resolve():
        raise UsageError("--export is the table itself; choose another file")
    table = open_table(source, requested_reading(options))
    taken = set(_added_columns(options)) & set(table.frame.columns)
    if taken:
        raise UsageError(
            f"the table has a column {min(taken)!r} already, which --export would write; remove it, so that the "
            "results of an earlier audit are not learned from"
        )


def _added_columns(options: argparse.Namespace) -> list[str]:
    return [f"{options.label}_cleaned", "suspect", "sample_weight"]


def export(options: argparse.Namespace, result: Audit) -> None:
    """Write the table unchanged but for three more columns; rows that were skipped have the weight 0."""
    import numpy as np

    from emphasis.datasets.table import write_table
    from emphasis.datasets.table_source import as_written, is_parquet

    table, suspects = as_written(options.source, requested_reading(options)), result.suspects
    places = np.searchsorted(table.rows, result.rows)
    cleaned = table.frame[options.label].astype(object).to_numpy(copy=True)
    names: Sequence[Any] = result.class_names
    if is_parquet(Path(options.source)):  # values of the column's own type
        values = dict(zip(result.labels.tolist(), cleaned[places].tolist(), strict=True))
        names = [values.get(label) for label in range(len(result.class_names))]
    for place, suggested in zip(places[suspects.suspect], suspects.suggested[suspects.suspect], strict=True):
        cleaned[place] = names[suggested]
    is_suspect, weight = np.zeros(len(cleaned), dtype=bool), np.zeros(len(cleaned))
    is_suspect[places], weight[places] = suspects.suspect, suspects.sample_weight
    columns = dict(zip(_added_columns(options), (cleaned, is_suspect, weight), strict=True))
    write_table(table.frame.assign(**columns).infer_objects(), options.export)
