"""The learning rate for a data set: a method is trained at several rates, and held-out labels as given choose one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from emphasis.datasets import Split
from emphasis.experiments.recipes.convert import overridden
from emphasis.experiments.recipes.recipe import Recipe, Table
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, SILENT, Reporter, RunContext
from emphasis.experiments.runs.jobs import is_stackable
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import Row
from emphasis.experiments.studies.accuracy import final_accuracy
from emphasis.learning_rate import HELD_OUT, RATES, best_rate, can_be_found, middle_rate

_PLACEHOLDER = 5e-324  # a learning rate that nobody would train with
CHOSEN_BY_DATA: Table = {"learning_rate": _PLACEHOLDER, "schedule": {"policy": "cosine"}}
"""Settings of a solver whose learning rate is to be chosen by the data, and falls to 0."""

_FOLDS = 2  # for perceptrons, which all train at once
_MANY = 10_000  # examples, of which one fold holds out enough
_STEPS_FRACTION = 0.2  # for networks that train one by one


def with_rate_chosen_by_data(recipe: Recipe) -> Recipe:
    """Return the recipe with a learning rate to be chosen, in the conditions where its schedule is constant."""
    constant = {cell.condition for cell in recipe.cells() if cell.solver.schedule.policy == "constant"}
    conditions = (
        replace(condition, solver=overridden(condition.solver, CHOSEN_BY_DATA))
        if condition.name in constant
        else condition
        for condition in recipe.conditions
    )
    return replace(recipe, conditions=tuple(conditions))


def needs_rate(recipe: Recipe) -> bool:
    """Return whether the learning rate of a recipe of one condition is still to be chosen."""
    return next(recipe.cells()).solver.learning_rate == _PLACEHOLDER


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """Return the recipe with a learning rate."""
    return recipe.changed({"solver.learning_rate": rate})


def with_best_rate(
    recipe: Recipe,
    split: Split,
    folder: Path,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
    *,
    force: bool = False,
) -> Recipe:
    """Return the recipe with the learning rate that suits its data and method best, if that is to be chosen.

    Args:
        recipe: Recipe of one condition and one method.
        split: Its data.
        folder: Folder of the networks that are trained for the choice.
        context: How they are trained.
        reporter: Receives progress and messages.
        force: Whether they are trained anew.
    """
    if not needs_rate(recipe):
        return recipe
    first = next(recipe.cells())
    if not can_be_found(len(split.train_labels), split.num_classes):
        return with_rate(recipe, middle_rate(first.solver.name))
    candidates = replace(recipe, name=f"{recipe.name}-rates", seeds=1)
    fraction, folds = (1.0, _FOLDS) if is_stackable(first) else (_STEPS_FRACTION, 1)
    if len(split.train_labels) >= _MANY:
        folds = 1
    rows = train_at_rates(candidates, folder, context, reporter, folds=folds, steps_fraction=fraction, force=force)
    return with_rate(recipe, best_of(rows))


def best_of(rows_by_rate: Mapping[float, Iterable[Row]]) -> float:
    """Return the learning rate whose networks predict most held-out labels."""
    return best_rate({rate: final_accuracy(list(rows))[0] for rate, rows in rows_by_rate.items()})


def train_at_rates(
    recipe: Recipe,
    folder: Path,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
    *,
    folds: int,
    steps_fraction: float = 1.0,
    force: bool = False,
) -> dict[float, list[Row]]:
    """Train a recipe at each candidate rate of its optimizer, or at its own rate if that is not to be chosen.

    Args:
        recipe: Recipe of one condition and one method.
        folder: Folder of the networks.
        context: How they are trained.
        reporter: Receives progress and messages.
        folds: Number of fifths of the training data that are held out, one after another.
        steps_fraction: Fraction of the training steps to take; the steps are longer by its inverse, so that networks
            go equally far.
        force: Whether earlier networks in the folder are replaced.

    Returns:
        The lines of each rate's networks, fold by fold and seed by seed.
    """
    cell = next(recipe.cells())
    rates = RATES[cell.solver.name] if needs_rate(recipe) else (cell.solver.learning_rate,)
    # Noise that removes examples cannot be put on held-out labels.
    labels = "true" if cell.noise.kind in ("pn_ratio", "long_tail") else "noisy"
    (method,) = recipe.methods
    methods = tuple(
        replace(
            method,
            name=f"{method.name} at {rate:g}",
            solver={**method.solver, "learning_rate": rate / steps_fraction},
        )
        for rate in rates
    )
    steps = max(1, round(steps_fraction * cell.solver.iterations))
    held_out = {
        "dataset.validation": HELD_OUT,
        "dataset.validation_labels": labels,
        "solver.iterations": steps,
        "evaluation.every": steps,
        "evaluation.trace": False,
    }
    rows_by_rate: dict[float, list[Row]] = {rate: [] for rate in rates}
    for fold in range(folds):
        part = recipe.changed({**held_out, "dataset.fold": fold})
        part = replace(part, methods=methods, baseline=methods[0].name)
        rows = run(part, folder, context, reporter, force=force and fold == 0)  # later folds keep the first
        for rate, candidate in zip(rates, methods, strict=True):
            rows_by_rate[rate] += [row for row in rows if row["method"] == candidate.name]
    return rows_by_rate
