"""What an audit finds: a ranking of labels by suspicion, as an object, as a table and as files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.diagnostics.suspects import Suspects, precision_recall
from emphasis.files import naming_refusals, write_text
from emphasis.review.examples import Examples, write_examples
from emphasis.texts import encodable
from emphasis.weighting import Weighting

SUSPECTS, AUDIT, PAGE = "suspects.csv", "audit.json", "audit.html"

BY_TRAINING = (
    "The score of an example is the mean margin log(p / (1 - p)) of its label over training. A label is a suspect if "
    "the network predicted one other class in more evaluations than the label."
)
BY_TRAINING_AND_FOREST = (
    "The score of an example is log(p / (1 - p)), where p is the probability of its label. Half of p is the network's "
    "mean over training, and half comes from a forest, from those trees that were not trained on the example. A label "
    "is a suspect if both contradict it: the network predicted one other class more often during training, and the "
    "forest finds another class more probable."
)
BY_PREDICTIONS = (
    "The score of an example is the margin log(p / (1 - p)) of its label. A label is a suspect if another class is "
    "predicted with confidence: with at least the mean probability that the examples labeled with this class have for "
    "it (confident learning)."
)


@dataclass(frozen=True, eq=False)
class Audit:
    """Result of an audit of n labels of C classes, from E evaluations of a network or one set of predictions.

    Attributes:
        title: Description of the data.
        labels: Labels as given, shape (n,), in [0, C).
        class_names: Names of the C classes.
        rows: Row of each label's example in the data, shape (n,).
        suspects: The ranking.
        at: Iteration of each of the E evaluations.
        unit: Unit of `at`, for figures.
        margins: Margins of the labels at each evaluation, E arrays of shape (n,).
        weighting: Weighting of the network; None if there is none, or it is known by name only.
        wrong: Which labels are wrong, shape (n,), or None if that is not known.
        sources: Where each example comes from, such as its file; empty if it does not come from a file.
        pictures: Images, uint8 of shape (n, ...), or None.
        method: What score and suspect mean.
        about: What was trained for the ranking.
        notes: What was odd about the data, such as rows that are skipped.
        data: Where the examples lie, as `emphasis.review.examples.Examples` describes it.
        top_classes: The likeliest classes of each example, shape (n, K), or None.
        top_probabilities: Their probabilities, shape (n, K), or None.
        features: Features of the examples, by which a review finds neighbors, shape (n, D), or None.
    """

    title: str
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    rows: NDArray[np.int64]
    suspects: Suspects
    at: Sequence[int]
    unit: str
    margins: Sequence[NDArray[Any]]
    weighting: Weighting | None
    wrong: NDArray[np.bool_] | None = None
    sources: tuple[str, ...] = ()
    pictures: NDArray[Any] | None = None
    method: str = BY_TRAINING
    about: str = ""
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=lambda: {"kind": "none"})
    top_classes: NDArray[np.int32] | None = None
    top_probabilities: NDArray[Any] | None = None
    features: NDArray[Any] | None = None

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """Counts and rates; if it is known which labels are wrong, also how well the ranking tells them apart."""
        numbers: dict[str, Any] = {
            "examples": len(self.labels),
            "classes": len(self.class_names),
            "suspects": int(self.suspects.suspect.sum()),
            "estimated_noise_rate": self.suspects.noise_rate,
        }
        if self.wrong is None:
            return numbers
        from sklearn.metrics import average_precision_score, roc_auc_score

        has_both = 0 < self.wrong.sum() < len(self.wrong)
        suspicion = -self.suspects.score
        precision, recall = precision_recall(self.suspects.suspect, self.wrong)
        return numbers | {
            "true_noise_rate": float(self.wrong.mean()),
            "auroc": float(roc_auc_score(self.wrong, suspicion)) if has_both else math.nan,
            "average_precision": float(average_precision_score(self.wrong, suspicion)) if has_both else math.nan,
            "precision": float(precision),
            "recall": float(recall),
        }

    def name_of(self, label: int) -> str:
        """Return the name of a class."""
        return self.class_names[label]

    def to_frame(self) -> Any:
        """Return the ranking as a pandas DataFrame, the most suspicious label first; see `suspects_table`."""
        import pandas as pd

        return pd.DataFrame(suspects_table(self))

    def to_examples(self) -> Examples:
        """Return what a review needs of the audit."""
        return Examples(
            title=self.title,
            class_names=self.class_names,
            labels=self.labels,
            suggested=self.suspects.suggested,
            suspect=self.suspects.suspect,
            score=self.suspects.score,
            sample_weight=self.suspects.sample_weight,
            rows=self.rows,
            sources=self.sources,
            data=self.data,
            top_classes=self.top_classes,
            top_probabilities=self.top_probabilities,
            features=self.features,
            pictures=self.pictures if self.data.get("kind") == "pictures" else None,
        )


def suspects_table(audit: Audit) -> dict[str, list[Any]]:
    """Return the ranking as columns, the most suspicious label first.

    Returns:
        rank, row, source (if known), given and suggested label, suspect (0 or 1), cleaned label, score, sample_weight.
    """
    order = audit.suspects.order
    columns = suspects_columns(audit.suspects, audit.labels, audit.class_names, audit.rows)
    ranked = {name: column[order].tolist() for name, column in columns.items()}
    sources = {"source": [audit.sources[example] for example in order]} if audit.sources else {}
    return {"rank": list(range(1, len(order) + 1)), "row": ranked.pop("row"), **sources, **ranked}


def suspects_columns(
    suspects: Suspects, labels: NDArray[np.int64], class_names: Sequence[str], rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return row, given and suggested label, suspect (0 or 1), cleaned label, score and weight of each label."""
    names = np.array(class_names, dtype=object)
    return {
        "row": rows,
        "given": names[labels],
        "suggested": names[suspects.suggested],
        "suspect": suspects.suspect.astype(np.int64),
        "cleaned": names[np.where(suspects.suspect, suspects.suggested, labels)],
        "score": suspects.score,
        "sample_weight": suspects.sample_weight,
    }


def suspects_csv(audit: Audit) -> str:
    """Return the columns of `suspects_table` as CSV, numbers with four decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = suspects_table(audit)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row])
    return encodable(text.getvalue())


def write_audit(audit: Audit, folder: Path, page: Callable[[Audit], str]) -> None:
    """Write suspects.csv, audit.json, the page, and what a review needs, into `folder`.

    Args:
        audit: The result.
        folder: The folder; created if it does not exist.
        page: Returns the page as HTML.

    Raises:
        EmphasisOSError: If the folder cannot be written to.
    """
    with naming_refusals("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
    numbers = {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in audit.numbers.items()
    }
    write_text(folder / SUSPECTS, suspects_csv(audit))
    write_text(folder / AUDIT, json.dumps(numbers, indent=1) + "\n")
    write_text(folder / PAGE, page(audit))
    write_examples(audit.to_examples(), folder)
