"""Corrected labels as columns, as a table, or as moves of image files between the folders of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from emphasis.datasets.table_source import ReadOptions, as_written, is_parquet
from emphasis.errors import EmphasisFileNotFoundError
from emphasis.files import naming_refusals, write_text
from emphasis.json_files import JSONFileError, read_json_lines
from emphasis.review.decisions import Decisions, Outcome
from emphasis.review.examples import Examples, ReviewError

TRUST = 2.0
"""Weight of a label that a person confirmed or corrected, relative to the weight 1 of an unreviewed label."""

_COLUMNS = ("before", "after", "decision", "reviewer", "comment", "trust_weight")


def label_columns(examples: Examples, decisions: Decisions, trust: float = TRUST) -> dict[str, list[Any]]:
    """Return the label of every example before and after the review, its reviewers, and its trust weight.

    The trust weight is `trust` where a label was confirmed or corrected, the audit's sample weight where it is suspect,
    unsure or disputed, and 1 otherwise.
    """
    outcomes = outcomes_by_index(examples, decisions)
    columns: dict[str, list[Any]] = {"row": examples.rows.tolist()}
    if examples.sources:
        columns["source"] = list(examples.sources)
    columns |= {name: [] for name in _COLUMNS}
    for index, label in enumerate(examples.labels.tolist()):
        outcome, before = outcomes.get(index), examples.class_names[label]
        is_decided = outcome is not None and outcome.status in ("confirmed", "corrected")
        is_open = bool(examples.suspect[index]) if outcome is None else not is_decided
        columns["before"].append(before)
        columns["after"].append(before if outcome is None else outcome.label)
        columns["decision"].append("" if outcome is None else outcome.status)
        columns["reviewer"].append("" if outcome is None else ", ".join(outcome.reviewers))
        columns["comment"].append("" if outcome is None else outcome.comment)
        weight = trust if is_decided else float(examples.sample_weight[index]) if is_open else 1.0
        columns["trust_weight"].append(round(weight, 4))
    return columns


def outcomes_by_index(examples: Examples, decisions: Decisions) -> dict[int, Outcome]:
    """Return the outcome of each example with decisions.

    Raises:
        ReviewError: A decision is about an unknown example, or about another label than the example has.
    """
    outcomes = {}
    for key, outcome in decisions.outcomes().items():
        index = examples.index_of.get(key)
        if index is None:
            raise ReviewError(f"there is no example {key!r} in this audit; the decisions are about other data")
        label = examples.class_names[examples.labels[index]]
        if label != outcome.before:
            raise ReviewError(
                f"the decision about {key!r} is about the label {outcome.before!r}, but the audit's is {label!r}"
            )
        outcomes[index] = outcome
    return outcomes


def labels_frame(examples: Examples, decisions: Decisions, trust: float = TRUST) -> Any:
    """Return the cleaned labels as a pandas DataFrame.

    A table keeps all its columns and rows; its label column has the labels after the review, and LABEL_before,
    LABEL_after, LABEL_decision, LABEL_reviewer, LABEL_comment and LABEL_trust_weight are added. Rows that were not
    audited have the trust weight 0. Other data has one row for each example.

    Raises:
        DataError: The table can no longer be read.
        ReviewError: Decisions do not fit the examples, or the table already has such columns.
    """
    import pandas as pd

    columns = label_columns(examples, decisions, trust)
    if examples.data.get("kind") != "table":
        return pd.DataFrame(columns)
    label, file = str(examples.data["label"]), Path(examples.data["file"])
    table = as_written(file, ReadOptions(**examples.data.get("read", {})))
    added = {f"{label}_{name}": columns[name] for name in _COLUMNS}
    if existing := sorted(set(added) & set(table.frame.columns)):
        raise ReviewError(f"the table already has a column {existing[0]!r}; rename it")
    if label not in table.frame.columns or len(table.rows) <= 0:
        raise ReviewError(f"{file} no longer has a column {label!r}")
    positions = np.searchsorted(table.rows, examples.rows)
    if positions.max(initial=0) >= len(table.rows) or not np.array_equal(table.rows[positions], examples.rows):
        raise ReviewError(f"{file} has fewer rows than when it was audited")
    frame = table.frame.copy()
    cleaned: Any = frame[label].astype(object).to_numpy(copy=True)
    values = dict(enumerate(examples.class_names))
    if is_parquet(file):  # values of the type of the column
        values |= dict(zip(examples.labels.tolist(), cleaned[positions].tolist(), strict=True))
    by_name = {name: values[code] for code, name in enumerate(examples.class_names)}
    before, after = np.array(columns["before"], dtype=object), np.array(columns["after"], dtype=object)
    for changed in np.flatnonzero(before != after):
        cleaned[positions[changed]] = by_name.get(after[changed], after[changed])
    frame[label] = cleaned
    for name, column_values in added.items():
        spread: Any = np.zeros(len(frame)) if name.endswith("_trust_weight") else np.full(len(frame), "", dtype=object)
        spread[positions] = column_values
        frame[name] = spread
    return frame.infer_objects()


@dataclass(frozen=True)
class Move:
    """A file to move, both paths relative to the folder of the images."""

    source: str
    target: str


def plan_moves(examples: Examples, decisions: Decisions) -> list[Move]:
    """Return the moves of image files to the folders of their corrected classes.

    Raises:
        ReviewError: The examples are not in folders of classes, or decisions do not fit them.
    """
    folder = image_folder(examples)
    moves: list[Move] = []
    targets: set[PurePosixPath] = set()
    for index, outcome in sorted(outcomes_by_index(examples, decisions).items()):
        if outcome.status != "corrected":
            continue
        source = PurePosixPath(examples.sources[index])
        parts = list(source.parts)
        if outcome.before not in parts[:-1]:
            raise ReviewError(
                f"{source} is not in a folder {outcome.before!r}; only images in folders of classes can be moved"
            )
        if outcome.label in (".", "..") or any(mark in outcome.label for mark in ("/", "\\", "\0")):
            raise ReviewError(f"the class {outcome.label!r} cannot be the name of a folder")
        parts[parts.index(outcome.before)] = outcome.label
        if source.is_absolute() or ".." in parts:
            raise ReviewError(f"{source} lies outside of {folder}")
        target = _free_name(folder, PurePosixPath(*parts), targets)
        targets.add(target)
        moves.append(Move(str(source), str(target)))
    return moves


def image_folder(examples: Examples) -> Path:
    """Return the folder of the images.

    Raises:
        ReviewError: The examples are not files in a folder.
    """
    if examples.data.get("kind") != "images":
        raise ReviewError("only files of a folder of images can be moved; export a table instead (--out FILE.csv)")
    return Path(examples.data["folder"])


def _free_name(folder: Path, target: PurePosixPath, targets: set[PurePosixPath]) -> PurePosixPath:
    """Return the path of a file that does not exist, with a number appended if necessary."""
    candidate, number = target, 1
    while candidate in targets or (folder / candidate).exists():
        number += 1
        candidate = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return candidate


def apply_moves(moves: Sequence[Move], folder: Path, journal_folder: Path) -> Path:
    """Move files, and return the journal with which `undo_moves` moves them back.

    The journal is on disk before the first file is moved. No file is replaced.

    Raises:
        ReviewError: A file is missing, or its target exists; no file is moved.
        EmphasisOSError: A file cannot be moved; the journal has those that were moved before.
    """
    for move in moves:
        if not (folder / move.source).is_file():
            raise ReviewError(f"{folder / move.source} is missing; nothing was moved")
        if (folder / move.target).exists():
            raise ReviewError(f"{folder / move.target} exists; nothing was moved")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    journal = journal_folder / f"moves-{stamp}.jsonl"
    lines = [{"folder": str(folder)}, *({"from": move.source, "to": move.target} for move in moves)]
    write_text(journal, "".join(json.dumps(line) + "\n" for line in lines))
    for move in moves:
        _move(folder, move.source, move.target)
    return journal


def undo_moves(journal: Path) -> int:
    """Move the files of a journal back, and return their number; files that were not moved are ignored.

    Raises:
        EmphasisFileNotFoundError, JSONFileError: The journal does not exist, or is damaged.
        ReviewError: Another file exists at the original path of a file.
    """
    if not journal.is_file():
        raise EmphasisFileNotFoundError(f"there is no journal of moves {journal}")
    records = [(where, record) for where, record in read_json_lines(journal)]
    if not records or not isinstance(records[0][1].get("folder"), str):
        raise JSONFileError(f"{journal} is not a journal of moves")
    folder, moved = Path(records[0][1]["folder"]), 0
    for where, record in reversed(records[1:]):
        source, target = record.get("from"), record.get("to")
        if not isinstance(source, str) or not isinstance(target, str):
            raise JSONFileError(f"{where}: not a move")
        for name in (source, target):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise JSONFileError(f"{where}: {name} lies outside of {folder}")
        if not (folder / target).is_file():
            continue
        if (folder / source).exists():
            raise ReviewError(f"{folder / source} exists; move it away, and undo again")
        _move(folder, target, source)
        moved += 1
    return moved


def _move(folder: Path, source: str, target: str) -> None:
    with naming_refusals("move", folder / source):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).rename(folder / target)
