"""The command `emphasis`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emphasis import process
from emphasis.cli import faults as cli_faults
from emphasis.cli.options import UsageError, joined_numbers, make_parser, shown_weighting
from emphasis.texts import named_value
from emphasis.weighting import DM, EmphasisWarning

_MOST = 1024  # threads or processes; many more than a machine has take it down


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0; 2 after a mistake; 1 after a fault of the package, with its traceback; 128 and the signal's number after Ctrl-C,
    SIGTERM or SIGHUP; 141 where nobody reads the output any more.
    """
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, io.TextIOWrapper):  # its terminal may lack a letter, a file's name may be any bytes
                stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")
            elif stream is None:  # closed by whoever started this
                setattr(sys, name, stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")))
                stack.callback(setattr, sys, name, None)
        parser = make_parser()
        options, rest = parser.parse_known_args(joined_numbers(sys.argv[1:] if arguments is None else arguments))
        options.folder = None
        stack.enter_context(process.stopping_on_signals())
        try:
            if options.command is None:
                parser.print_help()
                return 0
            code = _perform(options, rest)
            sys.stdout.flush()
        except BaseException as error:
            return cli_faults.exit_code(error, options)
        return code


def _perform(options: argparse.Namespace, rest: Sequence[str]) -> int:
    if options.command == "show":
        with warnings.catch_warnings():  # of digits that neither a drawing nor four places show
            warnings.simplefilter("ignore", EmphasisWarning)
            return _show(options, rest)
    if options.command != "run" and "LOCAL_WORLD_SIZE" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(f"torchrun is for emphasis run; start emphasis {options.command} without it")
    if rest:
        raise UsageError(f"unknown option {rest[0]}; see emphasis {options.command} --help")
    commands = {
        "run": _run, "report": _report, "recipes": _recipes, "search": _search, "fit": _fit, "predict": _predict,
        "audit": _audit, "design": _design, "tune": _tune, "figure": _figure,
    }  # fmt: skip
    return commands[options.command](options)


def _show(options: argparse.Namespace, rest: Sequence[str]) -> int:
    first = shown_weighting(options.family, rest)
    others = ([] if isinstance(first, DM) else ["DM"]) if options.vs is None else options.vs
    weightings = [first, *(shown_weighting(name, []) for name in others)]
    if options.out is not None:
        from emphasis.diagnostics.plots.figures import edf_figure
        from emphasis.diagnostics.plots.themes import save

        save(edf_figure(weightings), options.out)
    from emphasis.diagnostics.plots import terminal

    if options.out is None:
        size = shutil.get_terminal_size((80, 24))
        width, height = max(40, min(size.columns, 110)), max(12, min(size.lines - 6, 24))
        print(terminal.draw(weightings, width, height, color=sys.stdout.isatty()))
    for weighting in weightings:
        print(terminal.describe(weighting))
    if options.out is not None:
        print(f"drawn to {options.out}")
    return 0


def _run(options: argparse.Namespace) -> int:
    if not 0.0 <= options.checkpoint_seconds < math.inf:
        raise UsageError(f"--checkpoint-seconds {options.checkpoint_seconds} is not allowed; use seconds >= 0")
    from emphasis.cli.progress import run_in_console, with_noise_rate

    recipe = _recipe(options, options.methods)
    if options.noise_rate is not None:
        recipe = with_noise_rate(recipe, options.noise_rate)
    options.folder = options.out or Path("runs") / recipe.name
    run_in_console(
        recipe, options.folder, checkpoint_seconds=options.checkpoint_seconds, force=options.force, **_how(options)
    )
    return 0


def _search(options: argparse.Namespace) -> int:
    from emphasis.cli.progress import search_in_console
    from emphasis.experiments.studies.search import DEFAULT_SPACE, parse_vary

    recipe = _recipe(options, [])
    options.folder = options.out or Path("runs") / f"{recipe.name}-search"
    search_in_console(
        recipe,
        options.folder,
        method=options.method,
        space=[parse_vary(text) for text in options.vary] or DEFAULT_SPACE,
        trials=options.trials,
        batch=options.batch,
        validation=options.validation,
        noisy_validation=options.noisy_validation,
        retrain=not options.no_retrain,
        **_how(options),
    )
    return 0


def _recipe(options: argparse.Namespace, methods: Sequence[str]) -> Any:
    """Return the recipe asked for, changed as asked for."""
    from emphasis.experiments.recipes.load import load_recipe

    settings = dict(named_value(text, "PART.KEY=VALUE", "solver.learning_rate=0.01") for text in options.settings)
    for name in ("seeds", "precision"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    if options.iterations is not None:
        settings["solver.iterations"] = options.iterations
    recipe = load_recipe(options.recipe)
    recipe = recipe.scaled_down() if options.scaled else recipe
    return recipe.limited(options.only, methods).changed(settings)


def _how(options: argparse.Namespace) -> dict[str, Any]:
    """Return how to run, of the options that `run` and `search` share."""
    from emphasis.training.settings import Execution

    for name in ("threads", "workers"):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= _MOST:
            raise UsageError(f"--{name} {value} is not allowed; use a whole number, 1 to {_MOST:,}")
    return {
        "root": options.data,
        "download": options.download,
        "execution": Execution(
            options.accelerator,
            compile=options.compile,
            devices=getattr(options, "devices", 1),
            strategy=getattr(options, "strategy", "ddp"),
        ),
        "workers": options.workers,
        "threads": options.threads,
        "show_progress": not options.no_progress,
    }


def _report(options: argparse.Namespace) -> int:
    if options.out is not None and options.format is None:
        raise UsageError("--out needs --format text, csv or html")
    from rich.console import Console

    from emphasis.experiments.reports import report
    from emphasis.files import write_text

    folder = report.find_folder(options.run)
    options.folder = folder if options.format is None else None  # which writes nothing there
    summary = report.read_summary(folder)
    if options.out is not None:
        write_text(options.out, report.render(summary, options.format))
        print(f"written to {options.out}")
    elif options.format == "text":
        report.print_report(summary, Console())
    elif options.format is not None:
        print(report.render(summary, options.format), end="")
    else:
        names = report.write_report(folder, summary, options.data)
        report.print_report(summary, Console())
        print(f"Written to {folder}: {', '.join(names)}")
    return 0


def _fit(options: argparse.Namespace) -> int:
    from emphasis.cli.tabular import fit

    return fit(options)


def _predict(options: argparse.Namespace) -> int:
    from emphasis.cli.tabular import predict

    return predict(options)


def _audit(options: argparse.Namespace) -> int:
    from emphasis.cli.audit import audit

    return audit(options)


def _tune(options: argparse.Namespace) -> int:
    from emphasis.cli.tune import tune

    return tune(options)


def _figure(options: argparse.Namespace) -> int:
    from emphasis.diagnostics.plots.themes import save
    from emphasis.experiments.reports.paper_figures import FIGURES, draw_figure, find_run

    if options.name is None:
        for name, figure in FIGURES.items():
            run = find_run(figure)
            source = str(run) if run else f"needs: emphasis run {figure.recipes[0]}" if figure.recipes else "no run"
            print(f"  {name:<3} {figure.caption} ({source})")
        return 0
    drawn, run = draw_figure(options.name, options.run)
    out = options.out or Path(f"figure-{options.name}.svg")
    save(drawn, out, options.theme)
    print(f"drawn to {out}" + (f" from {run}" if run else ""))
    return 0


def _design(options: argparse.Namespace) -> int:
    import webbrowser

    from emphasis.diagnostics.plots.design import run_until_stopped, serve

    histograms = {}
    if options.run is not None:
        from emphasis.experiments.reports.report import find_folder, histograms_of

        histograms = histograms_of(find_folder(options.run))
    try:
        server = serve(histograms, options.port)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot serve at port {options.port}: {error}; choose another --port, or 0 for any"
        ) from error
    address = f"http://localhost:{server.port}/"

    def show() -> None:
        print(f"The page is at {address}; Ctrl-C ends it.", flush=True)
        if not options.no_browser:
            webbrowser.open(address)

    try:
        run_until_stopped(server, show)
    except KeyboardInterrupt:
        print()
    return 0


def _recipes(_options: argparse.Namespace) -> int:
    from emphasis.cli.progress import print_recipes

    print_recipes()
    return 0
