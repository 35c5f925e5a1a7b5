"""The parts that the commands share: `Command`, the parser, argument types and groups of options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.cli.executor_options import (
    add_executor_options,
    add_locks_option,
    add_tracking_options,
    requested_executor,
)
from emphasis.errors import EmphasisError, EmphasisOSError
from emphasis.files import naming_refusals
from emphasis.texts import named_value

if TYPE_CHECKING:
    from emphasis.experiments.recipes.recipe import Recipe
    from emphasis.experiments.runs.context import RunContext
    from emphasis.training.settings import Execution

RESUMES = "the same command resumes from the last checkpoint, if there is one"
"""The `Command.resume_hint` of commands that train networks."""

TABLE_SUFFIXES = (".csv", ".parquet", ".pq")
"""What the names of tables that a command writes end with, in lower case."""

_MAX_WORKERS = 1024  # threads or processes; far more than this exhausts a machine


class UsageError(EmphasisError):
    """A mistake on the command line; the message is the one line to show."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `emphasis`, with its help, its options and its handler.

    The module that defines a command is imported to show any help, so it imports the packages that the handler needs
    inside of the handler.

    Attributes:
        name: Name on the command line.
        summary: One phrase for the list of commands.
        description: First paragraphs of the command's help.
        examples: Example command lines, one per line, shown at the end of the help.
        add_options: Adds the command's options to its parser.
        handler: Executes the command; it may set `options.folder` to where the log of an unforeseen error belongs, and
            `options.result` to what `--json` prints.
        extras: Extras whose packages the handler may import, the one to suggest first if a package is missing.
        json_keys: Keys of `options.result` with their meaning; a command without results has none, and no `--json`.
        resume_hint: How to resume the command after it was stopped; empty if there is nothing to resume.
        accepts_unknown_options: Whether the handler parses `options.unknown`, the arguments that the parser does not
            know. Otherwise these are an error.
        supports_torchrun: Whether the command can be started by torchrun.
    """

    name: str
    summary: str
    description: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]
    handler: Callable[[argparse.Namespace], None]
    extras: tuple[str, ...] = ()
    json_keys: Mapping[str, str] = field(default_factory=dict)
    resume_hint: str = ""
    accepts_unknown_options: bool = False
    supports_torchrun: bool = False


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and which takes options by their full names only."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)
        self.file_settings: dict[str, str] = {}  # files by the destinations of the options that they set

    def error(self, message: str) -> Any:
        """Exit with code 2 and one line, which names the configuration file if the mistake is there."""
        option = re.match(r"argument (--[\w-]+)", message)
        action = self._option_string_actions.get(option.group(1)) if option else None
        source = self.file_settings.get(action.dest) if action else None
        self.exit(2, f"{self.prog}: {message}{f' (set in {source})' if source else ''}\n")

    def option_names(self) -> list[str]:
        """Return the names of the options, such as "--out"."""
        return re.findall(r"--[\w-]+", self.format_usage())


def join_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--beta -1e-3` as `--beta=-1e-3`, since argparse takes `-1e-3` for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and re.fullmatch(r"--[\w-]+", joined[-1]) and re.fullmatch(r"-[\d.]+(e[+-]?\d+)?", argument, re.I):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def path_argument(text: str) -> Path:
    """Return the path of an argument, which need not exist.

    Raises:
        argparse.ArgumentTypeError: The system does not let the path be examined: permission is denied, or a name is
            too long.
    """
    path = Path(text)
    try:
        with naming_refusals("look at", path):
            (path / "run.json").exists()  # any name will do: this asks whether the folder can be searched
    except EmphasisOSError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def name_or_path_argument(text: str) -> str:
    """Return an argument that is either the name of something in the package or a path that can be examined."""
    path_argument(text)
    return text


def add_recipe_options(parser: argparse.ArgumentParser, default_folder: str) -> dict[str, argparse._ArgumentGroup]:
    """Add the recipe and the options that `run` and `search` share; return their groups by title."""
    parser.add_argument(
        "recipe", type=name_or_path_argument, help="name of a recipe, such as digits, or path of your own .toml file"
    )
    training = parser.add_argument_group("training")
    training.add_argument("--scaled", action="store_true", help="use the recipe's smaller form, meant for a CPU")
    training.add_argument(
        "--only", nargs="+", default=[], metavar="CONDITION", help="train under these conditions (table columns) only"
    )
    training.add_argument(
        "--seeds", type=int, metavar="N", help="number of networks per method and condition (digits: 5)"
    )
    training.add_argument("--iterations", type=int, metavar="N", help="number of training steps (digits: 1000)")
    training.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.KEY=VALUE",
        dest="settings",
        help="change a setting of dataset, noise, network, solver or evaluation for every condition; repeatable",
    )
    training.add_argument("--precision", metavar="P", help="32-true, bf16-mixed or 16-mixed")
    machine = parser.add_argument_group("machine")
    add_accelerator_option(machine)
    machine.add_argument("--compile", action="store_true", help="compile the networks with torch.compile")
    add_workers_option(machine)
    machine.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads per process (default: depends on the size of the networks)",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=path_argument, metavar="DIR", help="folder of data sets (default: $EMPHASIS_DATA, or a cache)"
    )
    data.add_argument("--download", action="store_true", help="download missing data sets from their official sites")
    add_locks_option(add_executor_options(parser))
    add_tracking_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=path_argument, metavar="DIR", help=f"output folder (default: {default_folder})")
    add_no_progress_option(output)
    return {group.title: group for group in (training, machine, data, output) if group.title is not None}


def add_network_options(group: argparse._ArgumentGroup) -> None:
    """Add the options with which `audit` and `tune` change the networks they train."""
    group.add_argument(
        "--iterations",
        type=int,
        metavar="N",
        help="number of training steps (default: depends on the number of examples)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.KEY=VALUE",
        dest="settings",
        help="change a setting of network or solver, such as solver.learning_rate=0.02; repeatable (default: chosen "
        "from the data)",
    )


def add_accelerator_option(group: argparse._ArgumentGroup) -> None:
    """Add `--accelerator`."""
    group.add_argument("--accelerator", default="auto", metavar="A", help="auto (default), cpu, cuda or mps")


def add_workers_option(group: argparse._ArgumentGroup) -> None:
    """Add `--workers`."""
    group.add_argument(
        "--workers", type=int, metavar="N", help="number of processes (default: one per core, or one on an accelerator)"
    )


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that open a page of their own: --port and --no-browser."""
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port of the page (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open no browser")


def show_page(options: argparse.Namespace, address: str) -> None:
    """Print the address of a page, and open it in a browser unless --no-browser is given."""
    import webbrowser

    print(f"The page is at {address} (Ctrl-C ends it)", flush=True)  # terminals take "/;" for part of a link
    if not options.no_browser:
        webbrowser.open(address)


def port_error(options: argparse.Namespace, error: Exception) -> UsageError:
    """Return the error of a page that cannot be served at --port."""
    return UsageError(f"cannot serve at port {options.port}: {error}; choose another --port, or 0 for any")


def add_no_progress_option(group: argparse._ArgumentGroup) -> None:
    """Add `--no-progress`."""
    group.add_argument("--no-progress", action="store_true", help="show no progress bars")


def requested_recipe(options: argparse.Namespace, methods: Sequence[str] = ()) -> Recipe:
    """Return the recipe that `run` or `search` is given, changed as its options ask."""
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


def check_worker_options(options: argparse.Namespace) -> None:
    """Check `--workers` and, where the command has it, `--threads`."""
    for name in ("threads", "workers"):
        value = getattr(options, name, None)
        if value is not None and not 1 <= value <= _MAX_WORKERS:
            raise UsageError(f"--{name} {value} is not allowed; use a whole number, 1 to {_MAX_WORKERS:,}")


def requested_execution(options: argparse.Namespace) -> Execution:
    """Return the devices that the options ask for."""
    from emphasis.training.settings import Execution

    return Execution(
        options.accelerator,
        compile=getattr(options, "compile", False),
        devices=getattr(options, "devices", 1),
        strategy=getattr(options, "strategy", "ddp"),
    )


def requested_context(options: argparse.Namespace, workers: int | None = None) -> RunContext:
    """Return how networks are trained; `workers` is the number of processes for a command without that option."""
    from emphasis.experiments.runs.context import RunContext

    execution, executor = requested_execution(options), requested_executor(options)
    return RunContext(
        options.data,
        getattr(options, "download", False),
        execution,
        (workers or options.workers or default_workers(execution)) if executor.is_local else 1,
        getattr(options, "threads", None),
        getattr(options, "checkpoint_seconds", 10.0),
        executor,
        options.locks,
    )


def default_workers(execution: Execution) -> int:
    """Return the number of cores on the CPU, and 1 on an accelerator or with several devices."""
    import torch

    from emphasis.process import usable_cores
    from emphasis.training.settings import number_of_ranks

    if number_of_ranks(execution) > 1:
        return 1
    has_accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = execution.accelerator == "cpu" or (execution.accelerator == "auto" and not has_accelerator)
    return usable_cores() if on_cpu else 1
