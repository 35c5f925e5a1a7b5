"""Recipes for the user's own data: a table or a folder of images, with a suitable network and length of training.

`audit` and `tune` train on them; a recipe of the package will do as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emphasis.datasets import ImageFiles, Split
from emphasis.datasets import options as dataset_options
from emphasis.datasets.dataset_folder import is_dataset_folder
from emphasis.datasets.errors import DataNotFoundError
from emphasis.datasets.image_list import ImageList, list_images, list_table_images, natural_size
from emphasis.datasets.table import TableOptions
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import load_recipe, recipe_from_tables, recipe_names
from emphasis.experiments.recipes.recipe import Method, Recipe, Table
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, SILENT, Reporter, RunContext
from emphasis.experiments.runs.data import forget_loaded, load_split
from emphasis.experiments.studies.rates import CHOSEN_BY_DATA, with_rate_chosen_by_data

_EPOCHS, _MIN_STEPS, _MAX_STEPS = {"vectors": 60, "images": 30}, 300, 20_000
_MAX_VECTORS = 2_560_000  # vectors that a network is trained on, repetitions included
_LARGEST_BATCH, _BATCHES = 512, 160  # of vectors, and in an epoch of many of them
MOST_PIXELS = 32
"""Largest size of images that is chosen for an audit; larger images are scaled down."""

_CHOSEN_BY_SIZE = 1  # number of steps of a recipe whose length follows from the size of the data
_TABLE: Table = {
    "network": {"name": "mlp", "hidden": [64, 64]},
    "solver": {"batch_size": 128, "momentum": 0.9, **CHOSEN_BY_DATA},
}
_IMAGES: Table = {
    "network": {"name": "small-cnn", "widths": [16, 32, 64]},
    "solver": {"batch_size": 64, "momentum": 0.9, "weight_decay": 1e-4, **CHOSEN_BY_DATA},
}


def recipe_of_table(file: Path, label: str, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe that trains on every row of a table; `options` are those of the data set "table"."""
    dataset = {"name": "table", "file": str(file.resolve()), "label": label, "test_share": 0.0, **options}
    if isinstance(text := options.get("text"), str):
        dataset["text"] = [text]
    if Path(encoder := options.get("encoder", "")).is_dir() and encoder:
        dataset["encoder"] = str(Path(encoder).resolve())
    return _recipe(f"{file.stem}-{label}", f"The column {label} of {file.name}", {"dataset": dataset, **_TABLE})


def recipe_of_images(folder: Path, options: Mapping[str, Any], most: int = MOST_PIXELS) -> Recipe:
    """Return the recipe that trains on a folder of images, or on its subfolder train/ if there is one.

    Args:
        folder: The folder, with a folder for each class.
        options: Options of the data set "image-folder". Size and channels suit the images if they are not given.
        most: Largest size that is chosen.
    """
    train = folder / "train"
    suitable = _suitable(list_images(train if train.is_dir() else folder), options, most)
    dataset = {"name": "image-folder", "folder": str(folder.resolve()), **suitable}
    return _recipe(folder.resolve().name, f"The images in {folder}", {"dataset": dataset, **_IMAGES})


def recipe_of_image_table(file: Path, label: str, options: Mapping[str, Any], most: int = MOST_PIXELS) -> Recipe:
    """Return the recipe that trains on the images that a table lists.

    Args:
        file: The table.
        label: Its column of labels.
        options: Options of the data set "image-table", of which "images", the column of paths, must be given.
        most: Largest size that is chosen.
    """
    known = dataset_options("image-table")
    if other := [name for name in options if name not in known]:
        raise RecipeError(f"{other[0]} is for a table of features, not for one of images")
    names = ("sep", "encoding", "missing", "unlabeled", "rare_classes", "merge_spellings")
    asked = TableOptions.of(**{name: options[name] for name in names if name in options})
    suitable = _suitable(list_table_images(file, label, options["images"], asked), options, most)
    dataset = {"name": "image-table", "file": str(file.resolve()), "label": label, **suitable}
    return _recipe(f"{file.stem}-{label}", f"The images in {file.name} by {label}", {"dataset": dataset, **_IMAGES})


def _suitable(images: ImageList, options: Mapping[str, Any], most: int) -> Table:
    size, channels = natural_size(images, most)
    return {"size": size, "channels": channels, "test_share": 0.0, "broken": "skip", **options}


def _recipe(name: str, title: str, parts: Table) -> Recipe:
    tables = {
        "name": name,
        "title": title,
        "question": "Which labels look wrong?",
        "source": "",
        "cost": "",
        "choices": "",
        "baseline": "CCE",
        "methods": [{"name": "CCE", "weighting": {"family": "CCE"}}],
        **parts,
        "solver": {**parts["solver"], "iterations": _CHOSEN_BY_SIZE},
    }
    return recipe_from_tables(tables)


