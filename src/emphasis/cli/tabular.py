"""The commands `emphasis fit` and `emphasis predict`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from emphasis.cli.options import UsageError, weighting_of_text
from emphasis.datasets.table import read_table, write_table
from emphasis.datasets.table_encoder import LevelsColumn, text_of
from emphasis.rich_text import PlainColumn, PlainTable, plain
from emphasis.tabular.fit import fit_table
from emphasis.tabular.report import TITLES, metrics
from emphasis.tabular.result import Fit
from emphasis.tabular.saved import load_model
from emphasis.texts import named_value


def fit(options: argparse.Namespace) -> int:
    """Fit a table, print what was found, and return the exit code."""
    console = Console()
    weighting = None if options.weighting is None else weighting_of_text(options.weighting)
    options.folder = options.out or Path("runs") / options.table.stem
    columns = (
        PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=options.no_progress, transient=True) as bar:
        settings = dict(named_value(text, "NAME=VALUE", "max_depth=4") for text in options.settings)
        task = bar.add_task("reading the table", total=None)
        found = fit_table(
            options.table, label=options.label, folder=options.folder,
            model=options.model, weighting=weighting, compare=not options.no_compare, folds=options.folds,
            seed=options.seed, settings=settings, drop=options.drop, categorical=options.categorical,
            missing=options.missing, max_levels=options.max_levels, weight_column=options.weight_column,
            force=options.force,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )  # fmt: skip
    _print(found, console)
    return 0


def predict(options: argparse.Namespace) -> int:
    """Predict a table, print what was written, and return the exit code."""
    import pandas as pd

    out = options.out or options.table.with_name(f"{options.table.stem}-predicted{options.table.suffix}")
    if out.suffix.lower() not in (".csv", ".parquet", ".pq"):
        raise UsageError(f"--out {out} is not allowed; use a name that ends in .csv or .parquet")
    if out.resolve() == options.table.resolve():
        raise UsageError("--out is the table itself; choose another file")
    model = load_model(options.model)
    table = read_table(options.table, options.missing)
    p = model.predict_proba(table)
    names = np.array(model.classes)
    lines = {"row": np.arange(len(p)), "predicted": names[p.argmax(1)]}
    frame = pd.DataFrame(lines | {f"p_{name}": p[:, at] for at, name in enumerate(model.classes)})
    write_table(frame, out)
    for column in model.encoder.columns:
        if isinstance(column, LevelsColumn) and (count := column.unknown(table[column.name])):
            print(f"note: column {column.name!r} holds values in {count} rows that the model has never seen")
    if model.label in table.columns:
        known = table[model.label].notna()
        given = np.array([text_of(value) for value in table.loc[known, model.label]])
        if len(given):
            agree = given == lines["predicted"][known.to_numpy()]
            print(f"accuracy by the column {model.label!r}: {agree.mean():.4f} (n = {len(given)})")
    print(f"{len(p)} rows predicted: {out}")
    return 0


def _print(found: Fit, console: Console) -> None:
    table = PlainTable(box=box.SIMPLE_HEAD, padding=0, title=f"Held-out rows, {found.request['folds']} folds",
                  title_justify="left")  # fmt: skip
    table.add_column("Learned with")
    for title in TITLES.values():
        table.add_column(title, justify="right")
    said = metrics(found)
    for name, numbers in said["methods"].items():
        table.add_row(name, *(f"{numbers[m]['mean']:.3f} +- {numbers[m]['std']:.3f}" for m in TITLES))
    if "difference" in said:
        difference = said["difference"]
        table.add_row("difference", *(f"{difference[m]['mean']:+.3f} +- {difference[m]['std']:.3f}" for m in TITLES))
    console.print(table)
    console.print(plain("Judged by the labels as given, wrong ones included."), style="dim")
    console.print(plain(f"Written to {found.folder}: report.html, {found.predictions_name}, metrics.json, model"))
