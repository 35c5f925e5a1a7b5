"""Decisions of a review, applied to a table before it is fitted."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table import PreparedTable
from emphasis.errors import EmphasisValueError
from emphasis.review.decisions import Decisions

AS_GIVEN = "labels as given"
"""Name of the method that is trained on the labels before the review, for comparison."""


@dataclass(frozen=True, eq=False)
class ReviewedTable:
    """A table whose labels were reviewed.

    Attributes:
        table: The table with the labels after the review.
        before: (N,) given labels.
        trust: (N,) weights of the rows, which are larger where a person confirmed or corrected the label.
        digest: Digest of the labels and weights.
        finding: Summary of the changes in one sentence.
    """

    table: PreparedTable
    before: NDArray[np.int64]
    trust: NDArray[np.float64]
    digest: str
    finding: str


def apply_decisions(prepared: PreparedTable, decisions: Decisions | str | Path) -> ReviewedTable:
    """Return a table with the decisions of a review applied.

    Raises:
        EmphasisFileNotFoundError, JSONFileError: There are no decisions, or they are damaged.
        EmphasisValueError: The decisions are about other data, or name a class that the table does not have.
    """
    if not isinstance(decisions, Decisions):
        decisions = Decisions.read(decisions)
    names = prepared.classes
    labels, trust = decisions.apply(prepared.rows.tolist(), [names[code] for code in prepared.given])
    code_of = {name: code for code, name in enumerate(names)}
    if unknown := sorted(set(labels) - code_of.keys()):
        raise EmphasisValueError(
            f"the decisions name the class {unknown[0]!r}, which is not in the table; its classes are "
            f"{', '.join(names[:10])}"
        )
    given_codes = np.array([code_of[label] for label in labels], dtype=np.int64)
    digest = hashlib.sha256(given_codes.tobytes() + trust.tobytes()).hexdigest()[:16]
    changed, decided = int((given_codes != prepared.given).sum()), int((trust != 1.0).sum())
    finding = f"of {decided:,} reviewed labels, {changed:,} were corrected, and {decided - changed:,} confirmed"
    table = dataclasses.replace(prepared, given=given_codes)
    return ReviewedTable(table, prepared.given, trust, digest, finding)
