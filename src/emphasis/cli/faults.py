"""What the command says when it fails, and its exit code.

A foreseen error is an `EmphasisError` and becomes one line. Every other error is a fault of this package, or of code
that a recipe names, and keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import emphasis
from emphasis import process
from emphasis.cli.options import Command
from emphasis.errors import ERROR_LOG, EmphasisError
from emphasis.extras import EXTRAS, MissingExtraError, missing_extra
from emphasis.texts import visible

MISTAKE, FAULT, NO_READER = 2, 1, 141  # exit codes
_STOPPED = 128  # plus the signal's number: the exit code of a command that a signal stopped
_ARGUMENT = re.compile(r"((?:[\w.-]+: )?)([a-z_]+)=(.+?) is (?=not allowed|unknown)")
_RUN_FILES = ("run.json", "fit.json", "trace.json")  # a folder with one of them may receive the log


def exit_code(error: BaseException, command: Command | None, options: argparse.Namespace) -> int:
    """Print why the command failed to the standard error, and return the exit code.

    Args:
        error: The error that ended the command.
        command: The command, if one was given.
        options: The command's options; `folder` is its output folder, if it has one.
    """
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, BrokenPipeError):  # raised by rich
            return NO_READER
        raise error
    number = process.asked()  # if a signal has arrived, it has caused the error, whatever that is
    if isinstance(error, KeyboardInterrupt) or number is not None:
        return _report_stop(number or int(signal.SIGINT), command)
    if isinstance(error, ModuleNotFoundError) and command is not None:
        error = _name_extra(error, command)
    if isinstance(error, EmphasisError):
        prefix = "" if isinstance(error, MissingExtraError) else "emphasis: "
        return _report_mistake(error.command_lines(), error, options, prefix)
    if (output_error := _output_error()) is not None:
        if isinstance(output_error, BrokenPipeError):  # as in `emphasis show DM | head -1`: there is nothing to say
            return NO_READER
        return _report_mistake([f"cannot write to the standard output: {output_error.strerror}"], error, options)
    return _report_fault(error, options)


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError):  # the exit code remains
        print(text, file=sys.stderr, flush=True)


def _report_stop(number: int, command: Command | None) -> int:
    """Report that a signal has stopped the command, and how to resume it."""
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    hint = f"; {command.resume_hint}" if command is not None and command.resume_hint else ""
    line = f"emphasis: stopped{by}{hint}"
    if process.is_first():
        _print_error(f"\n{line}" if sys.stderr.isatty() else line)  # a terminal has printed ^C on the line before
    return _STOPPED + number


def _report_mistake(
    lines: Sequence[str], error: BaseException, options: argparse.Namespace, prefix: str = "emphasis: "
) -> int:
    """Report a foreseen error in one line, or in one for each of several problems; with --debug after its traceback."""
    trace = "".join(traceback.format_exception(error)) if options.debug else ""
    text = "\n- ".join(visible(" ".join(_name_option(line, options).split())) for line in lines)
    _print_error(f"{trace}{prefix}{text}")
    return MISTAKE


def _name_option(line: str, options: argparse.Namespace) -> str:
    """Return a message about an argument of a function as one about the option of that name, if it was given."""
    match = _ARGUMENT.match(line)
    if match is None:
        return line
    option = f"--{match[2].replace('_', '-')}"
    is_given = getattr(options, match[2], None) is not None or option in options.unknown
    return f"{match[1]}{option} {match[3]} is {line[match.end() :]}" if is_given else line


def _name_extra(error: ModuleNotFoundError, command: Command) -> ModuleNotFoundError:
    """Return an error that names the extra to install, or `error` itself if no extra brings the missing module."""
    if isinstance(error, MissingExtraError):
        return error
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra in command.extras if module in EXTRAS[extra]), None)
    return error if extra is None else missing_extra(f"emphasis {command.name}", extra, error)


def _report_fault(error: BaseException, options: argparse.Namespace) -> int:
    """Print the traceback, and write it to the output folder if there is one."""
    trace = "".join(traceback.format_exception(error))
    log = _write_log(trace, options.folder)
    advice = f"it is also written to {log}; report it with this file" if log else "report it with this traceback"
    _print_error(f"{trace}emphasis: this error was not foreseen: {advice} to {_maintainers()}")
    return FAULT


def _write_log(trace: str, folder: Path | None) -> Path | None:
    """Append the traceback to the log of the output folder, and return the log's path; None if it cannot be written."""
    if folder is None:
        return None
    import platform
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="seconds")
    versions = f"{now}, emphasis {emphasis.__version__}, Python {platform.python_version()}, {platform.platform()}"
    with contextlib.suppress(OSError):
        folders = [folder, folder / "search", folder / "audit"]
        if any((each / name).is_file() for each in folders for name in _RUN_FILES):
            with (folder / ERROR_LOG).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{versions}\nemphasis {' '.join(sys.argv[1:])}\n{trace}\n")
            return folder / ERROR_LOG
    return None


def _maintainers() -> str:
    """Return whom to report a fault to, with the address in the package's metadata if there is one."""
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        urls = metadata.metadata("emphasis-learn").get_all("Project-URL") or []
        addresses = dict(url.split(", ", 1) for url in urls if ", " in url)
        for label in ("Issues", "Bug Tracker", "Source", "Repository", "Homepage"):
            if label in addresses:
                return f"the maintainers of emphasis, {addresses[label]}"
    return "the maintainers of emphasis"


def _output_error() -> OSError | None:
    """Return why nothing can be written to the standard output, which is then redirected to nowhere; None if it can.

    Without the redirection the interpreter would fail again when it flushes the output at its end.
    """
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream without a file
        return None
    try:
        os.write(number, b"\n")
    except OSError as error:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, number)
        os.close(devnull)
        return error
    return None
