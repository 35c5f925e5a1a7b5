"""Which labels look wrong: one network is trained on all of them, and what it made of each is ranked.

The folder of an audit is that of a run of one network, and besides

    suspects.csv         one line per example, from the most to the least suspicious
    audit.json           what was found, in numbers
    rates/               networks by which the learning rate was found
    audit.html           the page
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from emphasis.datasets import ImageFiles, Split
from emphasis.datasets.download import Progress, silent
from emphasis.datasets.errors import DataError
from emphasis.diagnostics.suspects import Suspects, find_suspects, found_and_right, margin_of
from emphasis.diagnostics.trace import ABOUT, read_trace
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.recipe import Method, Recipe
from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.data import corrupted, load_split
from emphasis.experiments.runs.jobs import Say
from emphasis.experiments.runs.runner import JobProgress, run
from emphasis.experiments.runs.store import (
    CELLS,
    RUN,
    FolderError,
    claim,
    finished_rows,
    probabilities,
    stored_recipe,
    without_nan,
)
from emphasis.experiments.studies.own_data import with_method
from emphasis.experiments.studies.rates import at_best_rate, is_to_be_found
from emphasis.files import naming_refusals, write_text
from emphasis.texts import encodable
from emphasis.training.settings import Execution
from emphasis.weighting import Weighting
from emphasis.weighting.serialise import is_named, named_from_dict

SUSPECTS, AUDIT, PAGE, RATES = "suspects.csv", "audit.json", "audit.html", "rates"
_METHOD = "audit"
_LOOKS = 20


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit has found; n examples, E looks at them during training.

    Attributes:
        title: What was audited.
        labels: (n,) the labels as given.
        class_names: C names.
        rows: (n,) which of the data's examples these are.
        suspects: The ranking.
        at: (E,) when the looks were.
        unit: What `at` counts.
        margins: (E, n).
        weighting: Trained with; None if it is not known, or known by name only.
        wrong: (n,) which labels are wrong, if that is known.
        sources: n texts, where the examples come from; or none.
        pictures: (n, ...) uint8 images or vectors that are pictures; None if they are none.
        about: How it was made.
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
    about: str = ""

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """What was found in numbers; those that need to know what is wrong only where it is known."""
        found: dict[str, Any] = {
            "examples": len(self.labels),
            "classes": len(self.class_names),
            "suspects": int(self.suspects.suspect.sum()),
            "estimated_noise_rate": self.suspects.noise_rate,
        }
        if self.wrong is not None:
            precision, recall = found_and_right(self.suspects.suspect, self.wrong)
            both = 0 < self.wrong.sum() < len(self.wrong)
            found |= {
                "true_noise_rate": float(self.wrong.mean()),
                "auroc": float(roc_auc_score(self.wrong, -self.suspects.score)) if both else math.nan,
                "average_precision": (
                    float(average_precision_score(self.wrong, -self.suspects.score)) if both else math.nan
                ),
                "precision": float(precision),
                "recall": float(recall),
            }
        return found

    def name_of(self, label: int) -> str:
        """Return a class's name."""
        return self.class_names[label]


def prepared(
    recipe: Recipe, weighting: Weighting, *, condition: str = "", noise_rate: float | None = None, seeds: int = 1,
    iterations: int | None = None, root: Path | None = None, loading: Progress = silent,
) -> tuple[Recipe, Split]:  # fmt: skip
    """Return the recipe of the one network that an audit trains, and its data.

    Args:
        recipe: Its data, noise, network and solver are taken; of a recipe with several conditions, one's.
        weighting: To train with, with the integral normalisation.
        condition: Which column; "": the first.
        noise_rate: Put symmetric noise of this rate on the labels, to see what is found of it; None: as the recipe.
        seeds: Networks, each with noise of its own if there is noise; `audit` looks at the first.
        iterations: Steps; None: the recipe's, and for a table or a folder what suits the number of examples.
        root: Where data sets are.
        loading: Told how far the data is loaded.

    Raises:
        RecipeError, DataError, ValueError: As `Recipe.cells` and `load_split`.
    """
    method = Method(_METHOD, weighting=weighting.to_dict(), normalization="integral")
    one, split = with_method(
        recipe, method, condition=condition, noise_rate=noise_rate, iterations=iterations, root=root, loading=loading
    )
    return dataclasses.replace(as_audit(one, split, weighting), seeds=seeds), split


