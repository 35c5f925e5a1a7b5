"""What a command prints: its results as text or as one JSON object, and messages besides them.

A handler stores its results in `options.result`, a dictionary with the keys of `Command.json_keys`. With `--json` that
dictionary is all that the standard output receives; messages and progress bars go to the standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import emphasis
from emphasis.cli.options import Command, UsageError
from emphasis.texts import encodable, visible

if TYPE_CHECKING:
    from rich.console import Console


def add_output_options(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add the options about output that all commands have; `--json` where the command has results."""
    group = parser.add_argument_group("messages")
    amount = group.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="print results, warnings and errors only")
    amount.add_argument("--verbose", action="store_true", help="also print versions, settings, times and memory")
    if command.json_keys:
        group.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.set_defaults(json=False)


def run_handler(command: Command, options: argparse.Namespace) -> None:
    """Execute the command, and print its results as JSON if that was asked for, even if it fails after they exist."""
    options.result = None
    with _details(command, options) if options.verbose else contextlib.nullcontext():
        if not options.json:
            command.handler(options)
            return
        stdout = sys.stdout
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            try:
                command.handler(options)
            finally:
                if options.result is not None:
                    print(json_text({"command": command.name, **options.result}), file=stdout)


def json_text(result: Mapping[str, Any]) -> str:
    """Return results as JSON text, with null in place of NaN and infinity."""
    return encodable(json.dumps(_plain_data(result), indent=1, ensure_ascii=False, allow_nan=False))


def _plain_data(value: Any) -> Any:
    """Return a value in the types of JSON: numbers and arrays of NumPy become Python's, paths become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain_data(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain_data(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    return str(value) if isinstance(value, PurePath) else value


def message_console(options: argparse.Namespace) -> Console:
    """Return the console for messages and progress bars; it prints nothing in processes of a higher rank."""
    from rich.console import Console

    from emphasis import process

    return Console(stderr=options.json, quiet=not process.is_first())


def print_notes(options: argparse.Namespace, notes: list[str] | tuple[str, ...]) -> None:
    """Print notes about the data, one per line, unless `--quiet` is given."""
    if not options.quiet:
        for note in notes:
            print(visible(f"note: {note}"), file=sys.stderr if options.json else sys.stdout)


@contextlib.contextmanager
def _details(command: Command, options: argparse.Namespace) -> Iterator[None]:
    """Print versions and settings to the standard error before the command, and times and memory after it."""
    import platform

    hidden = ("command", "debug", "folder", "json", "quiet", "result", "unknown", "verbose", "file_settings")
    settings = {name: value for name, value in vars(options).items() if name not in hidden}
    from_file = options.file_settings
    print(
        f"emphasis {emphasis.__version__}, Python {platform.python_version()}, {platform.platform()}", file=sys.stderr
    )
    for name, value in settings.items():
        if value not in (None, [], False):
            source = f" ({from_file[name]})" if name in from_file else ""
            print(visible(f"  {name.replace('_', '-')} = {_plain_data(value)}{source}"), file=sys.stderr)
    began, cpu = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        seconds = f"{time.monotonic() - began:.1f} s, {time.process_time() - cpu:.1f} s on the CPU"
        print(f"emphasis {command.name} took {seconds}{_peak_memory()}", file=sys.stderr)


def _peak_memory() -> str:
    """Return the peak memory of this process as text; "" where the system does not count it."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return ""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return f", peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:,.0f} MB"


def check_json_target(options: argparse.Namespace, name: str = "out") -> None:
    """Reject `--json` together with an output file "-": both ask for the standard output."""
    if options.json and str(getattr(options, name)) == "-":
        raise UsageError(f"--json and --{name} - both ask for the standard output; choose a file for one of them")
