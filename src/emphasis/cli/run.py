"""`emphasis run`: train the networks of a recipe and report the results."""

from __future__ import annotations

import argparse
import math
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from emphasis import process
from emphasis.cli.executor_options import requested_tracking
from emphasis.cli.options import (
    RESUMES,
    Command,
    UsageError,
    add_recipe_options,
    check_worker_options,
    path_argument,
    requested_context,
    requested_recipe,
)
from emphasis.cli.report import REPORT_KEYS
from emphasis.errors import EmphasisOSError

if TYPE_CHECKING:
    from emphasis.experiments.recipes.recipe import Recipe

_DESCRIPTION = """\
Run a recipe: train every method under every condition with every seed, and write a folder with
results.jsonl (one line per network), table.csv, report.html and figures.

Networks that are already trained are not trained again. The same command resumes a run that was
stopped or killed, and gives the same numbers as a run without interruption."""

_EXAMPLES = """\
examples:
  emphasis run digits
  emphasis run digits --noise-rate 0.6 --out runs/digits-60
  emphasis run digits --seeds 2 --iterations 300 --out runs/quick
  emphasis run table9 --scaled --data ~/data
  emphasis run table5 --only "r = 0.4" --methods CCE DM
  emphasis run table9 --set network.name=resnet20 --set solver.batch_size=128 --out runs/mine
  emphasis run my-recipe.toml"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    groups = add_recipe_options(parser, "runs/RECIPE")
    training, machine, output = groups["training"], groups["machine"], groups["output"]
    training.add_argument(
        "--methods", nargs="+", default=[], metavar="METHOD", help="train these methods (table rows) only"
    )
    training.add_argument("--noise-rate", type=float, metavar="R", help="share of wrong labels, 0 to 1 (digits: 0.4)")
    training.add_argument(
        "--labels",
        type=path_argument,
        metavar="FILE",
        help="train on labels corrected by the decisions of a review (decisions.jsonl, or the folder of an audit)",
    )
    machine.add_argument(
        "--devices",
        type=int,
        metavar="N",
        default=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        help="split each batch over N devices of this machine (default: 1, or torchrun's --nproc-per-node)",
    )
    machine.add_argument(
        "--strategy",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="with several devices, each keeps the whole network (ddp, the default) or a part of it (fsdp)",
    )
    output.add_argument("--force", action="store_true", help="replace another run in the output folder")
    output.add_argument(
        "--checkpoint-seconds",
        type=float,
        metavar="S",
        default=10.0,
        help="seconds between checkpoints (default: %(default)g)",
    )


def _run(options: argparse.Namespace) -> None:
    if not 0.0 <= options.checkpoint_seconds < math.inf:
        raise UsageError(f"--checkpoint-seconds {options.checkpoint_seconds} is not allowed; use seconds >= 0")
    recipe = requested_recipe(options, options.methods)
    if options.noise_rate is not None:
        recipe = _with_noise_rate(recipe, options.noise_rate)
    if options.labels is not None:
        from emphasis.experiments.runs.reviewed_labels import labels_settings

        recipe = recipe.changed(labels_settings(options.labels))
    check_worker_options(options)
    options.folder = options.out or Path("runs") / recipe.name
    run_in_console(recipe, options.folder, options)


def run_in_console(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """Run `recipe`, write its report, and print it.

    Raises:
        JobError, UnforeseenJobError: A job failed; the results of the other jobs are written and printed first.
        EmphasisOSError: The folder cannot be written to; the results are printed first.
    """
    networks = sum(1 for _ in recipe.cells())  # names mistyped settings before anything heavy is imported

    from rich.console import Console

    from emphasis.cli.progress import RunBars
    from emphasis.experiments.reports.report import print_report, read_summary, summary_json, write_report
    from emphasis.experiments.runs.failures import JobError, UnforeseenJobError
    from emphasis.experiments.runs.runner import run
    from emphasis.experiments.runs.store import RESULTS, rows_of_recipe
    from emphasis.experiments.runs.user_code import with_sources
    from emphasis.extras import require_modules
    from emphasis.rich_text import plain
    from emphasis.training.settings import number_of_ranks

    require_modules("jinja2", "matplotlib", "PIL")  # for the report
    context = requested_context(options)
    is_first = number_of_ranks(context.execution) == 1 or process.is_first()
    console = Console(quiet=not is_first)
    conditions = f"{len(recipe.conditions)} conditions, " if len(recipe.conditions) > 1 else ""
    about = f": {conditions}{len(recipe.methods)} methods, {recipe.seeds} seeds: {networks} networks"
    if not options.quiet:
        console.print(plain(recipe.title, "bold") + plain(about))
    failure: JobError | UnforeseenJobError | EmphasisOSError | None = None
    recipe = with_sources(recipe)
    began = time.monotonic()
    with RunBars(recipe, folder, options) as bars:
        tracking = requested_tracking(options, bars, folder, recipe.name) if is_first else None
        try:
            run(recipe, folder, context, tracking or bars, force=options.force)
        except (JobError, UnforeseenJobError) as error:
            failure = error
    seconds = time.monotonic() - began
    console.print(f"training took {seconds:.0f} s", highlight=False)
    summary = read_summary(folder)
    if is_first and any(entry.rows for entry in summary.entries):
        try:
            written = [RESULTS, *write_report(folder, summary, options.data)]
        except EmphasisOSError as error:  # the results can be printed nevertheless
            failure, written = failure or error, []
        options.result = {**summary_json(folder, summary), "seconds": seconds, "files": written}
        if tracking is not None:
            from emphasis.experiments.reports.recipe_figures import draw_images

            files = [folder / name for name in written]
            tracking.finish(rows_of_recipe(folder, recipe), files, partial(draw_images, summary))
        print_report(summary, console)
        if written:
            console.print(plain(f"Written to {folder}: {', '.join(written)}"))
    if failure is not None:
        raise failure


def _with_noise_rate(recipe: Recipe, rate: float) -> Recipe:
    """Return the recipe with another noise rate.

    Raises:
        RecipeError: The recipe's conditions differ in noise, so that their names would become wrong.
    """
    from emphasis.experiments.recipes.convert import RecipeError

    if len({str(condition.noise) for condition in recipe.conditions}) > 1:
        raise RecipeError(
            f"{recipe.name}: its conditions differ in noise, so one rate for all cannot be set; choose some with "
            f"--only, of {', '.join(map(repr, recipe.condition_names))}, or write a recipe of your own"
        )
    return recipe.changed({"noise.rate": rate})


COMMANDS = [
    Command(
        name="run",
        summary="train the networks of a recipe and report the results",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_run,
        extras=("experiments", "table", "text"),
        json_keys={**REPORT_KEYS, "seconds": "time of the training", "files": "names of the files written to `folder`"},
        resume_hint=RESUMES,
        supports_torchrun=True,
    )
]
