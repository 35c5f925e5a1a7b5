"""Examples that repeat others: they are counted, compared by label, and held out together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table_report import Finding, counted, rows_text

_MIXERS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True, eq=False)
class Copies:
    """Which of N examples repeat others.

    Attributes:
        groups: (N,) number of the group of each example; examples of a group are held out together.
        repeats: Examples that repeat an earlier one, ascending.
        contradictions: (first, other) for each group with more than one label: its first example, and the first one
            with another label.
    """

    groups: NDArray[np.int64]
    repeats: NDArray[np.int64]
    contradictions: tuple[tuple[int, int], ...] = ()


def copies_of(keys: NDArray[Any], labels: NDArray[np.int64]) -> Copies:
    """Return which examples repeat others.

    The examples of a class that all repeat each other are not grouped, since none of them could be held out.

    Args:
        keys: (N,) values that are equal for equal examples, such as hashes.
        labels: (N,) class of each example.
    """
    first, group = _numbered(keys)
    repeats = np.flatnonzero(first[group] != np.arange(len(keys)))
    differs = repeats[labels[repeats] != labels[first[group[repeats]]]]
    others: dict[int, int] = {}
    for row in differs.tolist():
        others.setdefault(int(first[group[row]]), row)
    if len(repeats):
        pairs = np.unique(np.stack([labels, group]), axis=1)
        alone = np.flatnonzero(np.bincount(pairs[0]) == 1)
        single = np.isin(labels, alone)
        group[single] = len(first) + np.arange(int(single.sum()))
        group = _numbered(group)[1]
    return Copies(group, repeats, tuple(sorted(others.items())))


def representatives(
    groups: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one example of each group, of its rarest class, and for each example the position of its group's one.

    Without repeated examples these are all examples in their order.
    """
    counts = np.bincount(labels)
    _, group = _numbered(groups)
    order = np.lexsort((np.arange(len(labels)), counts[labels], group))
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0]) if len(order) else order
    return order[starts], group


def _numbered(keys: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first example of each key, and the number of each example's key, in the order of first examples."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    return first[order].astype(np.int64), number[inverse.reshape(-1)]


def column_hashes(table: Any, names: Sequence[str]) -> list[NDArray[np.uint64]]:
    """Return (N,) hashes of each column of a pandas table, which are equal for equal values."""
    import pandas as pd

    return [np.asarray(pd.util.hash_pandas_object(table[name], index=False), dtype=np.uint64) for name in names]


def row_keys(columns: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Return (N,) hashes of rows, which are equal for rows with equal values, from hashes of their columns."""
    first, *others = columns
    keys = _combined(np.zeros(len(first), np.uint64), first)
    for hashes in others:
        keys = _combined(keys, hashes)
    return keys


def are_equal_by_chance(columns: Sequence[NDArray[np.uint64]], repeats: int) -> bool:
    """Return whether columns have so few values that half as many rows would be equal by chance as do `repeats`.

    Equal rows are not copies then. By chance means: if the values of each column were distributed at random.
    """
    rng = np.random.default_rng(0)
    keys = row_keys(rng.permutation(hashes) for hashes in columns)
    return 2 * (len(keys) - len(np.unique(keys))) >= repeats


def array_groups(features: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of each row of an array of features (N, D); each row is one if equal rows are not copies."""
    columns = [np.ascontiguousarray(column + 0.0).view(np.uint64) for column in features.T]  # -0.0 + 0.0 is 0.0
    copies = copies_of(row_keys(columns), labels)
    if len(copies.repeats) and are_equal_by_chance(columns, len(copies.repeats)):
        return np.arange(len(labels))
    return copies.groups


def table_copies(
    table: Any,
    features: Sequence[str],
    texts: Sequence[str],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    label: str,
    rows: NDArray[np.int64],
) -> tuple[NDArray[np.int64], list[Finding]]:
    """Return the group of each row of a table, and findings about rows that repeat others.

    If columns have so few values that half as many rows would be equal by chance, equal rows are not copies, and each
    row is a group of its own. Free text is not equal by chance.

    Args:
        table: pandas table.
        features: Columns that are used as features.
        texts: Those of them that hold free text.
        labels: (N,) class of each row.
        classes: Names of the classes.
        label: Name of the label column.
        rows: (N,) number of each row in the file.
    """
    columns = column_hashes(table, features)
    copies = copies_of(row_keys(columns), labels)
    count = len(copies.repeats)
    if not count:
        return copies.groups, []
    if not texts and are_equal_by_chance(columns, count):
        return np.arange(len(rows)), []
    shown = rows_text(rows[copies.repeats].tolist())
    observation = f"{count:,} of {counted(len(rows), 'row')} repeat the features of an earlier row ({shown})"
    findings = [Finding("repeated rows", None, count, observation, "equal rows are held out together")]
    if copies.contradictions:
        first, other = copies.contradictions[0]
        number = len(copies.contradictions)
        findings.append(
            Finding(
                "contradictory labels",
                label,
                number,
                f"equal rows have different labels in {counted(number, 'case')}, such as "
                f"{classes[labels[first]]!r} in row {rows[first]} and {classes[labels[other]]!r} in row {rows[other]}",
                "used as given (look at them first)",
            )
        )
    return copies.groups, findings


def _combined(keys: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed: NDArray[np.uint64] = (keys ^ (keys >> np.uint64(29))) * _MIXERS[0] + hashes
    return (mixed ^ (mixed >> np.uint64(32))) * _MIXERS[1]
