"""Recipes for data of one's own: a table or a folder of images, with a network and a length of training that suit it.

What `emphasis audit` and `emphasis tune` train on; a recipe of the package will do as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emphasis.datasets import ImageFiles, Split
from emphasis.datasets.download import Progress, silent
from emphasis.datasets.errors import DataNotFoundError
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import load_recipe, recipe_from_tables, recipe_names
from emphasis.experiments.recipes.recipe import Method, Recipe, Table
from emphasis.experiments.runs.data import forget_loaded, load_split
from emphasis.experiments.studies.rates import LEFT_TO_THE_DATA, left_to_the_data

_EPOCHS, _LEAST, _MOST = {"vectors": 60, "images": 30}, {"vectors": 300, "images": 1000}, 20_000  # the latter: steps
_TO_BE_CHOSEN = 1  # steps of a recipe whose length follows from the data
_TABLE: Table = {
    "network": {"name": "mlp", "hidden": [64, 64]},
    "solver": {"batch_size": 128, "momentum": 0.9, **LEFT_TO_THE_DATA},
}
_IMAGES: Table = {
    "network": {"name": "small-cnn", "widths": [16, 32, 64]},
    "solver": {"batch_size": 64, "momentum": 0.9, "weight_decay": 1e-4, **LEFT_TO_THE_DATA},
}


def recipe_of_table(file: Path, label: str, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe that trains on every row of a table; `options` are of the data set "table"."""
    dataset = {"name": "table", "file": str(file.resolve()), "label": label, "test_share": 0.0, **options}
    return _recipe(f"{file.stem}-{label}", f"The column {label} of {file.name}", {"dataset": dataset, **_TABLE})


def recipe_of_images(folder: Path, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe that trains on a folder of images, its train/ alone if it has one."""
    dataset = {"name": "image-folder", "folder": str(folder.resolve()), "test_share": 0.0, **options}
    return _recipe(folder.resolve().name, f"The images in {folder}", {"dataset": dataset, **_IMAGES})


def _recipe(name: str, title: str, parts: Table) -> Recipe:
    parts = {**parts, "solver": {**parts["solver"], "iterations": _TO_BE_CHOSEN}}
    return recipe_from_tables({
        "name": name, "title": title, "question": "Which labels look wrong?", "source": "", "cost": "", "choices": "",
        "baseline": "CCE", "methods": [{"name": "CCE", "weighting": {"family": "CCE"}}], **parts,
    })  # fmt: skip


def recipe_of(what: str, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe of the data that `what` names.

    Args:
        what: A recipe's name or .toml file, a table, or a folder of images. The learning rate is to be found, but for
            a recipe's of one's own and one whose schedule is part of it.
        options: Of the data; a table's must have "label".

    Raises:
        RecipeError: It is none of these.
    """
    path = Path(what)
    if what.endswith(".toml") or what in recipe_names():
        if options:
            raise RecipeError(f"--{next(iter(options)).replace('_', '-')} is for a table or a folder of images; "
                              f"{what} says itself which data it takes")  # fmt: skip
        recipe = load_recipe(what)
        return left_to_the_data(recipe) if what in recipe_names() else recipe
    if path.is_dir():
        if "label" in options:
            raise RecipeError(f"--label is for a table; in {what} the names of the folders are the labels")
        return recipe_of_images(path, options)
    if path.suffix.lower() in (".csv", ".parquet", ".pq", ".tsv") or path.is_file():
        if not path.is_file():
            raise DataNotFoundError(f"there is no table {what}")
        if "label" not in options:
            raise RecipeError(f"name the column of {what} that holds the labels: --label COLUMN")
        return recipe_of_table(path, options["label"], {k: v for k, v in options.items() if k != "label"})
    raise RecipeError(f"{what!r} is no recipe, table or folder; recipes are {', '.join(recipe_names())}")


def with_method(
    recipe: Recipe, method: Method, *, condition: str = "", noise_rate: float | None = None,
    iterations: int | None = None, root: Path | None = None, loading: Progress = silent,
) -> tuple[Recipe, Split]:  # fmt: skip
    """Return a recipe of one method and one network, and its data.

    Args:
        recipe: Its data, noise, network and solver are taken; of a recipe with several conditions, one's.
        method: In place of its own.
        condition: Which column; "": the first.
        noise_rate: Put symmetric noise of this rate on the labels; None: as the recipe.
        iterations: Steps; None: the recipe's, and for a table or a folder what suits the number of examples.
        root: Where data sets are.
        loading: Told how far the data is loaded.

    Raises:
        RecipeError, DataError, ValueError: As `Recipe.cells` and `load_split`.
    """
    one = recipe.limited([condition or recipe.condition_names[0]])
    column = dataclasses.replace(one.conditions[0], seeds=0)
    one = dataclasses.replace(
        one, conditions=(column,), methods=(method,), baseline=method.name, compare=(), paper={}, paper_spread={},
        reported=(), scaled=None, seeds=1,
    )  # fmt: skip
    if noise_rate is not None:
        kind = "symmetric" if noise_rate else "none"
        one = one.changed({"noise.kind": kind, "noise.rate": noise_rate, "noise.ratio": 0.0, "noise.labels": ""})
    first = next(one.cells())
    forget_loaded()
    split = load_split(first.dataset, first.noise, root, loading)
    steps = iterations or first.solver.iterations
    inputs = "images" if split.train_inputs.ndim == 4 else "vectors"
    if first.solver.iterations == _TO_BE_CHOSEN:  # a table or a folder, perhaps of few examples
        batch = max(1, min(first.solver.batch_size, len(split.train_labels) // 4))
        one = one.changed({"solver.batch_size": batch})
        if iterations is None:
            steps = min(max(_LEAST[inputs], _EPOCHS[inputs] * -(-len(split.train_labels) // batch)), _MOST)
    one = one.changed({"solver.iterations": steps})
    return dataclasses.replace(one, source=_fingerprint(split)), split


def _fingerprint(split: Split) -> str:
    """Return a digest of the data, so that work on a file that has changed is not taken for finished."""
    inputs = split.train_inputs
    digest = hashlib.sha256(inputs.stamp() if isinstance(inputs, ImageFiles) else inputs.tobytes())
    digest.update(split.train_labels.tobytes())
    for name, labels in split.human_labels.items():
        digest.update(name.encode() + labels.tobytes())
    return f"data {digest.hexdigest()[:16]}"
