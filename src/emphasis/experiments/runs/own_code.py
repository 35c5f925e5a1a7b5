"""Code of one's own that a recipe names: functions of weightings, and methods as FILE.py:CLASS or module:CLASS.

Recipes and results keep such code as names, whoever reads them. Here it is imported, which only who runs a recipe does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from emphasis.baselines import check_options, source_of
from emphasis.experiments.recipes.recipe import Recipe, Table
from emphasis.experiments.recipes.settings import Cell, Training, digest, is_own
from emphasis.training.settings import Objective
from emphasis.weighting.serialise import imported


def check_code(cells: Iterable[Cell]) -> None:
    """Import the code that cells name, and check what they tell it.

    Raises:
        ValueError: It cannot be imported, or does not take what it is told.
    """
    objectives = {id(cell.objective): cell.objective for cell in cells}
    for one in objectives.values():
        if isinstance(one, Training):
            check_options(one.name, one.options)
        else:
            with_code(one)


def with_code(objective: Objective) -> Objective:
    """Return an objective with its functions imported; itself if it names none.

    Raises:
        ValueError: One cannot be imported, or is no weighting.
    """
    weighting = imported(objective.weighting)
    return objective if weighting is objective.weighting else replace(objective, weighting=weighting)


def with_sources(recipe: Recipe) -> Recipe:
    """Return a recipe that says, of each method of one's own, a digest of the code as it is now.

    It decides what has been trained already, also for those who read the results and must not import the code.

    Raises:
        ValueError: A method cannot be read.
    """

    def told(table: Table) -> Table:
        training = table.get("training")
        if training is None or not is_own(training.get("name", "")):
            return table
        return {**table, "training": {**training, "source": digest(source_of(training["name"]))}}

    return replace(
        recipe,
        methods=tuple(
            replace(
                method,
                training=told({"training": method.training})["training"],
                at={condition: told(table) for condition, table in method.at.items()},
            )
            for method in recipe.methods
        ),
    )
