"""The options with which commands describe data: tables, images, and how their files are written."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from emphasis.cli.options import UsageError, path_argument
from emphasis.texts import named_value

if TYPE_CHECKING:
    from emphasis.datasets.table_source import ReadOptions
    from emphasis.experiments.recipes.recipe import Recipe


def add_own_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options with which `audit` and `tune` describe the data."""
    data = parser.add_argument_group("data")
    data.add_argument("--label", metavar="COLUMN", help="the table's column of labels")
    add_table_options(data)
    add_image_options(data, "their own size, at most 32")
    data.add_argument(
        "--only", metavar="CONDITION", help="for a recipe, the condition whose data to use (default: the first)"
    )
    data.add_argument(
        "--noise-rate",
        type=float,
        metavar="R",
        help="first replace this share of the labels with wrong labels, as a test",
    )
    data.add_argument("--data", type=path_argument, metavar="DIR", help="folder of the data sets that recipes use")


def add_table_options(group: argparse._ArgumentGroup) -> None:
    """Add the options with which `fit`, `audit` and `tune` describe a table."""
    add_id_option(group)
    for name, text in (
        ("drop", "ignore these columns"),
        ("categorical", "columns to treat as categories even if they hold numbers"),
        ("keep", "columns to use although they look like row numbers or identifiers"),
    ):
        group.add_argument(f"--{name}", nargs="+", default=[], metavar="COLUMN", help=text)
    group.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column of free text; repeatable (columns whose values have several words are detected)",
    )
    add_encoder_options(group)
    group.add_argument(
        "--max-levels",
        type=int,
        metavar="N",
        help="maximum number of values of a categorical column; rarer values are one category (default: 100)",
    )
    group.add_argument(
        "--unlabeled", choices=("drop", "error"), help="what to do with rows without a label (default: drop)"
    )
    group.add_argument(
        "--rare-classes",
        choices=("keep", "merge", "drop", "error"),
        help="what to do with classes of very few rows (default: keep)",
    )
    group.add_argument(
        "--merge-spellings",
        choices=("none", "form", "case"),
        help="differences in spelling to ignore in labels: surrounding blanks and Unicode form (form, the default), "
        "upper and lower case as well (case), or none",
    )
    group.add_argument(
        "--missing-labels",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="texts in the label column that mean that there is no label, such as NA (default: the empty cell)",
    )
    add_reading_options(group)


def add_encoder_options(group: argparse._ArgumentGroup) -> None:
    """Add `--encoder` and `--download`."""
    group.add_argument(
        "--encoder",
        metavar="NAME",
        help="a pretrained encoder of texts, by its folder or its name in the local cache of Hugging Face (default: "
        "TF-IDF)",
    )
    group.add_argument(
        "--download", action="store_true", default=None, help="download the encoder if it is not found there"
    )


def add_image_options(group: argparse._ArgumentGroup, size: str) -> None:
    """Add the options that describe images; `size` says which size is the default."""
    group.add_argument("--images", metavar="COLUMN", help="the column with paths of image files")
    group.add_argument("--size", type=int, metavar="N", help=f"scale images to N x N pixels (default: {size})")
    group.add_argument(
        "--channels", type=int, metavar="N", help="color channels: 3, or 1 for grayscale (default: as in the images)"
    )


def add_id_option(group: argparse._ArgumentGroup) -> None:
    """Add `--id`."""
    group.add_argument(
        "--id", metavar="COLUMN", dest="id_column", help="the column that identifies the rows in results"
    )


def add_reading_options(group: argparse._ArgumentGroup) -> None:
    """Add the options with which all commands describe how a text file is written."""
    group.add_argument("--sep", metavar="C", help="separator of cells, such as ; or tab (default: detected)")
    group.add_argument("--encoding", metavar="NAME", help="encoding, such as latin-1 (default: detected)")
    group.add_argument("--decimal", choices=(".", ","), help="decimal mark (default: detected)")
    group.add_argument(
        "--missing", nargs="+", default=[], metavar="TEXT", help="texts that stand for missing values, such as ?"
    )


def requested_table_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments about a table that were given, by the names that they have in Python."""
    columns = ("id_column", "drop", "categorical", "keep", "text", "encoder", "download", "max_levels")
    labels = ("unlabeled", "rare_classes", "merge_spellings", "missing_labels")
    names = (*columns, *labels, "sep", "encoding", "decimal", "missing")
    return {name: value for name in names if (value := getattr(options, name, None)) not in (None, [])}


def requested_reading(options: argparse.Namespace) -> ReadOptions:
    """Return how to read a text table, as far as the options specify it."""
    from emphasis.datasets.table_source import ReadOptions

    given = requested_table_options(options)
    return ReadOptions(**{name: given[name] for name in ("sep", "encoding", "decimal", "missing") if name in given})


def requested_data_recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe of the data that `audit` or `tune` is given, changed as its options ask."""
    from emphasis.experiments.studies.own_data import recipe_of

    for text in options.settings:
        if not text.startswith(("network.", "solver.")):
            raise UsageError(f"--set {text} is not allowed; set something of network or solver")
    if options.iterations is not None and options.iterations < 1:
        raise UsageError(f"--iterations {options.iterations} is not allowed; use a whole number >= 1")
    data = {name: getattr(options, name) for name in ("label", "images", "size", "channels") if getattr(options, name)}
    recipe = recipe_of(options.source, {**data, **requested_table_options(options)})
    return recipe.changed(
        dict(named_value(text, "PART.KEY=VALUE", "network.name=resnet20") for text in options.settings)
    )
