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
    "experiments": ("sklearn", "rich", "jinja2"),
}
_NEEDS = {"run": "experiments", "show": "plot"}

_DESCRIPTION = """\
Train classifiers on labels you cannot trust, by designing how much each example counts.

A weighting w(p) says how large the derivative of the loss is for an example whose label has
probability p. `show` draws weightings; `run` trains networks with them and compares."""

_EXAMPLES = """\
examples:
  emphasis show DM --lam 0.5 --beta 12          where Derivative Manipulation puts its emphasis
  emphasis show GCE --q 0.7 --vs CCE MAE        one weighting against others
  emphasis run digits                           thirteen ways to learn from 40 % wrong labels
  emphasis run digits --noise-rate 0.6 --out runs/digits-60"""

_RUN_DESCRIPTION = """\
Run a recipe: train every method with every seed, all networks at once, and write a folder with
results.jsonl (one line per network), curves.png, emphasis.png and report.html.

A run that was stopped goes on where it was when the same command is given again, and ends with the
same numbers; a finished one is shown again."""

_RUN_EXAMPLES = """\
examples:
  emphasis run digits
  emphasis run digits --noise-rate 0.6 --out runs/digits-60
  emphasis run digits --seeds 2 --iterations 300 --out runs/quick
  emphasis run my-recipe.toml"""

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
            raise _Error(f"unknown option {rest[0]}; see emphasis run --help")
        return _run(options)
    except _Error as error:
        print(f"emphasis: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = _NEEDS.get(given[0] if given else "", "")
        missing = (error.name or "").partition(".")[0]
        if not extra or missing not in [name for modules in _EXTRAS.values() for name in modules]:
            raise
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
    commands = parser.add_subparsers(dest="command", title="commands", metavar="{run,show}")

    run = commands.add_parser(
        "run", help="train networks by a recipe and report", description=_RUN_DESCRIPTION,
        epilog=_RUN_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    run.add_argument("recipe", help="a recipe's name (digits), or the path of your own .toml file")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    run.add_argument("--seeds", type=int, metavar="N", help="networks per method (digits: 5)")
    run.add_argument("--noise-rate", type=float, metavar="R", help="share of wrong labels, 0 to 1 (digits: 0.4)")
    run.add_argument("--iterations", type=int, metavar="N", help="training steps (digits: 1000)")
    run.add_argument("--threads", type=int, metavar="N", default=1, help="CPU threads (default: %(default)s)")
    run.add_argument(
        "--checkpoint-seconds", type=float, metavar="S", default=5.0,
        help="seconds between checkpoints (default: %(default)g)",
    )  # fmt: skip
    run.add_argument("--no-progress", action="store_true", help="no progress bar")
    run.add_argument("--force", action="store_true", help="replace an earlier run in the folder")

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
    if options.threads < 1:
        raise _Error(f"--threads {options.threads} is not allowed; use a whole number >= 1")
    if not 0.0 <= options.checkpoint_seconds < math.inf:
        raise _Error(f"--checkpoint-seconds {options.checkpoint_seconds} is not allowed; use seconds >= 0")
    from emphasis.experiments.console import run_in_console
    from emphasis.experiments.recipe import RecipeError, load_recipe
    from emphasis.experiments.store import FolderError

    try:
        recipe = load_recipe(options.recipe).changed(options.seeds, options.noise_rate, options.iterations)
        run_in_console(
            recipe,
            options.out or Path("runs") / recipe.name,
            threads=options.threads,
            checkpoint_seconds=options.checkpoint_seconds,
            force=options.force,
            show_progress=not options.no_progress,
        )
    except (RecipeError, FolderError, ValueError, OSError) as error:
        raise _Error(str(error)) from error
    return 0
