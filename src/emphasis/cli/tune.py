"""The command `emphasis tune`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich import box
from rich.console import Console

from emphasis.cli.audit import recipe_asked_for
from emphasis.cli.options import UsageError
from emphasis.cli.progress import JobBar, default_workers
from emphasis.experiments.reports.audit_page import audit_page
from emphasis.experiments.reports.summary import percent
from emphasis.experiments.reports.tune_page import tune_page
from emphasis.experiments.studies import tune as tuning
from emphasis.experiments.studies.audit import write_audit
from emphasis.experiments.studies.search import parse_vary
from emphasis.files import write_text
from emphasis.rich_text import PlainTable, plain
from emphasis.training.settings import Execution

_SHOWN = 8  # trials


def tune(options: argparse.Namespace) -> int:
    """Choose a weighting, print and write what was found, and return the exit code."""
    if options.assume_rate is not None and not 0.0 <= options.assume_rate <= 1.0:
        raise UsageError(f"--assume-rate {options.assume_rate} is not allowed; use a share, 0 to 1")
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"--workers {options.workers} is not allowed; use a whole number >= 1")
    console, execution = Console(), Execution(options.accelerator)
    recipe = recipe_asked_for(options)
    folder = options.folder = options.out or Path("runs") / f"{recipe.name}-tune"
    with JobBar(console, not options.no_progress) as bar:
        found = tuning.tune(
            recipe, folder, condition=options.only or "", noise_rate=options.noise_rate,
            assumed_rate=options.assume_rate, space=[parse_vary(text) for text in options.vary] or tuning.SPACE,
            trials=options.trials, folds=options.folds, seeds=options.seeds, iterations=options.iterations,
            root=options.data, execution=execution, workers=options.workers or default_workers(execution),
            force=options.force, progress=bar.update, loading=bar.load,
            say=lambda message: console.print(plain(message)),
        )  # fmt: skip
    command = ["emphasis", *sys.argv[1:]]
    if found.audit is not None:
        write_audit(found.audit, folder / tuning.AUDIT, lambda one: audit_page(one, command))
    write_text(folder / tuning.PAGE, tune_page(found, command))
    _print(found, folder, console)
    return 0


def _print(found: tuning.Tuned, folder: Path, console: Console) -> None:
    low, high = (100 * end for end in found.interval)
    how = "as told" if found.told else f"estimated; {low:.0f} to {high:.0f} % is possible"
    console.print(plain(f"{found.title}: {100 * found.noise_rate:.1f} % of the labels wrong, {how}", style="bold"))
    if found.doubtful:
        console.print(plain("Do not rely on that estimate: with two classes it is often far too low. If you know the "
                            "share, say so: --assume-rate"))  # fmt: skip
    console.print(plain(found.verdict))
    console.print(plain(f"Recommended: {found.python}, learning rate {found.learning_rate:.3g}", style="bold"))
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1), title="Accuracy on held-out labels, wrong ones and all",
                  title_justify="left")  # fmt: skip
    table.add_column("Settings")
    table.add_column("Accuracy (%)", justify="right")
    table.add_column("Folds", justify="right")
    for trial in found.ranked[:_SHOWN]:
        table.add_row(tuning.described(trial), percent(trial.mean, trial.std), str(trial.folds))
    baseline = found.baseline
    table.add_row(f"cross-entropy, {tuning.described(baseline)}", percent(baseline.mean, baseline.std),
                  str(baseline.folds))  # fmt: skip
    console.print(table)
    console.print(plain(f"Written to {folder}: {tuning.PAGE}, {tuning.TUNE}"))
