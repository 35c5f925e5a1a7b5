"""Code that a recipe refers to: functions of weightings, and methods as FILE.py:CLASS or module:CLASS.

Recipes and results store such code by name, so that reading them runs nothing. It is imported here, and only for
running a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from emphasis.baselines import check_options, source_of
from emphasis.experiments.recipes.recipe import Recipe, Table
from emphasis.experiments.recipes.settings import Cell, MethodSpec, digest, is_own
from emphasis.training.settings import Objective
from emphasis.weighting.serialise import imported


def check_code(cells: Iterable[Cell]) -> None:
    """Import the code that the cells refer to, and check the options that they pass to it.

    Raises:
        ValueError: If code cannot be imported, or does not accept its options.
    """
    objectives = {id(cell.objective): cell.objective for cell in cells}
    for objective in objectives.values():
        if isinstance(objective, MethodSpec):
            check_options(objective.name, objective.options)
        else:
            with_code(objective)


def with_code(objective: Objective) -> Objective:
    """Return the objective with its functions imported, or the same object if it refers to none.

    Raises:
        ValueError: If a function cannot be imported, or is not a weighting.
    """
    weighting = imported(objective.weighting)
    return objective if weighting is objective.weighting else replace(objective, weighting=weighting)


def with_sources(recipe: Recipe) -> Recipe:
    """Return the recipe with a digest of the source of each user-defined method.

    The digest decides which networks count as trained already, also for readers that must not import the code.

    Raises:
        ValueError: If the source of a method cannot be read.
    """

    def with_source(table: Table) -> Table:
        training = table.get("training")
        if training is None or not is_own(training.get("name", "")):
            return table
        return {**table, "training": {**training, "source": digest(source_of(training["name"]))}}

    methods = tuple(
        replace(
            method,
            training=with_source({"training": method.training})["training"],
            at={condition: with_source(table) for condition, table in method.at.items()},
        )
        for method in recipe.methods
    )
    return recipe if methods == recipe.methods else replace(recipe, methods=methods)  # the same one knows its cells