def recipe_of(data: str, options: Mapping[str, Any], most_pixels: int = MOST_PIXELS) -> Recipe:
    """Return the recipe that trains on `data`.

    Args:
        data: Name or .toml file of a recipe, path of a table, or path of a folder of images. The learning rate is
            chosen by the data, except for a user's own recipe and one whose learning rate follows a schedule.
        options: Options of the data; a table needs "label".
        most_pixels: Largest size of images that is chosen.

    Raises:
        RecipeError: If `data` is none of these.
        DataNotFoundError: If there is no such table.
    """
    path = Path(data)
    if data.endswith(".toml") or data in recipe_names():
        if options:
            raise RecipeError(
                f"{next(iter(options))} is for a table or a folder of images; the recipe {data} names its data itself"
            )
        recipe = load_recipe(data)
        return with_rate_chosen_by_data(recipe) if data in recipe_names() else recipe
    is_table_folder = is_dataset_folder(path)
    if path.is_dir() and not is_table_folder:
        if "images" in options:
            raise RecipeError(f"images is for a table that lists images; {data} is a folder")
        if "label" in options:
            raise RecipeError(f"label is for a table; in {data} the names of the subfolders are the labels")
        return recipe_of_images(path, options, most_pixels)
    if path.suffix.lower() in (".csv", ".parquet", ".pq", ".tsv") or path.is_file() or is_table_folder:
        if not path.exists():
            raise DataNotFoundError(f"there is no table {data}")
        if "label" not in options:
            raise RecipeError(f"name the column of {data} that holds the labels: label=COLUMN, or --label COLUMN")
        others = {name: value for name, value in options.items() if name != "label"}
        if "images" in options:
            return recipe_of_image_table(path, options["label"], others, most_pixels)
        return recipe_of_table(path, options["label"], others)
    raise RecipeError(f"{data!r} is no recipe, table or folder; the recipes are {', '.join(recipe_names())}")


def single_method_recipe(
    recipe: Recipe,
    method: Method,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
    *,
    condition: str = "",
    noise_rate: float | None = None,
    iterations: int | None = None,
) -> tuple[Recipe, Split]:
    """Return a recipe of one method, one condition and one seed, and its data.

    Args:
        recipe: Recipe whose data, noise, network and solver are used.
        method: Method in place of the recipe's.
        context: Where the data is.
        reporter: Receives the progress of loading the data.
        condition: Condition of the recipe; "" for the first.
        noise_rate: Rate of symmetric noise to put on the labels; None for the noise of the recipe.
        iterations: Number of training steps; None for the recipe's, or for what suits the size of a table or folder.

    Raises:
        RecipeError, DataError, ValueError: As `Recipe.cells` and `load_split`.
    """
    single = recipe.limited([condition or recipe.condition_names[0]])
    column = dataclasses.replace(single.conditions[0], seeds=0)
    single = dataclasses.replace(
        single,
        conditions=(column,),
        methods=(method,),
        baseline=method.name,
        compare=(),
        paper={},
        paper_spread={},
        reported=(),
        scaled=None,
        seeds=1,
    )
    if noise_rate is not None:
        kind = "symmetric" if noise_rate else "none"
        noise = {"noise.kind": kind, "noise.rate": noise_rate, "noise.ratio": 0.0, "noise.labels": ""}
        single = single.changed(noise)
    cell = next(single.cells())
    forget_loaded()
    split = load_split(cell.dataset, cell.noise, context, reporter)
    steps = iterations or cell.solver.iterations
    if cell.solver.iterations == _CHOSEN_BY_SIZE:  # a table or a folder, perhaps of few examples
        kind = "images" if split.train_inputs.ndim == 4 else "vectors"
        batch, suitable = suitable_length(kind, len(split.train_labels), cell.solver.batch_size)
        single = single.changed({"solver.batch_size": batch})
        steps = iterations or suitable
    single = single.changed({"solver.iterations": steps})
    return dataclasses.replace(single, source=_fingerprint(split)), split


def suitable_length(kind: str, examples: int, batch_size: int) -> tuple[int, int]:
    """Return batch size and number of training steps for a number of examples.

    Args:
        kind: "vectors" or "images".
        examples: Number of training examples.
        batch_size: Batch size, unless there are too few examples, or so many vectors that larger batches save time.
    """
    batch = max(1, min(batch_size, examples // 4))
    most = _MAX_STEPS
    if kind == "vectors":
        batch = max(batch, min(examples // _BATCHES, _LARGEST_BATCH))
        most = min(most, _MAX_VECTORS // batch)
    return batch, min(max(_MIN_STEPS, _EPOCHS[kind] * -(-examples // batch)), most)


def _fingerprint(split: Split) -> str:
    """Return a digest of the data, by which it is noticed that a file has changed since an earlier run."""
    inputs = split.train_inputs
    digest = hashlib.sha256(inputs.fingerprint() if isinstance(inputs, ImageFiles) else inputs.tobytes())
    digest.update(split.train_labels.tobytes())
    for name, labels in split.human_labels.items():
        digest.update(name.encode() + labels.tobytes())
    return f"data {digest.hexdigest()[:16]}"