def as_audit(one: Recipe, split: Split, weighting: Weighting) -> Recipe:
    """Return the audit of a recipe of one network, from `with_method` as its data is.

    Raises:
        RecipeError: Images that cannot be decoded are to be passed over.
    """
    if isinstance(split.train_inputs, ImageFiles) and split.train_inputs.skip_broken:
        raise RecipeError('an audit ranks every image; use broken = "stop", and mend or remove what cannot be decoded')
    steps = next(one.cells()).solver.iterations
    looks = {"every": max(1, steps // _LOOKS), "trace": True, "train_size": 0}
    one = one.changed({f"evaluation.{name}": value for name, value in looks.items()})
    method = Method(_METHOD, weighting=weighting.to_dict(), normalization="integral")
    return dataclasses.replace(one, name=f"{one.name}-audit", methods=(method,), baseline=_METHOD)


def audit(
    recipe: Recipe, split: Split, folder: Path, *, root: Path | None = None, execution: Execution | None = None,
    force: bool = False, progress: JobProgress = lambda _job, _done, _total: None, say: Say = lambda _: None,
) -> Audit:  # fmt: skip
    """Train the network of `prepared`, unless `folder` holds it already, and rank the labels.

    If the recipe leaves the learning rate to be found, networks are trained for that first, in a folder of their own.

    Raises:
        FolderError: The folder holds something else.
        ValueError: The network diverged.
    """
    if not force and has_changed(folder, recipe):
        say("the data has changed since the last audit: training anew")
        force = True
    how: dict[str, Any] = {"root": root, "execution": execution, "progress": progress}
    if is_to_be_found(recipe):
        with naming_refusals("write to", folder):
            claim(folder, recipe, force)  # before anything is written beside it
        recipe = at_best_rate(recipe, split, folder / RATES, force=force, **how)
        say(f"learning rate {next(recipe.cells()).solver.learning_rate:g}, by held-out labels")
    run(recipe, folder, force=force, say=say, **how)
    return read_audit(recipe, split, folder)


def has_changed(folder: Path, recipe: Recipe) -> bool:
    """Return whether the data of the run of `recipe` in `folder` has changed since; False if there is none.

    Raises:
        FolderError: The run was of other data.
    """
    if not (folder / RUN).exists():
        return False
    earlier = stored_recipe(folder)
    changed = earlier.name == recipe.name and earlier.source != recipe.source
    if changed and _data_of(earlier) != _data_of(recipe):
        raise FolderError(f"{folder} holds work on other data or columns; choose another --out, or --force to "
                          "replace it")  # fmt: skip
    return changed


def _data_of(recipe: Recipe) -> Any:
    cell = next(recipe.cells())
    return dataclasses.replace(cell.dataset, validation=0.0, validation_labels="true", fold=0), cell.noise


def read_audit(recipe: Recipe, split: Split, folder: Path, seed: int = 0) -> Audit:
    """Rank the labels by one of the networks in `folder`.

    Raises:
        ValueError: It diverged.
    """
    cell = next(cell for cell in recipe.cells() if cell.seed == seed)
    row = finished_rows(folder)[cell.key]
    if row["diverged_at"] is not None:
        raise EmphasisValueError(
            f"the network diverged at iteration {row['diverged_at']:,}: use another --weighting, or a "
            "smaller --set solver.learning_rate"
        )
    return _read(recipe.title, cell, row, split, folder)


def audit_of_network(
    title: str, cell: Cell, row: Mapping[str, Any], folder: Path, root: Path | None = None
) -> Audit | None:
    """Rank the labels by one network of a run that kept a record of its training (evaluation.trace).

    Args:
        title: Of the page.
        cell: The network's settings.
        row: Its line of results.
        folder: The run's folder.
        root: Where the data is.

    Returns:
        None if the record or the data is not there any more, or the data has changed since.

    Raises:
        FolderError: The record is damaged.
    """
    if not (folder / CELLS / f"{row['job']}.npz").exists():  # results kept apart from their run
        return None
    options = {name: value for name, value in cell.dataset.options.items() if name != "download"}
    cell = dataclasses.replace(cell, seed=row["seed"], dataset=dataclasses.replace(cell.dataset, options=options))
    try:
        split = load_split(cell.dataset, cell.noise, root)
    except DataError:
        return None
    try:
        return _read(title, cell, row, split, folder)
    except _OtherDataError:
        return None


class _OtherDataError(FolderError):
    """The data has changed since the network was trained on it."""


def _read(title: str, cell: Cell, row: Mapping[str, Any], split: Split, folder: Path) -> Audit:
    """Rank the labels by what a network of a run, which has not diverged, made of them."""
    kept = probabilities(folder, dict(row))
    file = folder / CELLS / f"{row['job']}.npz"
    if len(kept.get("trace", ())) != len(row["curves"]["iteration"]):
        raise FolderError(f"{file} has another number of looks than the line of its network; delete {row['job']}.* and "
                          "run again")  # fmt: skip
    rows = np.asarray(kept["index"], dtype=np.int64)
    labels = _labels(split, cell, rows, kept["noisy"], file)
    margins = [margin_of(p) for p in kept["trace"][1:]]  # the first look is at the untrained network
    noisy = np.asarray(kept["noisy"], dtype=bool)
    return Audit(
        title=title,
        labels=labels,
        class_names=split.class_names or tuple(str(c) for c in range(split.num_classes)),
        rows=rows,
        suspects=find_suspects(margins, list(kept["predicted"][1:]), labels, split.num_classes),
        at=row["curves"]["iteration"][1:],
        unit="iteration",
        margins=margins,
        weighting=_with_values(getattr(cell.objective, "weighting", None)),
        wrong=noisy if cell.noise.kind not in ("none", "pn_ratio", "long_tail") else None,
        sources=tuple(split.sources[r] for r in rows) if split.sources else (),
        pictures=_pictures(split, rows),
        about=_how(cell, row, len(margins)),
    )  # fmt: skip


def _how(cell: Cell, row: Mapping[str, Any], looks: int) -> str:
    return (
        f"Network {cell.network.name}, {cell.solver.iterations:,} steps of {cell.solver.batch_size} examples, "
        f"learning rate {cell.solver.learning_rate:g}, looked at {looks} times; seed {cell.seed}; "
        f"{row['seconds']:.0f} s on {row['device']}; revision {row['revision'] or 'unknown'}."
    )


def _labels(split: Split, cell: Cell, rows: NDArray[np.int64], noisy: NDArray[Any], file: Path) -> NDArray[np.int64]:
    """Return the labels trained on, noise of the cell's seed included.

    Raises:
        FolderError: They are not those that `file` was made of.
    """
    found = corrupted(split, cell.noise, cell.seed)
    if not np.array_equal(found.index, rows) or not np.array_equal(found.labels != split.train_labels[rows], noisy):
        raise _OtherDataError(f"{file} is of other data than is there now; run again with --force")
    return found.labels


def _with_values(weighting: Weighting | None) -> Weighting | None:
    """Return a weighting, or None if there is none or it is known by name only."""
    return None if weighting is None or is_named(weighting) else weighting


def _pictures(split: Split, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    if split.train_inputs.dtype == np.uint8:
        return np.asarray(split.train_inputs[rows])
    if split.picture is not None:
        grey = (255.0 * (1.0 - np.asarray(split.train_inputs[rows]))).clip(0, 255).astype(np.uint8)
        return np.asarray(grey.reshape(-1, 1, *split.picture))
    return None


def audit_trace(folder: Path) -> Audit:
    """Rank the labels of a trace that a loop of one's own has recorded.

    Functions that it names are not imported: the page then shows the name, and not what was emphasised.

    Raises:
        TraceError: There is none, or it is damaged.
        ValueError: Some examples were never seen.
    """
    trace = read_trace(folder)
    labels = np.asarray(trace.labels)
    rows = np.flatnonzero(labels != trace.about["ignore_index"])
    margins = [np.asarray(row)[rows] for row in trace.margins]
    said = trace.about["weighting"]
    weighting = named_from_dict(said) if isinstance(said, dict) else None
    return Audit(
        title=f"The trace in {folder}",
        labels=labels[rows],
        class_names=tuple(str(c) for c in range(trace.about["num_classes"])),
        rows=rows,
        suspects=find_suspects(
            margins, [np.asarray(row)[rows] for row in trace.predicted], labels[rows], trace.about["num_classes"]
        ),
        at=range(1, len(margins) + 1),
        unit="row of the trace",
        margins=margins,
        weighting=_with_values(weighting),
        about=f"A trace of {len(margins)} rows, {len(trace.steps):,} steps, with {weighting or said}"
        + (
            f"; {len(labels) - len(rows):,} of {len(labels):,} examples were ignored or never recorded."
            if len(rows) < len(labels)
            else "."
        ),
    )


def is_trace(folder: Path) -> bool:
    """Return whether `folder` holds a trace."""
    return (folder / ABOUT).is_file()


def write_audit(found: Audit, folder: Path, page: Callable[[Audit], str]) -> None:
    """Write suspects.csv, audit.json and the page into `folder`.

    Raises:
        EmphasisOSError: It cannot be written to.
    """
    with naming_refusals("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SUSPECTS, suspects_csv(found))
    write_text(folder / AUDIT, json.dumps(without_nan(found.numbers), indent=1) + "\n")
    write_text(folder / PAGE, page(found))


def suspects_csv(found: Audit) -> str:
    """Return the columns of `suspects_table` as CSV, numbers with four decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = suspects_table(found)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row])
    return encodable(text.getvalue())


def suspects_table(found: Audit) -> dict[str, list[Any]]:
    """Return columns of one value per example, ranked: row, source, given and suggested label, score, verdict."""
    s, order = found.suspects, found.suspects.order
    given = [found.name_of(label) for label in found.labels[order]]
    suggested = [found.name_of(label) for label in s.suggested[order]]
    suspect = [int(one) for one in s.suspect[order]]
    return {
        "rank": list(range(1, len(order) + 1)),
        "row": found.rows[order].tolist(),
        **({"source": [found.sources[place] for place in order]} if found.sources else {}),
        "given": given,
        "suggested": suggested,
        "suspect": suspect,
        "cleaned": [new if wrong else old for old, new, wrong in zip(given, suggested, suspect, strict=True)],
        "score": s.score[order].tolist(),
        "sample_weight": s.sample_weight[order].tolist(),
    }
