"""The command `emphasis`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import inspect
import math
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import emphasis
from emphasis.weighting import FAMILIES, Weighting, did_you_mean, from_dict

_EXTRAS = {  # the modules of each extra, so that a missing one is named
    "torch": ("torch",),
    "plot": ("matplotlib", "plotext"),
    "experiments": ("sklearn", "rich", "jinja2", "lightning_fabric", "filelock", "PIL"),
    "text": ("gensim",),
    "table": ("pandas", "pyarrow"),
    "search": ("optuna",),
}
_NEEDS = {"run": "experiments", "report": "experiments", "recipes": "experiments", "show": "plot"}

_DESCRIPTION = """\
Train classifiers on labels you cannot trust, by designing how much each example counts.

A weighting w(p) says how large the derivative of the loss is for an example whose label has
probability p. `show` draws weightings; `run` trains networks with them by a recipe, `report` sets
the results beside the paper's; `recipes` lists what there is."""

_EXAMPLES = """\
examples:
  emphasis show DM --lam 0.5 --beta 12          where Derivative Manipulation puts its emphasis
  emphasis show GCE --q 0.7 --vs CCE MAE        one weighting against others
  emphasis recipes                              every table and figure of the paper, by name
  emphasis run digits                           thirteen ways to learn from 40 % wrong labels
  emphasis report digits                        its results once more"""

_RUN_DESCRIPTION = """\
Run a recipe: train every method in every condition with every seed, and write a folder with
results.jsonl (one line per network), table.csv, report.html and figures.

What is trained already is not trained again. A run that was stopped, or killed, goes on where it
was when the same command is given again, and ends with the same numbers."""

_RUN_EXAMPLES = """\
examples:
  emphasis run digits
  emphasis run digits --noise-rate 0.6 --out runs/digits-60
  emphasis run digits --seeds 2 --iterations 300 --out runs/quick
  emphasis run table9 --scaled --data ~/data
  emphasis run table5 --only "r = 0.4" --methods CCE DM
  emphasis run table9 --set network.name=resnet20 --set solver.batch_size=128 --out runs/mine
  emphasis run my-recipe.toml"""

_REPORT_DESCRIPTION = """\
Show the results of a run beside the paper's: differences, number of seeds and spread. Without
--format, print them as text and write table.csv, report.html and the figures into the folder."""

_REPORT_EXAMPLES = """\
examples:
  emphasis report table5                        from runs/table5, else results/table5
  emphasis report results/table5 --format csv
  emphasis report digits --format html --out digits.html"""

_SHOW_DESCRIPTION = """\
Draw the emphasis density h(p) = w(p) / integral of w in the terminal, or to a file, and print the
emphasis mode (the p that counts most), the integral, w(1) and the share of emphasis near the mode."""

_SHOW_EXAMPLES = """\
examples:
  emphasis show DM --lam 0.5 --beta 12
  emphasis show DM --lam 0.5 --beta 12 --vanishing
  emphasis show DM --lam 1 --beta 16 --vs CCE GCE --out edf.png"""


