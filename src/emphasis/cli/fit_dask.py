"""The part of `emphasis fit` that is about tables in several files, on a Dask cluster."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from emphasis.cli.data_options import requested_table_options
from emphasis.cli.executor_options import requested_executor, requested_tracking
from emphasis.cli.fits import print_scores, record_fit
from emphasis.cli.options import UsageError, add_workers_option
from emphasis.cli.weightings import weighting_from_text
from emphasis.texts import named_value

if TYPE_CHECKING:
    from rich.console import Console

    from emphasis.tabular.on_dask import PartsFit

_FOLDS = 5
_ALLOWED = ("drop", "categorical", "max_levels")
_NOT_ALLOWED = {
    "tune": "search settings with one of the files, `emphasis tune FILE`, and give them with --set",
    "labels": "write the corrected labels into the files (`emphasis labels export`)",
    "images": "images are fitted without --engine dask",
}


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and the options of the Dask cluster."""
    group = parser.add_argument_group("tables in several files")
    group.add_argument(
        "--engine",
        choices=("memory", "dask"),
        default="memory",
        help="memory (default), or dask: XGBoost on a Dask cluster, each Parquet file being a partition",
    )
    group.add_argument(
        "--scheduler",
        metavar="HOST:PORT",
        help="the Dask scheduler to join (default: a cluster of processes of this machine)",
    )
    add_workers_option(group)


def single_table(options: argparse.Namespace) -> Path:
    """Return the table of a fit in memory.

    Raises:
        UsageError: There are several, or an option is for `--engine dask`.
    """
    if len(options.table) > 1:
        raise UsageError("several files are fitted as one table by --engine dask only")
    for name in ("scheduler", "workers"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} is for --engine dask")
    table: Path = options.table[0]
    return table


def fit_on_dask(options: argparse.Namespace) -> None:
    """Fit the files on Dask and print the result."""
    _check(options)
    from rich.console import Console

    from emphasis.cli.progress import JobBar
    from emphasis.tabular.on_dask import fit_parts, joined_cluster

    first = options.table[0].absolute()
    options.folder = options.out or Path("runs") / (first.parent.name if len(options.table) > 1 else first.stem)
    with joined_cluster(options.scheduler, options.workers) as client, JobBar(options) as bar:
        tracking = requested_tracking(options, bar, options.folder, options.folder.name)
        result = fit_parts(
            options.table,
            label=options.label,
            folder=options.folder,
            client=client,
            weighting=None if options.weighting is None else weighting_from_text(options.weighting),
            compare=not options.no_compare,
            folds=_FOLDS if options.folds is None else options.folds,
            seed=options.seed,
            settings=dict(named_value(text, "NAME=VALUE", "max_depth=4") for text in options.settings),
            weight_column=options.weight_column,
            force=options.force,
            progress=bar.loading,
            **requested_table_options(options),
        )
        record_fit(tracking, result.request, result.scores, result.folder)
    options.result = {
        "folder": result.folder,
        "label": result.label,
        "model": "xgboost",
        "rows": result.rows,
        "classes": result.classes,
        "scores": result.scores,
        "notes": [],
    }
    _print(result, Console())


def _check(options: argparse.Namespace) -> None:
    """Raise UsageError for what a fit on Dask cannot do."""
    if options.label is None:
        raise UsageError("name the column to predict: --label COLUMN")
    if other := [file for file in options.table if file.suffix.lower() not in (".parquet", ".pq")]:
        raise UsageError(f"--engine dask reads Parquet files, and not {other[0]}")
    if options.model != "xgboost":
        raise UsageError(
            f"--engine dask trains xgboost, and not {options.model}; EmphasisDaskLGBMClassifier in "
            "emphasis.boosting.dask trains LightGBM"
        )
    if not requested_executor(options).is_local:
        raise UsageError("--engine dask and --executor cannot be combined; Dask distributes the rows over its workers")
    for name, cure in _NOT_ALLOWED.items():
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--{name} is not supported by --engine dask; {cure}")
    for name in requested_table_options(options):
        if name not in _ALLOWED:
            flag = {"id_column": "id"}.get(name, name.replace("_", "-"))
            raise UsageError(
                f"--{flag} is not supported by --engine dask, which takes the types of columns from the files"
            )


def _print(result: PartsFit, console: Console) -> None:
    from emphasis.rich_text import plain

    scores = result.scores
    console.print(plain(f"xgboost on Dask, weighting {next(iter(scores['methods']))}"))
    print_scores(scores, f"Held-out rows, {result.request['folds']} folds, {result.rows:,} rows", console)
    console.print(plain("Evaluated on the labels as given, including wrong ones.", style="dim"))
    console.print(plain(f"Written to {result.folder}: predictions, metrics.json, model"))
    folder = shlex.quote(str(result.folder))
    console.print(plain(f"Find wrong labels with: emphasis audit {shlex.quote(str(result.folder / 'predictions'))}"))
    console.print(plain(f"Predict others with: emphasis predict {folder} NEW"))
