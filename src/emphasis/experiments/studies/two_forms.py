"""A comparison of methods in two forms: at cross-entropy's learning rate, and each at its own best.

A learning rate that nobody chose suits one method and not another. So every method is trained at each rate of a grid,
and judged by held-out noisy labels. In the first form all methods share the rate that is best for cross-entropy, in the
second each has the one that is best for it, condition by condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from emphasis.experiments.recipes.convert import RecipeError, overridden
from emphasis.experiments.recipes.recipe import Method, Recipe
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, SILENT, Reporter, RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.studies.accuracy import final_accuracy
from emphasis.learning_rate import HELD_OUT, RATES, best_rate
from emphasis.validation import check

Form = Literal["shared-rate", "own-rate"]
FORMS: tuple[Form, ...] = ("shared-rate", "own-rate")

Accuracies = dict[str, dict[str, dict[float, float]]]
"""By condition, method and learning rate: the mean final accuracy on held-out noisy labels."""


def measure_rates(
    recipe: Recipe,
    folder: Path,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
    *,
    grid: Sequence[float] = (),
    seeds: int = 1,
) -> Accuracies:
    """Train every method of a recipe at every learning rate of a grid, and judge it by held-out noisy labels.

    Args:
        recipe: What is compared. The schedules of its learning rates stay; the rates are replaced.
        folder: Where the networks are kept; the same call again trains what is missing.
        context: How it is trained.
        reporter: Receives progress and messages.
        grid: Rates > 0; none: those of `emphasis.learning_rate.RATES` for the recipe's optimizer.
        seeds: Networks of each method, condition and rate.

    Raises:
        RecipeError: The recipe has noise that leaves examples out, whose labels cannot be held out.
    """
    cells = list(recipe.cells())
    rates = tuple(grid) or RATES[cells[0].solver.name]
    for rate in rates:
        check(rate > 0.0, "grid", rate, "use rates > 0")
    if any(cell.noise.kind in ("pn_ratio", "long_tail") for cell in cells):
        raise RecipeError(f"{recipe.name}: noise that leaves examples out has no noisy labels that could be held out")
    rows = {
        (method.name, rate): _at(method, dict.fromkeys(recipe.condition_names, rate), f"{method.name} at {rate:g}")
        for method in recipe.methods
        for rate in rates
    }
    conditions = tuple(replace(column, seeds=0) for column in recipe.conditions)
    trial = replace(
        recipe,
        name=f"{recipe.name}-rates",
        methods=tuple(rows.values()),
        conditions=conditions,
        seeds=seeds,
        baseline=next(iter(rows.values())).name,
        compare=(),
        paper={},
        paper_spread={},
        reported=(),
        scaled=None,
    )
    held_out = {"dataset.validation": HELD_OUT, "dataset.validation_labels": "noisy"}
    found = run(trial.changed(held_out), folder, context, reporter)
    result: Accuracies = {}
    for condition in recipe.condition_names:
        for (name, rate), row in rows.items():
            lines = [line for line in found if (line["condition"], line["method"]) == (condition, row.name)]
            if lines:
                result.setdefault(condition, {}).setdefault(name, {})[rate] = final_accuracy(lines)[0]
    return result


def in_form(recipe: Recipe, accuracies: Accuracies, form: Form) -> Recipe:
    """Return a recipe with the learning rates of one form, named after it.

    Args:
        recipe: What was measured. Its baseline is the cross-entropy whose rate the first form shares.
        accuracies: From `measure_rates`.
        form: "shared-rate" or "own-rate".
    """
    check(form in FORMS, "form", form, f"use one of {', '.join(FORMS)}")
    chosen = rates_of(accuracies)
    methods = []
    for method in recipe.methods:
        source = recipe.baseline if form == "shared-rate" else method.name
        rates = {condition: best[source] for condition, best in chosen.items() if method.name in best}
        methods.append(_at(method, rates, method.name))
    whose = f"{recipe.baseline}'s best" if form == "shared-rate" else "each method's own best"
    about = f"Learning rates: {whose} in each condition, by {HELD_OUT:.0%} of the training part with noisy labels."
    return replace(
        recipe,
        name=f"{recipe.name}-{form}",
        title=f"{recipe.title}, at {whose} learning rate",
        methods=tuple(methods),
        choices=f"{about} {recipe.choices}",
        scaled=None,
    )


def rates_of(accuracies: Accuracies) -> dict[str, dict[str, float]]:
    """Return the best learning rate of each method in each condition."""
    return {
        condition: {name: best_rate(by_rate) for name, by_rate in methods.items()}
        for condition, methods in accuracies.items()
    }


def _at(method: Method, rates: Mapping[str, float], name: str) -> Method:
    """Return a method under another name, at a learning rate for each condition."""
    at = {key: dict(table) for key, table in method.at.items()}
    for condition, rate in rates.items():
        here = at.get(condition, {})
        at[condition] = {**here, "solver": overridden(here.get("solver", {}), {"learning_rate": rate})}
    solver = {key: value for key, value in method.solver.items() if key != "learning_rate"}
    return replace(method, name=name, at=at, solver=solver)