class _Error(Exception):
    """A mistake of the user's; the message is the one line to show."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after a mistake, or 130 after Ctrl-C."""
    given = _joined_numbers(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(given)
        if options.command is None:
            parser.print_help()
            return 0
        if options.command == "show":
            return _show(options, rest)
        if rest:
            raise _Error(f"unknown option {rest[0]}; see emphasis {options.command} --help")
        return {"run": _run, "report": _report, "recipes": _recipes}[options.command](options)
    except _Error as error:
        print(f"emphasis: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        needed = _NEEDS.get(given[0] if given else "", "")
        missing = (error.name or "").partition(".")[0]
        own = next((extra for extra, modules in _EXTRAS.items() if missing in modules), "")
        if not needed or not own:
            raise
        extra = own if own in ("text", "table", "search") else needed
        print(
            f"emphasis {given[0]} needs the extra '{extra}' ({missing} is missing): "
            f"pip install 'emphasis-learn[{extra}]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        resume = "; the same command goes on from the last checkpoint, if one was written" if given[0] == "run" else ""
        print(f"\nemphasis: stopped{resume}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone: nothing more to say
        return 0


def _joined_numbers(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--beta -1e-3` as `--beta=-1e-3`: argparse takes the number for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and re.fullmatch(r"--[\w-]+", joined[-1]) and re.fullmatch(r"-[\d.]+(e[+-]?\d+)?", argument, re.I):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="emphasis", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"emphasis {emphasis.__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="{recipes,report,run,show}")

    run = commands.add_parser(
        "run", help="train networks by a recipe and report", description=_RUN_DESCRIPTION,
        epilog=_RUN_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    run.add_argument("recipe", help="a recipe's name (digits), or the path of your own .toml file")
    what = run.add_argument_group("what is run")
    what.add_argument("--scaled", action="store_true", help="the recipe's smaller form, for a CPU")
    what.add_argument("--only", nargs="+", default=[], metavar="CONDITION", help="these columns of the table alone")
    what.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help="these rows alone")
    what.add_argument("--seeds", type=int, metavar="N", help="networks per method and condition (digits: 5)")
    what.add_argument("--noise-rate", type=float, metavar="R", help="share of wrong labels, 0 to 1 (digits: 0.4)")
    what.add_argument("--iterations", type=int, metavar="N", help="training steps (digits: 1000)")
    what.add_argument(
        "--set", action="append", default=[], metavar="PART.KEY=VALUE", dest="settings",
        help="any setting of dataset, noise, network, solver or evaluation, for every condition",
    )  # fmt: skip
    what.add_argument("--precision", metavar="P", help="32-true, bf16-mixed or 16-mixed")
    how = run.add_argument_group("how it runs")
    how.add_argument(
        "--data", type=Path, metavar="DIR", help="where data sets are (default: $EMPHASIS_DATA, or a cache)"
    )
    how.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    how.add_argument("--force", action="store_true", help="replace an earlier run in the folder")
    how.add_argument("--accelerator", default="auto", metavar="A", help="auto (default), cpu, cuda or mps")
    how.add_argument("--compile", action="store_true", help="compile the networks with torch.compile")
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; one on an accelerator)")
    how.add_argument("--threads", type=int, metavar="N", help="CPU threads of each (default: the cores shared out)")
    how.add_argument(
        "--checkpoint-seconds", type=float, metavar="S", default=10.0,
        help="seconds between checkpoints (default: %(default)g)",
    )  # fmt: skip
    how.add_argument("--no-progress", action="store_true", help="no progress bars")

    report = commands.add_parser(
        "report", help="set a run's results beside the paper's", description=_REPORT_DESCRIPTION,
        epilog=_REPORT_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    report.add_argument("run", metavar="RUN", help="a run's folder, or its name in runs/ or results/")
    report.add_argument("--format", choices=("text", "csv", "html"), help="print this alone, and write nothing")
    report.add_argument("--out", type=Path, metavar="FILE", help="write it to this file (needs --format)")

    commands.add_parser(
        "recipes", help="list the recipes", description="List every recipe, what it costs and how it is run.",
        epilog="examples:\n  emphasis recipes", formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip

    show = commands.add_parser(
        "show", help="draw a weighting and describe it", description=_SHOW_DESCRIPTION,
        epilog=f"families and their options:\n{_families_help()}\n\n{_SHOW_EXAMPLES}", formatter_class=raw,
        allow_abbrev=False,
    )  # fmt: skip
    show.add_argument("family", help="a weighting's family, such as DM; its parameters are options (see below)")
    show.add_argument("--vs", nargs="+", default=[], metavar="FAMILY", help="draw these too, with their defaults")
    show.add_argument("--out", type=Path, metavar="FILE", help="draw to this .png, .svg or .pdf instead")
    return parser


def _families_help() -> str:
    lines = []
    for name, family in FAMILIES.items():
        options = [
            f"--{parameter.name}" if parameter.default is False else f"--{parameter.name} {parameter.default:g}"
            for parameter in inspect.signature(family).parameters.values()
        ]
        lines.append(f"  {name:<12} {'  '.join(options)}".rstrip())
    return "\n".join(lines)


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
    parser = _Parser(prog=f"emphasis show {name}", add_help=False, allow_abbrev=False)
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
    for name in ("threads", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise _Error(f"--{name} {value} is not allowed; use a whole number >= 1")
    if not 0.0 <= options.checkpoint_seconds < math.inf:
        raise _Error(f"--checkpoint-seconds {options.checkpoint_seconds} is not allowed; use seconds >= 0")
    settings = dict(map(_setting, options.settings))
    for name in ("seeds", "precision"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    if options.iterations is not None:
        settings["solver.iterations"] = options.iterations
    from emphasis.experiments.console import run_in_console, with_noise_rate
    from emphasis.experiments.pool import JobError
    from emphasis.experiments.recipe import load_recipe
    from emphasis.experiments.store import FolderError
    from emphasis.training.settings import Execution

    try:
        recipe = load_recipe(options.recipe)
        recipe = recipe.scaled_down() if options.scaled else recipe
        recipe = recipe.limited(options.only, options.methods).changed(settings)
        if options.noise_rate is not None:
            recipe = with_noise_rate(recipe, options.noise_rate)
        run_in_console(
            recipe,
            options.out or Path("runs") / recipe.name,
            root=options.data,
            execution=Execution(options.accelerator, compile=options.compile),
            workers=options.workers,
            threads=options.threads,
            checkpoint_seconds=options.checkpoint_seconds,
            force=options.force,
            show_progress=not options.no_progress,
        )
    except (FolderError, JobError, ValueError, OSError) as error:  # RecipeError and DataError are among them
        raise _Error(_one_line(error)) from error
    return 0


def _setting(text: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE; the value is TOML, or plain text if it is none."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise _Error(f"--set {text!r} is not allowed; write PART.KEY=VALUE, such as solver.learning_rate=0.01")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _report(options: argparse.Namespace) -> int:
    if options.out is not None and options.format is None:
        raise _Error("--out needs --format text, csv or html")
    from rich.console import Console

    from emphasis.experiments import report
    from emphasis.experiments.store import FolderError
    from emphasis.files import write_text

    try:
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
    except (FolderError, ValueError, OSError) as error:
        raise _Error(_one_line(error)) from error
    return 0


def _recipes(_options: argparse.Namespace) -> int:
    from emphasis.experiments.console import print_recipes

    print_recipes()
    return 0


def _one_line(error: Exception) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())
