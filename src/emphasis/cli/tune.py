"""`emphasis tune`: choose a weighting for labels that nobody has checked."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emphasis.cli.data_options import add_own_data_options, requested_data_recipe
from emphasis.cli.executor_options import (
    add_executor_options,
    add_locks_option,
    add_tracking_options,
    requested_tracking,
)
from emphasis.cli.options import (
    RESUMES,
    Command,
    UsageError,
    add_accelerator_option,
    add_network_options,
    add_no_progress_option,
    add_workers_option,
    check_worker_options,
    name_or_path_argument,
    path_argument,
    requested_context,
)
from emphasis.cli.tune_table import TABLES, add_search_options, numbers, print_tuning, tune_model

if TYPE_CHECKING:
    from rich.console import Console

    from emphasis.experiments.studies.tuning_result import TuningResult

_MAX_TRIALS_SHOWN = 8
_OF_NETWORKS = ("assume_rate", "vary", "iterations", "only", "noise_rate", "data", "workers", "size", "channels")

_DESCRIPTION = """\
For a table: search for the best weighting and settings of the model that `emphasis fit` trains,
including its learning rate, by a score on held-out rows. The command prints the `emphasis fit`
command that uses the best settings, and writes them to tune.json in the output folder.

For images and recipes, and for a table with an option for networks such as --vary or --assume-rate:
choose a weighting and a learning rate for data whose labels nobody has checked. The share of wrong
labels is estimated as in `emphasis audit`, and determines DM's lambda: the more noise, the easier
the examples to emphasize (section 4.1 of the paper). Values of beta, the plain and the vanishing
form of DM, normalizations and learning rates are tried and compared on held-out labels. These
contain wrong labels as well, but rank settings as correct labels would. Settings that are worse on
the first held-out part are not tried on the others. Cross-entropy, at its own best learning rate,
is recommended unless the best weighting is clearly better. The output folder contains tune.html,
tune.json and the networks. The same command resumes a search that was stopped."""

_EXAMPLES = """\
examples:
  emphasis tune customers.csv --label churned
  emphasis tune customers.csv --label churned --model lightgbm --metric balanced_accuracy
  emphasis tune digits --noise-rate 0.4
  emphasis tune photos --trials 12 --folds 2
  emphasis tune customers.csv --label churned --assume-rate 0.2
  emphasis tune digits --vary weighting.lam=0:2 --vary weighting.beta=0.5:24:log"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=name_or_path_argument,
        metavar="DATA",
        help="a table (.csv, .parquet), a folder of images, or a recipe's name or file",
    )
    search = parser.add_argument_group("search")
    search.add_argument(
        "--model", metavar="MODEL", help="a table's model: xgboost (default), lightgbm, catboost, net or linear"
    )
    add_search_options(search)
    search.add_argument(
        "--assume-rate", type=float, metavar="R", help="share of wrong labels, if you know it (default: estimated)"
    )
    search.add_argument(
        "--trials", type=int, default=24, metavar="N", help="number of settings to try (default: %(default)s)"
    )
    search.add_argument(
        "--folds",
        type=int,
        default=3,
        metavar="N",
        help="number of folds: for a table at least 2; otherwise 1 to 5, each of which holds out a fifth of the data "
        "(default: %(default)s)",
    )
    search.add_argument("--seeds", type=int, default=1, metavar="N", help="networks per trial and fold (default: 1)")
    search.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="PART.KEY=VALUES",
        help="values to try for a setting: A,B,C or LOW:HIGH or LOW:HIGH:log; repeatable (default: weighting.beta, "
        "weighting.vanishing, normalization); the learning rate is searched as well unless --set gives it",
    )
    training = parser.add_argument_group("training")
    add_network_options(training)
    machine = parser.add_argument_group("machine")
    add_accelerator_option(machine)
    add_workers_option(machine)
    add_locks_option(add_executor_options(parser))
    add_tracking_options(parser)
    add_own_data_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=path_argument, metavar="DIR", help="output folder (default: runs/NAME-tune)")
    output.add_argument("--force", action="store_true", help="start again, and replace what the folder holds")
    add_no_progress_option(output)


def _tune(options: argparse.Namespace) -> None:
    asked = [f"--{name.replace('_', '-')}" for name in _OF_NETWORKS if getattr(options, name, None) not in (None, [])]
    asked += [f"--set {text}" for text in options.settings if text.startswith(("network.", "solver."))]
    asked += ["--seeds"] if options.seeds != 1 else []
    if Path(options.source).suffix.lower() in TABLES and options.label and not (asked and options.model is None):
        if asked:
            raise UsageError(f"{asked[0]} is for networks, and --model for a table's model: give only one of them")
        _tune_table(options)
        return
    if options.model is not None:
        raise UsageError("--model is for tables: give a table (.csv, .parquet) and its --label")
    _tune_network(options)


def _tune_table(options: argparse.Namespace) -> None:
    from rich.console import Console

    from emphasis.cli.progress import JobBar
    from emphasis.extras import require_modules
    from emphasis.tabular.report import command

    if options.track is not None:
        from emphasis.experiments.tracking.fits import rows_of_trials

    require_modules("optuna", "jinja2")
    table = Path(options.source)
    folder = options.folder = options.out or Path("runs") / f"{table.stem}-tune"
    with JobBar(options) as bar:
        tracking = requested_tracking(options, bar, folder, folder.name)
        tuning = tune_model(options, table, folder, bar)
    if tracking is not None:
        tracking.finish(rows_of_trials(tuning.request, tuning.metric, tuning.trials), [])
    text = command(tuning.request, folder.with_name(f"{folder.name.removesuffix('-tune')}-tuned"))
    options.result = numbers(tuning, text)
    print_tuning(tuning, text, Console())


