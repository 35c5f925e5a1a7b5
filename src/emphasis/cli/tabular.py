"""`emphasis fit` and `emphasis predict`: a classifier of a table's column, or of images."""

from __future__ import annotations

import argparse
from pathlib import Path

from emphasis.cli.data_options import (
    add_id_option,
    add_reading_options,
    add_table_options,
    requested_reading,
    requested_table_options,
)
from emphasis.cli.executor_options import (
    add_executor_options,
    add_tracking_options,
    requested_executor,
    requested_tracking,
)
from emphasis.cli.fit_dask import add_engine_options, fit_on_dask, single_table
from emphasis.cli.fits import fit_result, predictions_file, print_fit, record_fit, write_predictions
from emphasis.cli.images import add_image_fit_options, check_no_image_options, fit_images, predict_images
from emphasis.cli.options import Command, UsageError, add_no_progress_option, path_argument
from emphasis.cli.tune_table import add_search_options, print_tuning, tune_model
from emphasis.cli.weightings import weighting_from_text
from emphasis.texts import named_value

_FOLDS = 5

_FIT_DESCRIPTION = """\
Train a classifier that is robust to wrong labels, on a CSV or Parquet table of which it predicts
one column, or on images: a folder with a folder for each class, or a table with a column of paths.
The classifier is compared with cross-entropy by cross-validation and then trained on all rows. The
output folder contains the model, report.html, metrics.json and out-of-fold predictions of every
row. Missing values, categories and text labels are supported. The same command resumes a fit that
was stopped."""

_FIT_EXAMPLES = """\
examples:
  emphasis fit customers.csv --label churned
  emphasis fit customers.csv --label churned --drop id --categorical region_code
  emphasis fit wine.parquet --label cultivar --model net --weighting "DM lam=0.5 beta=8 vanishing"
  emphasis fit reviews.csv --label intent --text body --model linear
  emphasis fit reviews.csv --label intent --text body --encoder models/all-MiniLM-L6-v2
  emphasis fit reviews.csv --label intent --text body --encoder models/distilbert --fine-tune
  emphasis fit wine.parquet --label cultivar --model lightgbm --set n_estimators=400 --folds 10
  emphasis fit parts/*.parquet --label churned --engine dask --workers 2
  emphasis fit photos
  emphasis fit photos.csv --label kind --images path --size 48 --augment
  emphasis fit photos --features timm:resnet18 --weights resnet18.safetensors"""

_PREDICT_DESCRIPTION = """\
Predict the rows of a table, or images, with the model in a fit's folder: the label and the
probability of each class. Columns that the model was not trained on are ignored. If the table has
the label column, or images are in folders named after the classes, the accuracy is printed,
separately for rows that the model was trained on."""

_PREDICT_EXAMPLES = """\
examples:
  emphasis predict runs/customers new.csv
  emphasis predict runs/customers new.parquet --out predicted.csv
  emphasis predict runs/customers new.csv --id customer --out -
  emphasis predict runs/photos new_photos
  emphasis predict runs/photos 1.jpg 2.jpg --out -"""


def _add_fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table",
        type=path_argument,
        nargs="+",
        help="a CSV file with a header, a Parquet file (.parquet, .pq), or a folder with a folder of images for each "
        "class; with --engine dask all Parquet files of a table",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--label", metavar="COLUMN", help="the column to predict")
    add_table_options(data)
    data.add_argument("--weight-column", metavar="COLUMN", help="the column of sample weights, each >= 0")
    data.add_argument(
        "--labels",
        type=path_argument,
        metavar="FILE",
        help="decisions of a review (decisions.jsonl): train on corrected labels, and compare with the given labels",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="MODEL", help="xgboost (default), lightgbm, catboost, net or linear")
    model.add_argument(
        "--fine-tune",
        action="store_true",
        help="train the --encoder itself on the column of text, in place of a model of its vectors",
    )
    model.add_argument(
        "--weighting", metavar="TEXT", help='weighting of the loss, such as "GCE q=0.7" (default: Relative)'
    )
    model.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="set a parameter of the model, such as max_depth=4; repeatable",
    )
    model.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help=f"number of cross-validation folds (default: {_FOLDS}, and 3 for networks of images)",
    )
    model.add_argument(
        "--tune", action="store_true", help="first search settings and weighting, as `emphasis tune` does"
    )
    model.add_argument(
        "--trials",
        type=int,
        default=24,
        metavar="N",
        help="number of settings to try with --tune (default: %(default)s)",
    )
    add_search_options(model)
    model.add_argument("--no-compare", action="store_true", help="do not compare with cross-entropy")
    model.add_argument(
        "--no-calibration", action="store_true", help="leave probabilities as they are, even if calibration helps"
    )
    model.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of folds and models (default: %(default)s)"
    )
    add_image_fit_options(parser)
    add_engine_options(parser)
    add_executor_options(parser, "folds")
    add_tracking_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=path_argument, metavar="DIR", help="output folder (default: runs/NAME)")
    output.add_argument("--force", action="store_true", help="replace another fit in the output folder")
    add_no_progress_option(output)


def _requested_model(options: argparse.Namespace) -> str:
    """Return the kind of model that the options ask for.

    Raises:
        UsageError: Options exclude each other, or `--encoder` is missing.
    """
    if not options.fine_tune:
        return options.model or "xgboost"
    if options.model is not None:
        raise UsageError(
            f"--fine-tune trains the encoder of the texts, and --model {options.model} another model; leave out one"
        )
    if not options.encoder:
        raise UsageError(
            "--fine-tune trains a pretrained encoder of texts; name its folder, or its name in the local cache of "
            "Hugging Face, with --encoder"
        )
    if options.tune:
        raise UsageError("--tune does not search settings of --fine-tune; give them with --set learning_rate=5e-5")
    return "fine-tuned"


