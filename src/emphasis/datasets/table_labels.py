"""The label column, whose classes are unchanged texts, and whose only missing value is an empty cell."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table_features import natural_texts, numeric_first
from emphasis.datasets.table_numbers import MISSING, chosen_format, cleaned, number_candidate, numbers_of
from emphasis.datasets.table_report import Finding, argument, counted, rows_text
from emphasis.texts import shortened

UNLABELED = ("drop", "error")
RARE_CLASSES = ("keep", "merge", "drop", "error")
MERGE_SPELLINGS = ("none", "form", "case")
_FRACTIONS = 20  # number of distinct values from which fractions are a quantity, not classes
_INVISIBLE = dict.fromkeys((0xFEFF, 0x200B, 0x200C, 0x200D, 0x2060))
_LISTED = 10
_LIKE_MISSING = (MISSING - {""}) | {"?", "-", "NULL"}


@dataclass(frozen=True)
class LabelOptions:
    """Options for labels.

    Attributes:
        unlabeled: "drop" rows without a label, or "error".
        rare_classes: Treatment of classes with fewer rows than `fewest`: "keep" those with two rows or more and drop
            the others, "merge" all into one class, "drop" their rows, or "error".
        merge_spellings: Differences in spelling that are ignored: "form", surrounding blanks and Unicode form; "case",
            upper and lower case as well; "none".
        missing: Texts that mean that there is no label, besides the empty cell.
    """

    unlabeled: str = "drop"
    rare_classes: str = "keep"
    merge_spellings: str = "form"
    missing: Sequence[str] = ()

    @property
    def missing_keys(self) -> set[str]:
        """The normalized spellings of labels that are missing."""
        return {_key(text, self.merge_spellings) for text in ("", *self.missing)}

    def problems(self) -> list[str]:
        """Return messages about options that are not allowed."""
        allowed = {"unlabeled": UNLABELED, "rare_classes": RARE_CLASSES, "merge_spellings": MERGE_SPELLINGS}
        return [
            f"{argument(name)}={getattr(self, name)!r} is not allowed; use one of {', '.join(values)}"
            for name, values in allowed.items()
            if getattr(self, name) not in values
        ]


@dataclass(frozen=True, eq=False)
class Labels:
    """The classes of a label column.

    Attributes:
        codes: (N,) int64, class of each row, -1 for rows that are skipped.
        names: Names of the classes.
        spellings: Name of the class for each text in the column.
        findings: Observations about the labels.
        problems: Problems because of which the column cannot be used.
    """

    codes: NDArray[np.int64]
    names: tuple[str, ...]
    spellings: Mapping[str, str]
    findings: tuple[Finding, ...]
    problems: tuple[str, ...]


def labels_of(column: Any, label: str, rows: NDArray[np.int64], fewest: int, options: LabelOptions) -> Labels:
    """Return the classes of a label column.

    Args:
        column: pandas column; cells of a text file are unchanged texts, "" if empty.
        label: Name of the column.
        rows: (N,) number of each row in the file.
        fewest: Smallest number of rows of a class that is not rare; 1 if no class is.
        options: Options for labels.
    """
    if column.dtype == object and any(isinstance(v, (bytes, list, dict, tuple, np.ndarray)) for v in column):
        problem = f"the label column {label!r} holds lists, bytes or other nested values"
        return Labels(np.full(len(column), -1), (), {}, (), (problem,))
    codes, texts = natural_texts(column)
    findings: list[Finding] = []
    problems = _unfit(column, texts, label)
    missing = options.missing_keys
    keys = (_key(text, options.merge_spellings) for text in texts)
    key_of = ["" if key in missing else key for key in keys]
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    names = _names_by_key(texts, key_of, counts)
    spellings = {text: names[key] for text, key in zip(texts, key_of, strict=True) if key}
    findings += _merged_spellings(texts, key_of, counts, names, label)
    if options.merge_spellings == "form":
        findings += _spellings_in_case(sorted(set(spellings.values())), label)
    levels = sorted(set(spellings.values()), key=numeric_first)
    code = {level: i for i, level in enumerate(levels)}
    new = np.array([code[spellings[text]] if text in spellings else -1 for text in texts] + [-1], dtype=np.int64)
    codes = new[codes]
    findings += _like_missing(codes, levels, label)

    if (absent := np.flatnonzero(codes < 0)).size:
        what = " or ".join(["empty", *map(repr, options.missing)])
        observation = f"the label column {label!r} is {what} in {absent.size:,} of {counted(len(codes), 'row')}"
        shown = f" ({rows_text(rows[absent].tolist())})"
        if options.unlabeled == "error":
            problems.append(f"{observation}{shown}; fill them, or leave them out ({argument('unlabeled')}=drop)")
        findings.append(Finding("unlabeled", label, int(absent.size), observation + shown, "skipped"))
    if not levels:
        problems.append(f"the label column {label!r} is empty in every row")
    elif len(levels) == 1:
        problems.append(f"the label column {label!r} is {levels[0]!r} in every row; classification needs 2 classes")
    elif len(levels) > max(100, 0.5 * (codes >= 0).sum()) or (len(levels) > 20 and len(levels) == (codes >= 0).sum()):
        problems.append(
            f"the label column {label!r} has {len(levels):,} distinct values in {counted(len(codes), 'row')}, too many "
            f"for classes; name another column"
        )
    else:
        codes, levels, spellings = _rare(codes, levels, spellings, label, fewest, options, findings, problems)
    return Labels(codes, tuple(levels), spellings, tuple(findings), tuple(problems))


def known_codes(
    column: Any, names: Sequence[str], spellings: Mapping[str, str], options: LabelOptions
) -> NDArray[np.int64]:
    """Return the classes of a further label column, -1 for a missing label and -2 for a text that is not a class."""
    codes, texts = natural_texts(column)
    merge, missing = options.merge_spellings, options.missing_keys
    by_key = {_key(text, merge): name for text, name in spellings.items()} | {_key(name, merge): name for name in names}
    code = {name: i for i, name in enumerate(names)}
    new = []
    for text in texts:
        key = _key(text, merge)
        new.append(-1 if key in missing else code.get(by_key.get(key, ""), -2))
    return np.array([*new, -1], dtype=np.int64)[codes]


def _key(text: str, merge: str) -> str:
    """Return the normalized spelling, which all spellings of a class have in common; "" for an empty cell."""
    if merge == "none":
        return text
    folded = " ".join(unicodedata.normalize("NFKC", text).translate(_INVISIBLE).split())
    return unicodedata.normalize("NFKC", folded.casefold()) if merge == "case" else folded


def _names_by_key(texts: Sequence[str], keys: Sequence[str], counts: NDArray[Any]) -> dict[str, str]:
    """Return the most frequent spelling of each key, without surrounding blanks."""
    best: dict[str, tuple[int, str]] = {}
    for text, key, count in zip(texts, keys, counts.tolist(), strict=True):
        name = text if key == text else text.translate(_INVISIBLE).strip()
        if key not in best or count > best[key][0]:
            best[key] = (count, name)
    return {key: name for key, (_, name) in best.items()}


def _merged_spellings(
    texts: Sequence[str], keys: Sequence[str], counts: NDArray[Any], names: Mapping[str, str], label: str
) -> list[Finding]:
    groups: dict[str, list[int]] = {}
    for at, key in enumerate(keys):
        if key:
            groups.setdefault(key, []).append(at)
    findings = []
    for key, members in groups.items():
        if len(members) > 1:
            listed = shortened(
                [
                    f"{ascii(texts[at]) if _hidden(texts[at]) else repr(texts[at])} ({counts[at]:,})"
                    for at in sorted(members, key=lambda at: -counts[at])
                ],
                _LISTED,
            )
            total = int(sum(counts[at] for at in members))
            findings.append(
                Finding(
                    "spellings",
                    label,
                    total,
                    f"the label column {label!r} spells one class in {len(members)} ways: {listed}",
                    f"merged as {names[key]!r}",
                )
            )
    return findings


def _spellings_in_case(names: Sequence[str], label: str) -> list[Finding]:
    """Return one finding if classes differ in upper and lower case alone, which is often not meant."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_key(name, "case"), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    listed = shortened([" and ".join(map(repr, group)) for group in alike], _LISTED)
    observation = f"classes of {label!r} differ in upper and lower case alone: {listed}"
    action = f"kept apart (merge them with {argument('merge_spellings')}=case)"
    return [Finding("case", label, sum(map(len, alike)), observation, action)]


