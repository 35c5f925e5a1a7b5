"""The learning rate for data of one's own: a method at a few rates, judged by held-out labels as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from emphasis.datasets import Split
from emphasis.experiments.recipes.convert import overridden
from emphasis.experiments.recipes.recipe import Recipe, Table
from emphasis.experiments.runs.jobs import is_stackable
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import Row
from emphasis.experiments.studies.search import final_accuracy
from emphasis.learning_rate import HELD_OUT, RATES, best_rate, can_be_found, middle_rate

_TO_BE_FOUND = 5e-324  # a learning rate that nobody would train at
LEFT_TO_THE_DATA: Table = {"learning_rate": _TO_BE_FOUND, "schedule": {"policy": "cosine"}}
"""Of a solver whose learning rate is to be found from the data, and falls to 0."""

_FOLDS = 2  # of perceptrons, all of which train at once
_SHARE = 0.2  # of the steps, of networks that train one by one


def left_to_the_data(recipe: Recipe) -> Recipe:
    """Return a recipe whose learning rate is to be found and falls to 0, in the conditions where it was constant."""
    constant = {cell.condition for cell in recipe.cells() if cell.solver.schedule.policy == "constant"}
    columns = (
        replace(column, solver=overridden(column.solver, LEFT_TO_THE_DATA)) if column.name in constant else column
        for column in recipe.conditions
    )
    return replace(recipe, conditions=tuple(columns))


def is_to_be_found(recipe: Recipe) -> bool:
    """Return whether the rate of a recipe of one condition is to be found."""
    return next(recipe.cells()).solver.learning_rate == _TO_BE_FOUND


def at_best_rate(recipe: Recipe, split: Split, folder: Path, **how: Any) -> Recipe:
    """Return a recipe of one condition and method at the rate that suits both, if that is to be found.

    Args:
        recipe: What is to be trained.
        split: Its data.
        folder: Where the networks of the search are kept.
        how: As `runner.run` takes it.
    """
    if not is_to_be_found(recipe):
        return recipe
    first = next(recipe.cells())
    if not can_be_found(len(split.train_labels), split.num_classes):
        return with_rate(recipe, middle_rate(first.solver.name))
    named = replace(recipe, name=f"{recipe.name}-rates", seeds=1)
    share, folds = (1.0, _FOLDS) if is_stackable(first) else (_SHARE, 1)
    return with_rate(recipe, best_of(at_rates(named, folder, folds=folds, share=share, **how)))


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """Return a recipe at a learning rate."""
    return recipe.changed({"solver.learning_rate": rate})


def best_of(found: Mapping[float, Iterable[Row]]) -> float:
    """Return the rate whose networks are right about most held-out labels."""
    return best_rate({rate: final_accuracy(list(rows))[0] for rate, rows in found.items()})


def at_rates(recipe: Recipe, folder: Path, *, folds: int, share: float = 1.0, **how: Any) -> dict[float, list[Row]]:
    """Train a recipe at each of its optimizer's rates, or at its own if that is not to be found.

    Args:
        recipe: Of one condition and one method.
        folder: Where the networks are kept.
        folds: Fifths of the training data that are held out, one after another.
        share: Of the steps to take, of a length in inverse proportion, so that they go as far.
        how: As `runner.run` takes it.

    Returns:
        The lines of each rate's networks, fold after fold and seed after seed.
    """
    cell = next(recipe.cells())
    rates = RATES[cell.solver.name] if is_to_be_found(recipe) else (cell.solver.learning_rate,)
    # Noise that leaves examples out cannot be put on labels that are held out.
    noisy = "true" if cell.noise.kind in ("pn_ratio", "long_tail") else "noisy"
    (method,) = recipe.methods
    methods = tuple(
        replace(method, name=f"{method.name} at {rate:g}", solver={**method.solver, "learning_rate": rate / share})
        for rate in rates
    )
    steps = max(1, round(share * cell.solver.iterations))
    held_out = {"dataset.validation": HELD_OUT, "dataset.validation_labels": noisy, "solver.iterations": steps,
                "evaluation.every": steps, "evaluation.trace": False}  # fmt: skip
    found: dict[float, list[Row]] = {rate: [] for rate in rates}
    for fold in range(folds):
        part = replace(recipe.changed({**held_out, "dataset.fold": fold}), methods=methods, baseline=methods[0].name)
        rows = run(part, folder, **how)
        how["force"] = False  # the folds that follow must not remove this one
        for rate, one in zip(rates, methods, strict=True):
            found[rate] += [row for row in rows if row["method"] == one.name]
    return found
