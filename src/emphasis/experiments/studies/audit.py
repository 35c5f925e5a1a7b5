"""Audits: which labels look wrong. One network is trained on all of them, and what it made of each label is ranked.

For a table, a forest is trained as well (`emphasis.experiments.studies.forest`).

The folder of an audit is that of a run of one network, and holds in addition

    suspects.csv         one line per example, from the most to the least suspicious
    examples.json, .npz  what a review needs of the examples
    audit.json           counts and rates
    rates/               networks that the learning rate was chosen by
    audit.html           the page
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets import ImageFiles, Split
from emphasis.datasets.errors import DataError
from emphasis.diagnostics.suspects import find_suspects, margin_of
from emphasis.diagnostics.trace import ABOUT, read_trace
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.recipe import Method, Recipe
from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, SILENT, Reporter, RunContext, WithoutMessages
from emphasis.experiments.runs.data import corrupted, load_split
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import (
    CELLS,
    EXAMPLE_ARRAYS,
    RUN,
    FolderError,
    acquire,
    finished_rows,
    probabilities,
    stored_recipe,
)
from emphasis.experiments.studies.audit_result import BY_TRAINING, BY_TRAINING_AND_FOREST, Audit
from emphasis.experiments.studies.example_data import pictures_of, where_examples_lie
from emphasis.experiments.studies.forest import mean_over_training, out_of_bag_probabilities, with_forest
from emphasis.experiments.studies.own_data import single_method_recipe
from emphasis.experiments.studies.rates import needs_rate, with_best_rate
from emphasis.experiments.studies.threads import with_idle_threads
from emphasis.files import naming_refusals
from emphasis.review.examples import likeliest_classes
from emphasis.weighting import Weighting
from emphasis.weighting.serialise import is_named, named_from_dict

RATES = "rates"
_METHOD = "audit"
_EVALUATIONS = 20
_RESAMPLING = ("pn_ratio", "long_tail")  # kinds of noise that remove examples and leave all labels right


def audit_recipe(
    recipe: Recipe,
    weighting: Weighting,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
    *,
    condition: str = "",
    noise_rate: float | None = None,
    seeds: int = 1,
    iterations: int | None = None,
) -> tuple[Recipe, Split]:
    """Return the recipe of the network that an audit trains, and its data.

    Args:
        recipe: Recipe whose data, noise, network and solver are used.
        weighting: Weighting to train with; it is normalized by its integral.
        context: Where the data is.
        reporter: Receives the progress of loading the data.
        condition: Condition of the recipe; "" for the first.
        noise_rate: Rate of symmetric noise to put on the labels, to measure how much of it is found; None for the
            noise of the recipe.
        seeds: Number of networks, each with noise of its own if there is noise; `audit` ranks by the first.
        iterations: Number of training steps; None for the recipe's, or for what suits the size of a table or folder.

    Raises:
        RecipeError, DataError, ValueError: As `Recipe.cells` and `load_split`.
    """
    single, split = single_method_recipe(
        recipe, _method(weighting), context, reporter, condition=condition, noise_rate=noise_rate, iterations=iterations
    )
    return dataclasses.replace(as_audit_recipe(single, split, weighting), seeds=seeds), split


def as_audit_recipe(recipe: Recipe, split: Split, weighting: Weighting) -> Recipe:
    """Return the audit of a recipe of one network, as `single_method_recipe` returns it together with its data.

    Raises:
        RecipeError: If images that cannot be decoded are to be skipped.
    """
    if isinstance(split.train_inputs, ImageFiles) and split.train_inputs.skip_broken:
        raise RecipeError('an audit ranks every image; use broken = "stop", and repair or remove broken images')
    steps = next(recipe.cells()).solver.iterations
    evaluation = {"every": max(1, steps // _EVALUATIONS), "trace": True, "train_size": 0}
    traced = recipe.changed({f"evaluation.{name}": value for name, value in evaluation.items()})
    return dataclasses.replace(traced, name=f"{recipe.name}-audit", methods=(_method(weighting),), baseline=_METHOD)


def _method(weighting: Weighting) -> Method:
    return Method(_METHOD, weighting=weighting.to_dict(), normalization="integral")


def audit(
    recipe: Recipe,
    split: Split,
    folder: Path,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
    *,
    force: bool = False,
) -> Audit:
    """Train the network of `audit_recipe`, unless `folder` holds it already, and rank the labels.

    If the learning rate is to be chosen by the data, networks are first trained for that, in a folder of their own.

    Args:
        recipe: The recipe that `audit_recipe` returns.
        split: Its data.
        folder: Folder of the audit.
        context: How the networks are trained.
        reporter: Receives progress and messages.
        force: Whether everything is trained anew.

    Raises:
        FolderError: If the folder holds something else.
        ValueError: If the network diverged.
    """
    if not force and has_changed(folder, recipe):
        reporter.message("the data has changed since the last audit: training anew")
        force = True
    with naming_refusals("write to", folder):
        acquire(folder, recipe, force, context.locks)  # before anything is written to it
    context = with_idle_threads(context, next(recipe.cells()), folder / CELLS)
    if needs_rate(recipe):
        recipe = with_best_rate(recipe, split, folder / RATES, context, WithoutMessages(reporter), force=force)
        rate = next(recipe.cells()).solver.learning_rate
        reporter.message(f"learning rate {rate:g}, chosen by held-out labels")
    run(recipe, folder, context, reporter)
    return read_audit(recipe, split, folder)


def has_changed(folder: Path, recipe: Recipe) -> bool:
    """Return whether the data has changed since the run of `recipe` in `folder`; False if there is no run.

    Raises:
        FolderError: If the run is of other data.
    """
    if not (folder / RUN).exists():
        return False
    earlier = stored_recipe(folder)
    changed = earlier.name == recipe.name and earlier.source != recipe.source
    if changed and _data_settings(earlier) != _data_settings(recipe):
        raise FolderError(
            f"{folder} holds work on other data or columns; use another folder (--out), or replace it "
            "(--force, force=True)"
        )
    return changed


def _data_settings(recipe: Recipe) -> Any:
    cell = next(recipe.cells())
    return dataclasses.replace(cell.dataset, validation=0.0, validation_labels="true", fold=0), cell.noise


def read_audit(recipe: Recipe, split: Split, folder: Path, seed: int = 0) -> Audit:
    """Rank the labels by one of the networks in `folder`.

    Raises:
        ValueError: If the network diverged.
    """
    cell = next(cell for cell in recipe.cells() if cell.seed == seed)
    row = finished_rows(folder)[cell.key]
    if row["diverged_at"] is not None:
        raise EmphasisValueError(
            f"the network diverged at iteration {row['diverged_at']:,}: use another weighting, or a smaller "
            "solver.learning_rate"
        )
    return _rank(recipe.title, cell, row, split, folder)


def audit_of_network(
    title: str, cell: Cell, row: Mapping[str, Any], folder: Path, root: Path | None = None
) -> Audit | None:
    """Rank the labels by one network of a run that recorded a trace (evaluation.trace).

    Args:
        title: Title of the page.
        cell: Settings of the network.
        row: Its line of results.
        folder: Folder of the run.
        root: Folder of the data sets.

    Returns:
        The result, or None if the trace or the data does not exist any more, or the data has changed.

    Raises:
        FolderError: If the trace is damaged.
    """
    if not (folder / CELLS / f"{row['job']}.npz").exists():  # results that were copied without their cells
        return None
    options = {name: value for name, value in cell.dataset.options.items() if name != "download"}
    cell = dataclasses.replace(cell, seed=row["seed"], dataset=dataclasses.replace(cell.dataset, options=options))
    try:
        split = load_split(cell.dataset, cell.noise, RunContext(root=root))
    except DataError:
        return None
    try:
        return _rank(title, cell, row, split, folder)
    except _OtherDataError:
        return None


class _OtherDataError(FolderError):
    """The data has changed since the network was trained on it."""


def _rank(title: str, cell: Cell, row: Mapping[str, Any], split: Split, folder: Path) -> Audit:
    """Rank the labels by the trace of a network that has not diverged."""
    stored = probabilities(folder, dict(row))
    file = folder / CELLS / f"{row['job']}.npz"
    if len(stored.get("trace", ())) != len(row["curves"]["iteration"]):
        raise FolderError(
            f"{file} has another number of evaluations than the line of its network; delete {row['job']}.* and run "
            "again"
        )
    labels = _stored_labels(split, cell, stored, file)
    rows = np.asarray(stored["index"], dtype=np.int64)
    pictures = pictures_of(split, rows)
    # The first evaluation is of the untrained network.
    margins, predicted = [margin_of(p) for p in stored["trace"][1:]], list(stored["predicted"][1:])
    suspects = find_suspects(margins, predicted, labels, split.num_classes)
    of_examples = {name: stored.get(name) for name in EXAMPLE_ARRAYS}
    method = BY_TRAINING
    if cell.dataset.name == "table":
        groups = None if split.groups is None else split.groups[rows]
        forest = out_of_bag_probabilities(
            np.asarray(split.train_inputs)[rows], labels, split.num_classes, groups, seed=cell.seed
        )
        network = mean_over_training(margins, predicted, labels, split.num_classes)
        suspects, mean = with_forest(suspects, network, forest, labels)
        of_examples["top_classes"], of_examples["top_probabilities"] = likeliest_classes(mean)
        method = BY_TRAINING_AND_FOREST
    return Audit(
        title=title,
        labels=labels,
        class_names=split.class_names or tuple(str(c) for c in range(split.num_classes)),
        rows=rows if split.rows is None else split.rows[rows],
        suspects=suspects,
        at=row["curves"]["iteration"][1:],
        unit="iteration",
        margins=margins,
        weighting=_known_weighting(getattr(cell.objective, "weighting", None)),
        wrong=None if cell.noise.kind in ("none", *_RESAMPLING) else np.asarray(stored["noisy"], dtype=bool),
        sources=tuple(split.sources[r] for r in rows) if split.sources else (),
        pictures=pictures,
        method=method,
        about=_describe_training(cell, row, len(margins)),
        notes=split.notes,
        data=where_examples_lie(cell.dataset, split, pictures is not None),
        **of_examples,
    )


def _describe_training(cell: Cell, row: Mapping[str, Any], evaluations: int) -> str:
    return (
        f"Network {cell.network.name}, {cell.solver.iterations:,} steps of {cell.solver.batch_size} examples, "
        f"learning rate {cell.solver.learning_rate:g}, evaluated {evaluations} times; seed {cell.seed}; "
        f"{row['seconds']:.0f} s on {row['device']}; revision {row['revision'] or 'unknown'}."
    )


def _stored_labels(split: Split, cell: Cell, stored: Mapping[str, NDArray[Any]], file: Path) -> NDArray[np.int64]:
    """Return the labels that a network was trained on.

    Files of earlier versions do not hold them; the noise is then computed again.

    Raises:
        _OtherDataError: If the data is not the same as then.
    """
    rows = np.asarray(stored["index"], dtype=np.int64)
    if "labels" in stored:
        labels = np.asarray(stored["labels"], dtype=np.int64)
        same = rows.max(initial=-1) < len(split.train_labels) and labels.max(initial=0) < split.num_classes
    else:
        noisy = corrupted(split, cell.noise, cell.seed)
        labels, same = noisy.labels, np.array_equal(noisy.index, rows)
    if not (same and np.array_equal(labels != split.train_labels[rows], stored["noisy"])):
        raise _OtherDataError(f"{file} is of other data than the present; run again with --force")
    return labels


def _known_weighting(weighting: Weighting | None) -> Weighting | None:
    """Return a weighting, or None if there is none or only its name is known."""
    return None if weighting is None or is_named(weighting) else weighting


def is_trace(folder: Path) -> bool:
    """Return whether `folder` holds a trace."""
    return (folder / ABOUT).is_file()


def audit_trace(folder: Path) -> Audit:
    """Rank the labels of a trace that `EmphasisTrace` recorded in a training loop.

    Functions that the trace refers to are not imported: the page then shows the name of the weighting only.

    Raises:
        TraceError: If there is no trace, or it is damaged.
        ValueError: If some examples were never recorded.
    """
    trace = read_trace(folder)
    all_labels = np.asarray(trace.labels)
    rows = np.flatnonzero(all_labels != trace.about["ignore_index"])
    labels, classes = all_labels[rows], trace.about["num_classes"]
    margins = [np.asarray(margin)[rows] for margin in trace.margins]
    predicted = [np.asarray(prediction)[rows] for prediction in trace.predicted]
    recorded = trace.about["weighting"]
    weighting = named_from_dict(recorded) if isinstance(recorded, dict) else None
    about = f"A trace of {len(margins)} rows, {len(trace.steps):,} steps, with {weighting or recorded}"
    if ignored := len(all_labels) - len(rows):
        about += f"; {ignored:,} of {len(all_labels):,} examples were ignored or never recorded"
    return Audit(
        title=f"The trace in {folder}",
        labels=labels,
        class_names=tuple(str(c) for c in range(classes)),
        rows=rows,
        suspects=find_suspects(margins, predicted, labels, classes),
        at=range(1, len(margins) + 1),
        unit="row of the trace",
        margins=margins,
        weighting=_known_weighting(weighting),
        about=f"{about}.",
    )
