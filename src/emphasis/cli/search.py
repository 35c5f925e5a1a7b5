"""`emphasis search`: search for a method's best settings on held-out data."""

from __future__ import annotations

import argparse
from pathlib import Path

from emphasis.cli.executor_options import requested_tracking
from emphasis.cli.options import (
    RESUMES,
    Command,
    add_recipe_options,
    check_worker_options,
    requested_context,
    requested_recipe,
)

_MAX_TRIALS_SHOWN = 10

_DESCRIPTION = """\
Search for the best settings of one method. Every trial trains on 80 % of the training data, noise
included, and is evaluated on the other 20 % with their true labels. If a data set comes with a
validation part, as Clothing1M does, trials are evaluated on that instead. A network with the best
settings is then trained on all of the training data and evaluated on the test set, which is not
used before. The same command resumes a search that was stopped."""

_EXAMPLES = """\
examples:
  emphasis search digits --method "DM 0.5/8 integral"
  emphasis search digits --method "GCE q=0.7" --vary weighting.q=0.1:1 --trials 16
  emphasis search table8 --scaled --only "r = 40 %" --method DM --vary weighting.beta=2,4,8,12
  emphasis search digits --method CCE --vary solver.learning_rate=0.003:0.3:log
  emphasis search table3 --data DATA --method DM --vary weighting.lam=0.5,1,2"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("search")
    search.add_argument("--method", required=True, metavar="METHOD", help="the recipe's method to start from")
    search.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="PART.KEY=VALUES",
        help="values to try for a setting: A,B,C or LOW:HIGH or LOW:HIGH:log; repeatable (default: DM's lam and beta)",
    )
    search.add_argument(
        "--trials", type=int, default=32, metavar="N", help="number of settings to try (default: %(default)s)"
    )
    search.add_argument(
        "--batch", type=int, default=8, metavar="N", help="number of trials to train at once (default: %(default)s)"
    )
    search.add_argument(
        "--validation",
        type=_validation,
        metavar="SHARE",
        help="share of the training data to hold out, or 'own': the validation part that the data set comes with "
        "(default: own if there is one, such as in Clothing1M, otherwise 0.2)",
    )
    search.add_argument("--noisy-validation", action="store_true", help="evaluate on noisy labels, as with real data")
    search.add_argument(
        "--no-retrain", action="store_true", help="do not train with the best settings on all of the training data"
    )
    add_recipe_options(parser, "runs/RECIPE-search")


def _validation(text: str) -> float | str:
    try:
        return text if text == "own" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a share, such as 0.2, nor own") from None


def _search(options: argparse.Namespace) -> None:
    from rich import box
    from rich.console import Console

    from emphasis.cli.progress import JobBar
    from emphasis.experiments.reports.summary import percent
    from emphasis.experiments.runs.store import SEARCH, finished_rows
    from emphasis.experiments.studies.accuracy import final_accuracy
    from emphasis.experiments.studies.search import describe_settings, search
    from emphasis.experiments.studies.space import DEFAULT_SPACE, parse_vary
    from emphasis.rich_text import PlainTable, plain

    recipe = requested_recipe(options)
    folder = options.folder = options.out or Path("runs") / f"{recipe.name}-search"
    space = [parse_vary(text) for text in options.vary] or DEFAULT_SPACE
    check_worker_options(options)
    console = Console()
    varied = ", ".join(vary.name for vary in space)
    about = f": {options.trials} trials of {options.method}, {recipe.seeds} seeds each, varying {varied}"
    if not options.quiet:
        console.print(plain(recipe.title, "bold") + plain(about))
    with JobBar(options) as bar:
        tracking = requested_tracking(options, bar, folder, f"{recipe.name}-search")
        result = search(
            recipe,
            folder,
            requested_context(options),
            tracking or bar,
            method=options.method,
            space=space,
            trials=options.trials,
            batch=options.batch,
            validation=options.validation,
            noisy_validation=options.noisy_validation,
            retrain=not options.no_retrain,
        )
        if tracking is not None:
            tracking.finish(finished_rows(folder).values(), [folder / SEARCH])
    test = dict(zip(("mean", "std"), final_accuracy(result.rows), strict=True)) if result.rows else None
    options.result = {
        "folder": folder,
        "title": recipe.title,
        "method": options.method,
        "evaluated_on": result.validation,
        "trials": [
            {"settings": trial.settings, "mean": trial.mean, "std": trial.std}
            for trial in sorted(result.trials, key=lambda trial: -trial.mean)
        ],
        "best": result.best.settings,
        "test_accuracy": test and {**test, "n": len(result.rows)},
    }
    title = f"Accuracy on {result.validation}"
    table = PlainTable(box=box.SIMPLE_HEAD, padding=0, title=title, title_justify="left")
    table.add_column("Settings")
    table.add_column("Accuracy (%)", justify="right")
    for trial in sorted(result.trials, key=lambda trial: -trial.mean)[:_MAX_TRIALS_SHOWN]:
        table.add_row(describe_settings(trial.settings), percent(trial.mean, trial.std))
    console.print(table)
    if result.rows:
        accuracy = f"{percent(*final_accuracy(result.rows))} % (n = {len(result.rows)})"
        best = describe_settings(result.best.settings)
        console.print(plain(f"{best}, trained on all training data: test accuracy {accuracy}"))
    console.print(plain(f"Written to {folder}: {SEARCH}"))


COMMANDS = [
    Command(
        name="search",
        summary="search for a method's best settings on held-out data",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_search,
        extras=("search", "table", "text"),
        json_keys={
            "folder": "output folder",
            "title": "title of the recipe",
            "method": "method that was searched",
            "trials": "list from best to worst: `settings`, and `mean` and `std` of the validation accuracy",
            "best": "settings of the best trial",
            "test_accuracy": "`mean`, `std` and number `n` of networks trained with them on all data, or null",
        },
        resume_hint=RESUMES,
    )
]
