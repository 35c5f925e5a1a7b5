"""What `emphasis tune TABLE` and `emphasis fit --tune` share: the search for the model of a table, and its result."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.cli.data_options import requested_table_options
from emphasis.cli.weightings import weighting_from_text
from emphasis.texts import named_value

if TYPE_CHECKING:
    from rich.console import Console

    from emphasis.cli.progress import JobBar
    from emphasis.tabular.tune import TableTuning

TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
_MAX_TRIALS_SHOWN = 8


def tune_model(options: argparse.Namespace, table: Path, folder: Path, bar: JobBar) -> TableTuning:
    """Return the result of a search for the model, table and label of the options."""
    from emphasis.tabular.tune import tune_table

    bar.loading("reading the table", 0, 0)
    text = getattr(options, "weighting", None)
    return tune_table(
        table,
        label=options.label,
        folder=folder,
        model=options.model or "xgboost",
        weighting=None if text is None else weighting_from_text(text),
        settings=dict(named_value(setting, "NAME=VALUE", "max_depth=4") for setting in options.settings),
        metric=options.metric,
        trials=options.trials,
        folds=min(options.folds, 3) if hasattr(options, "tune") else options.folds,
        seed=getattr(options, "seed", 0) or 0,
        weight_column=getattr(options, "weight_column", None),
        force=options.force,
        progress=bar.loading,
        **requested_table_options(options),
    )


def add_search_options(group: argparse._ArgumentGroup) -> None:
    """Add the options about the search of `fit --tune` and `tune`."""
    from emphasis.scores import METRICS

    group.add_argument(
        "--metric",
        default="accuracy",
        choices=tuple(METRICS),
        metavar="NAME",
        help=f"for a table, score on held-out rows to optimize: {', '.join(METRICS)} (default: %(default)s)",
    )


def print_tuning(tuning: TableTuning, command: str, console: Console) -> None:
    """Print trials, recommendation and the command to type."""
    from rich import box

    from emphasis.rich_text import PlainTable, plain
    from emphasis.scores import METRICS

    console.print(plain(tuning.verdict, style="bold"))
    chosen = tuning.recommended
    console.print(plain(f"Recommended: {chosen.weighting!r}, {_described(chosen.settings)}"))
    for warning in tuning.scores.get("verdict", {}).get("warnings", []) if chosen is tuning.best else ():
        console.print(plain(f"warning: {warning}"))
    title = f"{METRICS[tuning.metric].title} on held-out rows, labels as given (n = {tuning.rows:,} rows)"
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1), title=title, title_justify="left")
    table.add_column("Weighting")
    table.add_column("Settings")
    table.add_column("Score", justify="right")
    table.add_column("Folds", justify="right")
    for trial in tuning.ranked[:_MAX_TRIALS_SHOWN]:
        table.add_row(repr(trial.weighting), _described(trial.settings), f"{trial.mean:.4f}", str(len(trial.scores)))
    console.print(table)
    console.print(plain(f"Written to {tuning.folder}: tune.json"))
    if command:
        console.print(plain("To train the recommended model:"))
        console.print(plain(command, style="bold"), soft_wrap=True)


def numbers(tuning: TableTuning, command: str) -> dict[str, Any]:
    """Return the result as `--json` prints it."""
    from emphasis.tabular.tune_space import as_dict

    return {
        "folder": tuning.folder,
        "verdict": tuning.verdict,
        "metric": tuning.metric,
        "recommended": as_dict(tuning.recommended),
        "trials": [as_dict(trial) for trial in tuning.ranked],
        "scores": tuning.scores,
        "command": command,
    }


def _described(settings: Any) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in settings.items()) or "default settings"
