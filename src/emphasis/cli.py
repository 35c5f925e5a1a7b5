"""The command `emphasis`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import inspect
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emphasis.cli_arguments import Parser, joined_numbers, make_parser
from emphasis.extras import EXTRAS, missing_extra
from emphasis.weighting import FAMILIES, Weighting, did_you_mean, from_dict

_NEEDS = {"run": "experiments", "report": "experiments", "recipes": "experiments", "search": "search", "show": "plot"}


class _Error(Exception):
    """A mistake of the user's; the message is the one line to show."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after a mistake, or 130 after Ctrl-C."""
    given = joined_numbers(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser()
    try:
        options, rest = parser.parse_known_args(given)
        if options.command is None:
            parser.print_help()
            return 0
        if options.command == "show":
            return _show(options, rest)
        if rest:
            raise _Error(f"unknown option {rest[0]}; see emphasis {options.command} --help")
        return {"run": _run, "report": _report, "recipes": _recipes, "search": _search}[options.command](options)
    except _Error as error:
        print(f"emphasis: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        own = next((extra for extra in ("text", "table", "search") if missing in EXTRAS[extra]), "")
        needed = own or _NEEDS.get(given[0] if given else "", "")
        said = missing_extra(f"emphasis {given[0]}", needed, error) if needed else error
        if said is error:
            raise
        print(said, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resume = (
            "; the same command goes on from the last checkpoint, if one was written"
            if given[0] in ("run", "search")
            else ""
        )
        print(f"\nemphasis: stopped{resume}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone: nothing more to say
        return 0


def _show(options: argparse.Namespace, rest: Sequence[str]) -> int:
    weightings = [_weighting(options.family, rest), *(_weighting(name, []) for name in options.vs)]
    if options.out is not None:
        from emphasis.diagnostics.figures import edf_figure, save

        try:
            save(edf_figure(weightings), options.out)
        except ValueError as error:
            raise _Error(str(error)) from error
        except OSError as error:
            raise _Error(f"cannot draw to {options.out}: {error.strerror}") from error
    from emphasis.diagnostics import terminal

    if options.out is None:
        size = shutil.get_terminal_size((80, 24))
        width, height = max(40, min(size.columns, 110)), max(12, min(size.lines - 6, 24))
        print(terminal.draw(weightings, width, height, color=sys.stdout.isatty()))
    for weighting in weightings:
        print(terminal.describe(weighting))
    if options.out is not None:
        print(f"drawn to {options.out}")
    return 0


def _weighting(family: str, options: Sequence[str]) -> Weighting:
    """Return the weighting of a family's name and options; the family's own signature says which there are."""
    names = {name.casefold(): name for name in FAMILIES}
    name = names.get(family.casefold())
    if name is None:
        raise _Error(f"unknown family {family!r}{did_you_mean(family, FAMILIES, str)}; known: {', '.join(FAMILIES)}")
    parser = Parser(prog=f"emphasis show {name}", add_help=False, allow_abbrev=False)
    parameters = inspect.signature(FAMILIES[name]).parameters
    for parameter in parameters.values():
        if parameter.default is False:
            parser.add_argument(f"--{parameter.name}", action="store_true")
        else:
            parser.add_argument(f"--{parameter.name}", type=float, default=parameter.default)
    values, unknown = parser.parse_known_args(options)
    if unknown:
        takes = ", ".join(f"--{known}" for known in parameters) or "no parameters"
        hint = did_you_mean(unknown[0].lstrip("-"), parameters, "--{}".format)
        raise _Error(f"{name} has no option {unknown[0]}{hint}; it takes {takes}")
    try:
        return from_dict({"family": name, **vars(values)})
    except (ValueError, TypeError) as error:
        raise _Error(str(error)) from error


def _run(options: argparse.Namespace) -> int:
    if not 0.0 <= options.checkpoint_seconds < math.inf:
        raise _Error(f"--checkpoint-seconds {options.checkpoint_seconds} is not allowed; use seconds >= 0")
    from emphasis.experiments.console import run_in_console, with_noise_rate

    with _errors_in_one_line():
        recipe = _recipe(options, options.methods)
        if options.noise_rate is not None:
            recipe = with_noise_rate(recipe, options.noise_rate)
        run_in_console(
            recipe,
            options.out or Path("runs") / recipe.name,
            checkpoint_seconds=options.checkpoint_seconds,
            force=options.force,
            **_how(options),
        )
    return 0


def _search(options: argparse.Namespace) -> int:
    from emphasis.experiments.console import search_in_console
    from emphasis.experiments.search import DEFAULT_SPACE, parse_vary

    with _errors_in_one_line():
        recipe = _recipe(options, [])
        search_in_console(
            recipe,
            options.out or Path("runs") / f"{recipe.name}-search",
            method=options.method,
            space=[parse_vary(text) for text in options.vary] or DEFAULT_SPACE,
            trials=options.trials,
            batch=options.batch,
            validation=options.validation,
            retrain=not options.no_retrain,
            **_how(options),
        )
    return 0


def _recipe(options: argparse.Namespace, methods: Sequence[str]) -> Any:
    """Return the recipe asked for, changed as asked for."""
    from emphasis.experiments.recipe import load_recipe

    settings = dict(map(_setting, options.settings))
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
        if value is not None and value < 1:
            raise _Error(f"--{name} {value} is not allowed; use a whole number >= 1")
    return {
        "root": options.data,
        "download": options.download,
        "execution": Execution(options.accelerator, compile=options.compile),
        "workers": options.workers,
        "threads": options.threads,
        "show_progress": not options.no_progress,
    }


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Turn what may go wrong in an experiment, all of it foreseen, into the one line to show."""
    from emphasis.experiments.pool import JobError
    from emphasis.experiments.store import FolderError

    try:
        yield
    except (FolderError, JobError, ValueError, OSError) as error:  # RecipeError and DataError are among them
        raise _Error(" ".join(str(error).split())) from error


def _setting(text: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE; the value is TOML, or plain text if it is none."""
    from emphasis.experiments.build import toml_value

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise _Error(f"--set {text!r} is not allowed; write PART.KEY=VALUE, such as solver.learning_rate=0.01")
    return name.strip(), toml_value(value)


def _report(options: argparse.Namespace) -> int:
    if options.out is not None and options.format is None:
        raise _Error("--out needs --format text, csv or html")
    from rich.console import Console

    from emphasis.experiments import report
    from emphasis.files import write_text

    with _errors_in_one_line():
        folder = report.find_folder(options.run)
        summary = report.read_summary(folder)
        if options.out is not None:
            write_text(options.out, report.render(summary, options.format))
            print(f"written to {options.out}")
        elif options.format == "text":
            report.print_report(summary, Console())
        elif options.format is not None:
            print(report.render(summary, options.format), end="")
        else:
            names = report.write_report(folder, summary)
            report.print_report(summary, Console())
            print(f"Written to {folder}: {', '.join(names)}")
    return 0


def _recipes(_options: argparse.Namespace) -> int:
    from emphasis.experiments.console import print_recipes

    print_recipes()
    return 0
