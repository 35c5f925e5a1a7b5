"""The part of `emphasis fit` and `emphasis predict` that is about images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emphasis.cli.data_options import add_image_options, requested_reading, requested_table_options
from emphasis.cli.executor_options import requested_tracking
from emphasis.cli.fits import fit_result, predictions_file, print_fit, record_fit, write_predictions
from emphasis.cli.options import UsageError, add_accelerator_option, path_argument
from emphasis.cli.output import print_notes
from emphasis.cli.weightings import weighting_from_text
from emphasis.texts import named_value

_OF_IMAGES = ("size", "channels", "network", "features", "weights", "augment", "iterations")
_OF_TABLES_OF_IMAGES = ("sep", "encoding", "missing", "unlabeled", "rare_classes", "merge_spellings")


def add_image_fit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options with which `fit` describes images and their networks."""
    group = parser.add_argument_group("images")
    add_image_options(group, "their own size, at most 64")
    group.add_argument(
        "--network", metavar="NAME", help="network to train: small-cnn (default), resnet20, ..., or timm:NAME"
    )
    group.add_argument(
        "--features",
        metavar="NETWORK",
        help="train a linear layer on the features of a frozen network: the folder of another fit of images, "
        "timm:NAME, or a name as for --network",
    )
    group.add_argument(
        "--weights", type=path_argument, metavar="FILE", help="pretrained parameters of --network or --features"
    )
    group.add_argument("--augment", action="store_true", help="crop and mirror training images at random")
    group.add_argument(
        "--iterations",
        type=int,
        metavar="N",
        help="number of training steps (default: depends on the number of images)",
    )
    add_accelerator_option(group)


def check_no_image_options(options: argparse.Namespace) -> None:
    """Reject options about images for a table.

    Raises:
        UsageError: If one is given.
    """
    for name in _OF_IMAGES:
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--{name} is for images: a folder of images, or a table with --images COLUMN")


def fit_images(options: argparse.Namespace) -> None:
    """Fit images and print the result."""
    from rich.console import Console

    from emphasis.api import fit_images as fit
    from emphasis.cli.progress import JobBar
    from emphasis.datasets.table_report import in_shell

    data: dict[str, Any] = dict(requested_table_options(options))
    is_folder = options.table.is_dir()
    for name in data:
        if is_folder or name not in _OF_TABLES_OF_IMAGES:
            flag = {"id_column": "id"}.get(name, name.replace("_", "-"))
            raise UsageError(f"--{flag} is for tables{'' if is_folder else ' of features'}, not for images")
    if options.tune:
        raise UsageError("--tune is for tables of features; `emphasis tune` searches a weighting for images")
    if options.labels is not None:
        raise UsageError("--labels is for tables; `emphasis labels export --apply` moves images between their folders")
    if options.weight_column is not None or options.model != "xgboost":
        raise UsageError(
            "--model, --fine-tune and --weight-column are for tables of features; images have --network and --features"
        )
    if is_folder and (options.label or options.images):
        raise UsageError("--label and --images are for tables; the folders in a folder of images are the classes")
    if not is_folder and options.label is None:
        raise UsageError(f"name the column of {options.table} to predict: --label COLUMN")
    data |= {name: getattr(options, name) for name in ("size", "channels") if getattr(options, name) is not None}
    options.folder = options.out or Path("runs") / options.table.resolve().stem
    with JobBar(options) as bar:
        tracking = requested_tracking(options, bar, options.folder, options.folder.name)
        result = fit(
            options.table,
            label=options.label,
            images=options.images,
            folder=options.folder,
            network=options.network or "",
            features=options.features or "",
            weights=options.weights,
            weighting=None if options.weighting is None else weighting_from_text(options.weighting),
            compare=not options.no_compare,
            calibrate=not options.no_calibration,
            folds=options.folds or 0,
            seed=options.seed,
            augment=options.augment,
            iterations=options.iterations or 0,
            settings=dict(
                named_value(text, "PART.KEY=VALUE", "solver.learning_rate=0.02") for text in options.settings
            ),
            accelerator=options.accelerator,
            force=options.force,
            progress=bar.loading,
            **data,
        )
        record_fit(tracking, result.request, result.scores, result.folder)
    notes = [in_shell(note) for note in result.notes]
    print_notes(options, notes)
    options.result = fit_result(result, options.label or "", notes)
    print_fit(result, Console())


def predict_images(options: argparse.Namespace) -> None:
    """Predict images with a model of images."""
    from emphasis.images.predict import predict_images as predict
    from emphasis.images.saved import load_model

    for name, value in (("id", options.id_column), ("encoder", options.encoder)):
        if value is not None:
            raise UsageError(f"--{name} is for tables; images are named by their files")
    source = options.table[0]
    out = predictions_file(options, source.resolve() if source.is_dir() else source)
    model = load_model(options.model)
    predictions = predict(model, options.table, requested_reading(options), images=options.images or "")
    write_predictions(predictions, out, options, "", "the folders of the images", model.classes)