def _tune_network(options: argparse.Namespace) -> None:
    if options.assume_rate is not None and not 0.0 <= options.assume_rate <= 1.0:
        raise UsageError(f"--assume-rate {options.assume_rate} is not allowed; use a share, 0 to 1")
    check_worker_options(options)
    from rich.console import Console

    from emphasis.cli.progress import JobBar
    from emphasis.experiments.reports.audit_page import audit_page
    from emphasis.experiments.reports.tune_page import tune_page
    from emphasis.experiments.studies import tune as tuning
    from emphasis.experiments.studies.audit_result import write_audit
    from emphasis.experiments.studies.space import parse_vary
    from emphasis.experiments.studies.tuning_result import numbers as network_numbers
    from emphasis.files import write_text

    console = Console()
    recipe = requested_data_recipe(options)
    folder = options.folder = options.out or Path("runs") / f"{recipe.name}-tune"
    with JobBar(options) as bar:
        tracking = requested_tracking(options, bar, folder, folder.name)
        result = tuning.tune(
            recipe,
            folder,
            requested_context(options),
            tracking or bar,
            condition=options.only or "",
            noise_rate=options.noise_rate,
            assumed_rate=options.assume_rate,
            space=[parse_vary(text) for text in options.vary] or tuning.SPACE,
            trials=options.trials,
            folds=options.folds,
            seeds=options.seeds,
            iterations=options.iterations,
            force=options.force,
        )
    command = ["emphasis", *sys.argv[1:]]
    if result.audit is not None:
        write_audit(result.audit, folder / tuning.AUDIT, lambda audit: audit_page(audit, command))
    write_text(folder / tuning.PAGE, tune_page(result, command))
    if tracking is not None:
        tracking.finish([], [folder / tuning.PAGE])
    options.result = {"folder": folder, "title": result.title, "verdict": result.verdict, **network_numbers(result)}
    _print_result(result, folder, console)


def _print_result(result: TuningResult, folder: Path, console: Console) -> None:
    from rich import box

    from emphasis.experiments.reports.summary import percent
    from emphasis.experiments.studies import tune as tuning
    from emphasis.experiments.studies.tuning_result import described
    from emphasis.rich_text import PlainTable, plain

    low, high = (100 * end for end in result.interval)
    source = "as given" if result.rate_is_given else f"estimated; {low:.0f} to {high:.0f} % is possible"
    rate = f"{100 * result.noise_rate:.1f} % of the labels wrong, {source}"
    console.print(plain(f"{result.title}: {rate}", style="bold"))
    if result.doubtful:
        console.print(
            plain(
                "Do not rely on that estimate: with two classes it is often far too low. If you know the share, pass "
                "it with --assume-rate."
            )
        )
    console.print(plain(result.verdict))
    console.print(plain(f"Recommended: {result.python}, learning rate {result.learning_rate:.3g}", style="bold"))
    title = "Accuracy on held-out labels, including wrong ones"
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1), title=title, title_justify="left")
    table.add_column("Settings")
    table.add_column("Accuracy (%)", justify="right")
    table.add_column("Folds", justify="right")
    for trial in result.ranked[:_MAX_TRIALS_SHOWN]:
        table.add_row(described(trial), percent(trial.mean, trial.std), str(trial.folds))
    baseline = result.baseline
    accuracy = percent(baseline.mean, baseline.std)
    table.add_row(f"cross-entropy, {described(baseline)}", accuracy, str(baseline.folds))
    console.print(table)
    console.print(plain(f"Written to {folder}: {tuning.PAGE}, {tuning.TUNE}"))


COMMANDS = [
    Command(
        name="tune",
        summary="choose a weighting for labels that nobody has checked",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_tune,
        extras=("search", "table", "text"),
        json_keys={
            "folder": "output folder",
            "title": "title of the data",
            "verdict": "reason of the recommendation, in one sentence",
            "noise_rate": "estimated share of wrong labels, or the one that was given",
            "told": "whether the share was given",
            "noise_rate_interval": "lowest and highest possible share",
            "noise_rate_doubtful": "whether the estimate should not be relied on",
            "unlearned": "share of its training labels that cross-entropy contradicts",
            "mixture_rate": "share of wrong labels by a mixture of two normal distributions",
            "num_classes": "number of classes",
            "lam": "lambda by the share of wrong labels",
            "recommended": "DM or cross-entropy",
            "difference": "`mean` and `std` of the best DM's accuracy minus cross-entropy's",
            "learning_rate": "recommended learning rate",
            "weighting": "recommended weighting, as a dictionary",
            "normalization": "recommended normalization",
            "python": "Python code of the recommended loss",
            "validation": "accuracy of the best trial: `mean`, `std` and number of `folds`",
            "best_trial": "settings of the best trial",
            "cross_entropy": "the same for cross-entropy, with its settings",
            "trials": "number of trials",
            "stopped_early": "number of trials that were not evaluated on every fold",
        },
        resume_hint=RESUMES,
    )
]
