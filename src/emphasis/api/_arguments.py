"""Arguments of the public functions, as the functions beneath them take them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from emphasis.errors import EmphasisTypeError, EmphasisValueError

if TYPE_CHECKING:
    from emphasis.experiments.recipes.recipe import Recipe
    from emphasis.experiments.runs.context import Reporter, RunContext
    from emphasis.experiments.studies.space import Vary

PathLike: TypeAlias = str | os.PathLike[str]


def is_path_or_recipe(value: object) -> bool:
    """Return whether a value is a path or a recipe, and not an array of labels."""
    recipes = sys.modules.get("emphasis.experiments.recipes.recipe")  # if it is not imported, there is no recipe
    return isinstance(value, (str, os.PathLike)) or (recipes is not None and isinstance(value, recipes.Recipe))


def as_recipe(recipe: PathLike | Recipe) -> Recipe:
    """Return a recipe by its name or path, or a recipe itself."""
    if not isinstance(recipe, (str, os.PathLike)):
        return recipe
    from emphasis.experiments.recipes.load import load_recipe

    return load_recipe(os.fspath(recipe))


def data_recipe(data: PathLike | Recipe, options: Mapping[str, Any], settings: Mapping[str, Any] | None) -> Recipe:
    """Return the recipe that trains on data on disk, with settings of network and solver."""
    from emphasis.experiments.studies.own_data import recipe_of

    for name in settings or {}:
        if not name.startswith(("network.", "solver.")):
            raise EmphasisValueError(f"settings[{name!r}] is not allowed; set something of network or solver")
    if not isinstance(data, (str, os.PathLike)) and options:
        raise EmphasisTypeError(f"{next(iter(options))} is for a table or a folder of images, not for a recipe")
    recipe = recipe_of(os.fspath(data), options) if isinstance(data, (str, os.PathLike)) else data
    return recipe.changed(dict(settings or {}))


def make_context(
    *,
    root: PathLike | None = None,
    download: bool = False,
    accelerator: str = "auto",
    workers: int = 1,
    threads: int | None = None,
) -> RunContext:
    """Return the context of a run."""
    from emphasis.experiments.runs.context import RunContext
    from emphasis.training.settings import Execution

    return RunContext(None if root is None else Path(root), download, Execution(accelerator), workers, threads)


def reporter_or_silent(reporter: Reporter | None) -> Reporter:
    """Return a reporter, a silent one for None."""
    from emphasis.experiments.runs.context import SILENT

    return SILENT if reporter is None else reporter


def make_space(vary: Mapping[str, Any]) -> list[Vary]:
    """Return the space of a search, with ranges as tuples and choices as lists."""
    from emphasis.experiments.studies.space import Vary

    space = []
    for name, values in vary.items():
        if not isinstance(values, tuple):
            space.append(Vary(name, tuple(values)))
            continue
        if not (2 <= len(values) <= 3 and values[0] < values[1]) or values[2:] not in ((), ("log",)):
            raise EmphasisValueError(
                f"vary[{name!r}]={values!r} is not allowed; use (low, high) or (low, high, 'log') with low < high, or "
                "a list of values"
            )
        space.append(Vary(name, low=float(values[0]), high=float(values[1]), log=len(values) == 3))
    return space
