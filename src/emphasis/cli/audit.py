"""The command `emphasis audit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from emphasis.cli.options import UsageError, weighting_of_text
from emphasis.datasets.table import is_parquet, read_table, separator_of, write_table
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.reports.audit_page import audit_page
from emphasis.experiments.studies import audit as audits
from emphasis.experiments.studies.own_data import recipe_of
from emphasis.rich_text import PlainColumn, PlainTable, plain
from emphasis.texts import named_value
from emphasis.training.settings import Execution
from emphasis.weighting import DEFAULT_WEIGHTING

_SHOWN, _SHOWN_COLUMNS = 10, 5


def audit(options: argparse.Namespace) -> int:
    """Find suspect labels, print and write what was found, and return the exit code."""
    console = Console()
    path = Path(options.what)
    if options.suspects is not None:
        _check_table("suspects", options.suspects)
    if options.export is not None:
        _check_export(options)
    if audits.is_trace(path):
        for name in ("label", "drop", "categorical", "missing", "size", "channels", "only", "noise_rate", "weighting",
                     "iterations", "settings", "export"):  # fmt: skip
            if getattr(options, name) not in (None, []):
                flag = "set" if name == "settings" else name.replace("_", "-")
                raise UsageError(f"--{flag} has no meaning for a trace: {path} holds what was trained")
        folder = options.folder = options.out or path
        found = audits.audit_trace(path)
    else:
        found, folder = _train(options, console)
    values = _columns(options) if options.label else {}
    audits.write_audit(found, folder, lambda one: audit_page(one, ["emphasis", *sys.argv[1:]], values))
    if options.suspects is not None:
        import pandas as pd

        write_table(pd.DataFrame(audits.suspects_table(found)), options.suspects)
    if options.export is not None:
        _export(options, found)
    _print(found, folder, console)
    if options.suspects is not None:
        console.print(plain(f"The ranking: {options.suspects}"))
    if options.export is not None:
        console.print(plain(f"The table with cleaned labels and weights: {options.export}"))
    return 0


def _train(options: argparse.Namespace, console: Console) -> tuple[audits.Audit, Path]:
    recipe = recipe_asked_for(options)
    weighting = DEFAULT_WEIGHTING if options.weighting is None else weighting_of_text(options.weighting)
    columns = (PlainColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), PlainColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=options.no_progress, transient=True) as bar:
        task = bar.add_task("preparing the data", total=None)
        one, split = audits.prepared(
            recipe, weighting, condition=options.only or "", noise_rate=options.noise_rate,
            iterations=options.iterations, root=options.data,
            loading=lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None),
        )  # fmt: skip
        folder = options.folder = options.out or Path("runs") / one.name
        found = audits.audit(
            one, split, folder, root=options.data, execution=Execution(options.accelerator), force=options.force,
            progress=lambda _, done, total: bar.update(task, description="training", completed=done, total=total),
            say=lambda message: console.print(plain(message)),
        )  # fmt: skip
    return found, folder


def recipe_asked_for(options: argparse.Namespace) -> Recipe:
    """Return the recipe of the data that `audit` or `tune` is given, with its settings changed as asked for."""
    for text in options.settings:
        if not text.startswith(("network.", "solver.")):
            raise UsageError(f"--set {text} is not allowed; set something of network or solver")
    if options.iterations is not None and options.iterations < 1:
        raise UsageError(f"--iterations {options.iterations} is not allowed; use a whole number >= 1")
    data = {name: getattr(options, name) for name in ("label", "drop", "categorical", "missing", "size", "channels")}
    recipe = recipe_of(options.what, {name: value for name, value in data.items() if value})
    return recipe.changed(
        dict(named_value(text, "PART.KEY=VALUE", "network.name=resnet20") for text in options.settings)
    )


def _columns(options: argparse.Namespace) -> Mapping[str, Sequence[Any]]:
    """Return the table's first columns besides the label, to be shown."""
    table = read_table(Path(options.what), options.missing)
    names = [name for name in table.columns if name != options.label][:_SHOWN_COLUMNS]
    return {name: table[name].tolist() for name in names}


def _check_table(option: str, out: Path) -> None:
    """Find out what would keep a table from being written before anything is trained."""
    import pandas  # noqa: F401

    if out.suffix.lower() not in (".csv", ".parquet", ".pq"):
        raise UsageError(f"--{option} {out} is not allowed; use a name that ends in .csv or .parquet")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"--{option} {out}: there is no folder {out.parent}")


def _check_export(options: argparse.Namespace) -> None:
    """Find out what would keep the table from being written before anything is trained."""
    source, out = Path(options.what), options.export
    if options.label is None or options.noise_rate:
        raise UsageError("--export writes a table's own labels cleaned: it needs --label, and no --noise-rate")
    _check_table("export", out)
    if out.resolve() == source.resolve():
        raise UsageError("--export is the table itself; choose another file")
    taken = set(_added(options)) & set(read_table(source, options.missing).columns)
    if taken:
        raise UsageError(f"the table has a column {min(taken)!r} already, which --export would write; remove it, lest "
                         "an earlier audit's verdicts be learned from, too")  # fmt: skip


def _added(options: argparse.Namespace) -> list[str]:
    return [f"{options.label}_cleaned", "suspect", "sample_weight"]


def _export(options: argparse.Namespace, found: audits.Audit) -> None:
    """Write the table as it is with three columns more."""
    import pandas as pd

    source, s = Path(options.what), found.suspects
    if is_parquet(source):
        table = read_table(source)
    else:  # every cell as it is written
        table = pd.read_csv(source, sep=separator_of(source), dtype=str, keep_default_na=False, skipinitialspace=True)
    given = table[options.label].tolist()
    written = dict(zip(found.labels.tolist(), given, strict=True))  # a class as the table writes it, 010 for 10
    cleaned = [written[new] if wrong else old
               for old, new, wrong in zip(given, s.suggested.tolist(), s.suspect, strict=True)]  # fmt: skip
    for name, values in zip(_added(options), (cleaned, s.suspect, s.sample_weight), strict=True):
        table[name] = values
    write_table(table, options.export)


def _print(found: audits.Audit, folder: Path, console: Console) -> None:
    numbers, s = found.numbers, found.suspects
    console.print(plain(f"{found.title}: {numbers['suspects']:,} of {numbers['examples']:,} labels "
                       f"({100 * numbers['estimated_noise_rate']:.1f} %) look wrong", style="bold"))  # fmt: skip
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1), title="The most suspicious", title_justify="left")
    for name in ("Row", "Given", "Suggested", "Score"):
        table.add_column(name, justify="right" if name in ("Row", "Score") else "left")
    for place in s.order[:_SHOWN]:
        which = found.sources[place] if found.sources else str(found.rows[place])
        table.add_row(which, found.name_of(found.labels[place]), found.name_of(s.suggested[place]),
                      f"{s.score[place]:.2f}")  # fmt: skip
    console.print(table)
    if "auroc" in numbers:
        console.print(plain(
            f"Known here: {100 * numbers['true_noise_rate']:.1f} % are wrong; precision of the suspects "
            f"{numbers['precision']:.3f}, recall {numbers['recall']:.3f}; AUROC of the ranking {numbers['auroc']:.4f}, "
            f"average precision {numbers['average_precision']:.4f}"
        ))  # fmt: skip
    console.print(plain(f"Written to {folder}: {audits.PAGE}, {audits.SUSPECTS}, {audits.AUDIT}"))