def _like_missing(codes: NDArray[np.int64], names: Sequence[str], label: str) -> list[Finding]:
    """Return one finding if classes that are rarer than others are spelled like a missing value, as R writes "NA"."""
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    alike = [at for at, name in enumerate(names) if name in _LIKE_MISSING and counts[at] < counts.mean()]
    if not alike:
        return []
    listed = " and ".join(f"{names[at]!r} ({counted(int(counts[at]), 'row')})" for at in alike)
    is_one, total = len(alike) == 1, int(counts[alike].sum())
    observation = f"the class{'' if is_one else 'es'} {listed} of {label!r} {'is' if is_one else 'are'} spelled like"
    observation += " a missing value"
    cure = f"{argument('missing_labels')}={names[alike[0]]}"
    action = f"kept as any other class, since only an empty cell is missing (skip the rows with {cure})"
    return [Finding("like missing", label, total, observation, action)]


def _hidden(text: str) -> bool:
    """Return whether two spellings may look the same on the screen."""
    return not text.isascii()


def _rare(
    codes: NDArray[np.int64],
    levels: list[str],
    spellings: dict[str, str],
    label: str,
    fewest: int,
    options: LabelOptions,
    findings: list[Finding],
    problems: list[str],
) -> tuple[NDArray[np.int64], list[str], dict[str, str]]:
    counts = np.bincount(codes[codes >= 0], minlength=len(levels))
    rare = [at for at, count in enumerate(counts) if count < fewest]
    if not rare:
        return codes, levels, spellings
    listed = shortened([f"{levels[at]!r} ({counts[at]})" for at in rare], _LISTED)
    total = int(counts[rare].sum())
    observation = (
        f"{len(rare)} of {len(levels)} classes of {label!r} have fewer than {counted(fewest, 'row')}: {listed}"
    )
    kept_classes, renamed = [at for at in range(len(levels)) if at not in rare], dict(spellings)
    if options.rare_classes == "error":
        problems.append(f"{observation}; keep, merge or drop them ({argument('rare_classes')})")
        return codes, levels, spellings
    if options.rare_classes == "keep":
        dropped = [at for at in rare if counts[at] < min(2, fewest)]
        action = "kept"
        if dropped:
            single = shortened([repr(levels[at]) for at in dropped], _LISTED)
            action = f"kept, but for {single} with a single row" if len(dropped) < len(rare) else "skipped"
        kept_classes = [at for at in range(len(levels)) if at not in dropped]
    elif options.rare_classes == "merge" and total >= 2:
        other = "other" if "other" not in (levels[at] for at in kept_classes) else "other classes"
        renamed = {text: other if name in {levels[at] for at in rare} else name for text, name in spellings.items()}
        action = f"merged as {other!r}"
        names = sorted({*(levels[at] for at in kept_classes), other}, key=numeric_first)
        code = np.array([names.index(other if at in rare else levels[at]) for at in range(len(levels))] + [-1])
        findings.append(Finding("rare class", label, total, observation, action))
        return code[codes], names, renamed
    else:
        action = "skipped"
    if len(kept_classes) < 2:
        problems.append(f"{observation}; fewer than 2 classes are left")
        return codes, levels, spellings
    findings.append(Finding("rare class", label, total, observation, action))
    code = np.array(
        [kept_classes.index(at) if at in kept_classes else -1 for at in range(len(levels))] + [-1], dtype=np.int64
    )
    names = [levels[at] for at in kept_classes]
    return code[codes], names, {text: name for text, name in renamed.items() if name in names}


def _unfit(column: Any, texts: Sequence[str], label: str) -> list[str]:
    """Return reasons why the values of a column are not classes."""
    from pandas.api import types

    if not types.is_float_dtype(column.dtype):
        return _fractions(_numbers(texts), len(texts), label)
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(values).any():
        return [f"the label column {label!r} holds inf: classes are texts or whole numbers"]
    return _fractions(values[np.isfinite(values)], len(texts), label)


def _numbers(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the values of labels that are numbers, with a decimal point or comma; none if any is another text."""
    import pyarrow as pa

    candidate = number_candidate(cleaned(pa.array(texts, pa.string()), ()))
    if candidate is None or candidate.percent is not None:
        return np.empty(0)
    values = numbers_of(candidate, chosen_format(candidate, "", ",")).to_numpy(dtype=np.float64)
    return np.asarray(values[np.isfinite(values)])


def _fractions(values: NDArray[np.float64], distinct: int, label: str) -> list[str]:
    """Return a message if there are so many fractions that they are a quantity rather than names of classes."""
    broken = values[values != np.floor(values)]
    if broken.size and distinct > _FRACTIONS:
        return [f"the label column {label!r} holds {broken[0]:g}: classes are texts or whole numbers"]
    return []
