"""All options for a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from emphasis.datasets.table_columns import ColumnOptions
from emphasis.datasets.table_labels import LabelOptions
from emphasis.datasets.table_source import ReadOptions
from emphasis.datasets.text_columns import TextOptions


@dataclass(frozen=True)
class TableOptions:
    """All options for a table; `load_table` describes each.

    Attributes:
        read: Options for reading the table.
        labels: Options for labels that are missing, rare or spelled in several ways.
        columns: Options for columns.
        texts: Options for columns of free text.
        drop: Columns to ignore.
        id_column: Column that names the rows in reports and files, which is not a feature; "" for none.
        weight_column: Column of the weights of rows, which is not a feature; "" for none.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    columns: ColumnOptions = field(default_factory=ColumnOptions)
    texts: TextOptions = field(default_factory=TextOptions)
    drop: Sequence[str] = ()
    id_column: str = ""
    weight_column: str = ""

    @classmethod
    def of(
        cls,
        *,
        sep: str = "",
        encoding: str = "",
        decimal: str = "",
        missing: Sequence[str] = (),
        unlabeled: str = "drop",
        rare_classes: str = "keep",
        merge_spellings: str = "form",
        missing_labels: Sequence[str] = (),
        categorical: Sequence[str] = (),
        keep: Sequence[str] = (),
        max_levels: int = 100,
        text: str | Sequence[str] = (),
        encoder: str = "",
        download: bool = False,
        max_tokens: int = 0,
        drop: Sequence[str] = (),
        id_column: str = "",
        weight_column: str = "",
    ) -> TableOptions:
        """Return options given by their names in `load_table`, `emphasis.fit` and the command."""
        return cls(
            read=ReadOptions(sep, encoding, decimal, missing),
            labels=LabelOptions(unlabeled, rare_classes, merge_spellings, tuple(missing_labels)),
            columns=ColumnOptions(categorical, keep, max_levels, (text,) if isinstance(text, str) else tuple(text)),
            texts=TextOptions(encoder, download, max_tokens),
            drop=drop,
            id_column=id_column,
            weight_column=weight_column,
        )