def _fit(options: argparse.Namespace) -> None:
    options.model = _requested_model(options)
    if options.engine == "dask":
        fit_on_dask(options)
        return
    options.table, executor = single_table(options), requested_executor(options)
    from emphasis.datasets.dataset_folder import is_dataset_folder

    if (options.table.is_dir() and not is_dataset_folder(options.table)) or options.images is not None:
        if not executor.is_local:
            raise UsageError(f"--executor {executor.name} is for tables")
        fit_images(options)
        return
    check_no_image_options(options)
    if options.label is None:
        raise UsageError(f"name the column of {options.table} to predict: --label COLUMN")
    options.folds = _FOLDS if options.folds is None else options.folds
    from rich.console import Console

    from emphasis.cli.progress import JobBar
    from emphasis.datasets.table_report import in_shell
    from emphasis.extras import require_modules
    from emphasis.rich_text import plain
    from emphasis.tabular.fit import fit_table
    from emphasis.tabular.tune_space import RANGES

    require_modules("jinja2", "matplotlib")  # for the report
    console = Console()
    weighting = None if options.weighting is None else weighting_from_text(options.weighting)
    options.folder = options.out or Path("runs") / options.table.stem
    settings = dict(named_value(text, "NAME=VALUE", "max_depth=4") for text in options.settings)
    with JobBar(options) as bar:
        tracking = requested_tracking(options, bar, options.folder, options.folder.name)
        bar.loading("reading the table", 0, 0)
        if options.tune:
            tuning = tune_model(options, options.table, options.folder.with_name(f"{options.folder.name}-tune"), bar)
            weighting, settings = tuning.recommended.weighting, settings | dict(tuning.recommended.settings)
        result = fit_table(
            options.table,
            label=options.label,
            folder=options.folder,
            model=options.model,
            weighting=weighting,
            compare=not options.no_compare,
            calibrate=not options.no_calibration,
            folds=options.folds,
            seed=options.seed,
            settings=settings,
            weight_column=options.weight_column,
            decisions=options.labels,
            **requested_table_options(options),
            executor=executor,
            force=options.force,
            progress=bar.loading,
            on_report=bar.notes,
        )
        record_fit(tracking, result.request, result.scores, result.folder)
    notes = [] if result.prepared is None else result.prepared.report.lines(in_shell)
    options.result = fit_result(result, options.label, notes)
    if options.tune:
        print_tuning(tuning, "", console)
    print_fit(result, console)
    if not options.tune and options.model in RANGES:
        searched = ", ".join(RANGES[options.model])
        console.print(
            plain(
                f"Nothing was searched: with --tune, or with `emphasis tune`, {options.trials} settings of {searched} "
                f"and weighting would be tried, up to {3 * options.trials} trainings (here: "
                f"{options.folds * len(result.probabilities) + 1})."
            )
        )


def _add_predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=path_argument, metavar="FOLDER", help="folder that `emphasis fit` wrote, such as runs/customers"
    )
    parser.add_argument(
        "table",
        type=path_argument,
        nargs="+",
        help="CSV or Parquet file with the columns that the model was trained on; for a model of images any files, "
        "folders and tables of images",
    )
    data = parser.add_argument_group("data")
    add_id_option(data)
    data.add_argument(
        "--encoder", metavar="NAME", help="current folder of the text encoder, if it was moved after the fit"
    )
    add_reading_options(data)
    data.add_argument("--images", metavar="COLUMN", help="the column of image files in tables of images")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=path_argument,
        metavar="FILE",
        help="a .csv or .parquet file, or - for the standard output (default: TABLE-predicted, beside the table)",
    )


def _predict(options: argparse.Namespace) -> None:
    from emphasis.extras import require_modules
    from emphasis.tabular.predict import predict_table
    from emphasis.tabular.saved import load_model, model_kind

    if model_kind(options.model) == "images":
        predict_images(options)
        return
    if len(options.table) > 1 or options.images is not None:
        raise UsageError(f"{options.model} is a model of tables, which predicts one table at a time")
    (options.table,) = options.table
    require_modules("pandas")
    out = predictions_file(options, options.table)
    model = load_model(options.model, encoder=options.encoder or "")
    predictions = predict_table(model, options.table, requested_reading(options), id_column=options.id_column or "")
    write_predictions(predictions, out, options, model.label, f"the column {model.label!r}", model.classes)


COMMANDS = [
    Command(
        name="fit",
        summary="train a classifier on your own table",
        description=_FIT_DESCRIPTION,
        examples=_FIT_EXAMPLES,
        add_options=_add_fit_options,
        handler=_fit,
        extras=("fit",),
        json_keys={
            "folder": "output folder",
            "label": "the column that is predicted",
            "model": "kind of model",
            "rows": "number of rows with a label",
            "classes": "names of the classes",
            "scores": "the scores of metrics.json: by method, their difference to cross-entropy, and the verdict",
            "notes": "observations about the table, and the actions taken",
        },
        resume_hint="the same command resumes after the last fold that was finished",
    ),
    Command(
        name="predict",
        summary="apply a fitted model to a table",
        description=_PREDICT_DESCRIPTION,
        examples=_PREDICT_EXAMPLES,
        add_options=_add_predict_options,
        handler=_predict,
        extras=("fit",),
        json_keys={
            "file": "file of the predictions",
            "rows": "number of rows that were predicted",
            "label": "the column that is predicted",
            "classes": "names of the classes",
            "labeled": "number of rows that have a label",
            "correct": "number of them that are predicted as labeled",
            "accuracy": "sentences about the accuracy, separately for rows that the model was trained on",
            "notes": "observations about the table",
        },
    ),
]
