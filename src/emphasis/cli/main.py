"""The command `emphasis`: the table of its commands, and their dispatch.

To add a command, add a module to this package that has a list `COMMANDS`, and its name to `MODULES`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import emphasis
from emphasis import process
from emphasis.cli import faults
from emphasis.cli.config import add_config_options, add_file_settings
from emphasis.cli.options import Command, Parser, UsageError, join_negative_numbers
from emphasis.cli.output import add_output_options, run_handler
from emphasis.texts import did_you_mean, visible

MODULES = (
    "tabular",
    "export",
    "audit",
    "review",
    "labels",
    "tune",
    "show",
    "design",
    "run",
    "search",
    "report",
    "completion",
)
"""The modules of this package that define commands, in the order of the help."""

_DESCRIPTION = """\
Train classifiers on labels you cannot trust, by designing how much each example counts.

A weighting w(p) says how large the derivative of the loss is for an example whose label has
probability p. For your own data: `fit` trains a classifier on a table, `predict` applies it, and
`export` writes it as an ONNX file; `audit` finds labels that look wrong, `review` shows them to a
person one by one, and `labels` exports the decisions; `tune` chooses a weighting for labels that
nobody has checked. `show` and `design` draw weightings. For experiments: `recipes` lists them,
`run` trains their networks, `search` looks for a method's best settings, `report` compares the
results with the paper's, and `figure` draws the paper's figures from them."""

_EXAMPLES = """\
examples:
  emphasis show DM --lam 0.5 --beta 12          where Derivative Manipulation puts its emphasis
  emphasis show GCE --q 0.7 --vs CCE MAE        one weighting compared with others
  emphasis recipes                              every table and figure of the paper, by name
  emphasis run digits                           losses compared where 40 % of the labels are wrong
  emphasis report digits                        show its results again
  emphasis fit customers.csv --label churned    a classifier of your own
  emphasis audit customers.csv --label churned  which of its labels look wrong
  emphasis tune customers.csv --label churned   the best settings for a fit of it"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the command line and return its exit code.

    Args:
        arguments: The command line after `emphasis`; default: that of this process.

    Returns:
        0 after success, 2 after a mistake of the user's, 1 after an unforeseen error, 128 plus the signal's number
        after Ctrl-C, SIGTERM or SIGHUP, and 141 if nobody reads the output any more.
    """
    if arguments is None:
        code = _execute(sys.argv[1:])
        process.end_if_rank(code)
        return code
    return _execute(arguments)


def _execute(arguments: Sequence[str]) -> int:
    """Execute a command line and return its exit code."""
    arguments = join_negative_numbers(arguments)
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, io.TextIOWrapper):  # texts may hold characters that its encoding lacks
                stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")
            elif stream is None:  # closed by the parent process
                setattr(sys, name, stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")))
                stack.callback(setattr, sys, name, None)
        commands = load_commands()
        parser, parsers = make_parsers(commands)
        requested = _command_name(parser, arguments, commands)
        file_settings: dict[str, str] = {}
        if requested is not None and not {"-h", "--help"} & set(arguments):
            try:
                arguments, file_settings = add_file_settings(arguments, requested, parsers)
            except UsageError as error:
                parser.error(visible(str(error)))
            parsers[requested].file_settings = file_settings
        options, unknown = parser.parse_known_args(arguments)
        command = commands.get(options.command)
        options.folder, options.unknown, options.file_settings = None, unknown, file_settings
        stack.enter_context(process.stopping_on_signals())
        try:
            if command is None:
                parser.print_help()
            else:
                _check_call(command, parsers[command.name], options)
                run_handler(command, options)
            sys.stdout.flush()
        except BaseException as error:
            return faults.exit_code(error, command, options)
        return 0


def load_commands() -> dict[str, Command]:
    """Return the commands by name, in the order of the help."""
    modules = [importlib.import_module(f"emphasis.cli.{name}") for name in MODULES]
    return {command.name: command for module in modules for command in module.COMMANDS}


class _ShowVersion(argparse.Action):
    """Prints the version, which takes longer to find out than to print the help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"emphasis {emphasis.__version__}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    return make_parsers(load_commands())[0]


def make_parsers(commands: dict[str, Command]) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the whole command line and those of the commands."""
    parser = Parser(prog="emphasis", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show program's version number and exit")
    subparsers = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    for command in commands.values():
        subparser = subparsers.add_parser(
            command.name, help=command.summary, description=command.description, epilog=command.examples
        )
        command.add_options(subparser)
        add_output_options(subparser, command)
        add_config_options(subparser)
    parser.set_defaults(debug=False)
    for each in (parser, *subparsers.choices.values()):
        each.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the tracebacks of errors"
        )
    return parser, dict(subparsers.choices)


def _command_name(parser: Parser, arguments: Sequence[str], commands: dict[str, Command]) -> str | None:
    """Return the command, the first argument that is no option; exit with a suggestion if it does not exist."""
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is not None and name not in commands:
        hint = did_you_mean(name, commands) or f"; known: {', '.join(commands)}"
        parser.error(f"unknown command {name!r}{hint}")
    return name


def _check_call(command: Command, parser: Parser, options: argparse.Namespace) -> None:
    """Reject unknown options, and torchrun where it has no meaning."""
    if options.unknown and not command.accepts_unknown_options:
        name = options.unknown[0]
        hint = did_you_mean(name.partition("=")[0], parser.option_names(), str) if name.startswith("-") else ""
        kind = "option" if name.startswith("-") else "argument"
        raise UsageError(f"unknown {kind} {name}{hint}; see emphasis {command.name} --help")
    is_distributed = "LOCAL_WORLD_SIZE" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    if is_distributed and not command.supports_torchrun:
        raise UsageError(f"torchrun is for emphasis run; start emphasis {command.name} without it")
