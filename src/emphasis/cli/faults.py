"""How the command ends when it does not end well: its exit code, and what it says.

Foreseen errors are `EmphasisError`, one line each. Everything else is a fault of the package, or of code that it was
given, and keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import sys
import traceback
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import emphasis
from emphasis import process
from emphasis.errors import ERROR_LOG, EmphasisError
from emphasis.extras import EXTRAS, MissingExtraError, missing_extra
from emphasis.texts import visible

MISTAKE, FAULT, STOPPED, NO_READER = 2, 1, 128, 141  # exit codes; a signal's number is added to the third

_EXTRAS = {  # that a command may need, the one to name first
    "run": ("experiments", "table", "text"), "report": ("experiments", "table", "text"), "recipes": ("experiments",),
    "search": ("search", "table", "text"), "tune": ("search", "table", "text"),
    "audit": ("experiments", "table", "text"), "figure": ("experiments",), "design": ("design", "experiments"),
    "show": ("plot", "torch"), "fit": ("fit",), "predict": ("fit",),
}  # fmt: skip
_GOES_ON = {
    **dict.fromkeys(("run", "search", "audit", "tune"), "the same command goes on from the last checkpoint, "
                    "if one was written"),
    "fit": "the same command goes on after the last fold that was finished",
}  # fmt: skip
_MARKERS = ("run.json", "fit.json", "trace.json")  # of a folder that is a run's


def exit_code(error: BaseException, options: argparse.Namespace) -> int:
    """Say what ended the command on the standard error, and return its exit code.

    Args:
        error: What it ended with.
        options: Of the command; its `folder` is where the run is, if there is one.
    """
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, BrokenPipeError):  # rich has met it
            return NO_READER
        raise error
    number = process.asked()  # whatever came after, came of it
    if isinstance(error, KeyboardInterrupt) or number is not None:
        number = number or int(signal.SIGINT)
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        goes_on = _GOES_ON.get(options.command)
        line = f"emphasis: stopped{by}{f'; {goes_on}' if goes_on else ''}"
        if process.is_first():
            _say(f"\n{line}" if sys.stderr.isatty() else line)  # not beside a terminal's ^C
        return STOPPED + number
    if isinstance(error, ModuleNotFoundError):
        error = _named(error, options.command)
    if isinstance(error, MissingExtraError):
        return _mistake(str(error), error, options, prefix="")
    if isinstance(error, EmphasisError):
        return _mistake(str(error), error, options)
    if (refusal := _refused_output()) is not None:
        if isinstance(refusal, BrokenPipeError):  # as in `emphasis show DM | head -1`: nothing more to say
            return NO_READER
        return _mistake(f"cannot write to the standard output: {refusal.strerror}", error, options)
    return _fault(error, options)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the exit code still tells
        print(text, file=sys.stderr, flush=True)


def _mistake(message: str, error: BaseException, options: argparse.Namespace, prefix: str = "emphasis: ") -> int:
    shown = "".join(traceback.format_exception(error)) if options.debug else ""
    _say(f"{shown}{prefix}{visible(' '.join(message.split()))}")
    return MISTAKE


def _named(error: ModuleNotFoundError, command: str) -> ModuleNotFoundError:
    """Return the error that names the extra of which a module is missing, or `error` itself if it is of none."""
    if isinstance(error, MissingExtraError):
        return error
    module = (error.name or "").partition(".")[0]
    extra = next((one for one in _EXTRAS[command] if module in EXTRAS[one]), None)
    return error if extra is None else missing_extra(f"emphasis {command}", extra, error)


def _fault(error: BaseException, options: argparse.Namespace) -> int:
    """Show the traceback, and write it to the run's folder if there is one."""
    text = "".join(traceback.format_exception(error))
    where = _written(text, options.folder)
    said = f"it is also written to {where}; report it with this file" if where else "report it with this traceback"
    _say(f"{text}emphasis: this error was not foreseen: {said} to {_maintainers()}")
    return FAULT


def _written(text: str, folder: Path | None) -> Path | None:
    """Return the log in the run's folder that now has `text`; None if there is no such folder, or no room."""
    if folder is None:
        return None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = f"{now}, emphasis {emphasis.__version__}, Python {platform.python_version()}, {platform.platform()}"
    with contextlib.suppress(OSError):
        places = [folder, folder / "search", folder / "audit"]
        if any((place / name).is_file() for place in places for name in _MARKERS):
            with (folder / ERROR_LOG).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{about}\nemphasis {' '.join(sys.argv[1:])}\n{text}\n")
            return folder / ERROR_LOG
    return None


def _maintainers() -> str:
    """Return to whom faults are reported: the address that the package's metadata gives, if it gives one."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        urls = metadata.metadata("emphasis-learn").get_all("Project-URL") or []
        addresses = dict(one.split(", ", 1) for one in urls if ", " in one)
        for label in ("Issues", "Bug Tracker", "Source", "Repository", "Homepage"):
            if label in addresses:
                return f"the maintainers of emphasis, {addresses[label]}"
    return "the maintainers of emphasis"


def _refused_output() -> OSError | None:
    """Return why the standard output takes nothing more, and let the interpreter end in peace; None if it does."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream without a file
        return None
    try:
        os.write(number, b"\n")
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
        return error
    return None
