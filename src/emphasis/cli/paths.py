"""Arguments of the command that are paths, or may be."""

from __future__ import annotations

import argparse
from pathlib import Path

from emphasis.errors import EmphasisOSError
from emphasis.files import naming_refusals


def a_path(text: str) -> Path:
    """Return the path that an argument names, whether or not there is anything.

    Raises:
        argparse.ArgumentTypeError: The system refuses to look: permission is denied, or a name is too long.
    """
    path = Path(text)
    try:
        with naming_refusals("look at", path):
            (path / "run.json").exists()  # any name: the folder must let itself be searched
    except EmphasisOSError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def a_name(text: str) -> str:
    """Return an argument that names something of the package, or is a path that the system lets be looked at."""
    a_path(text)
    return text
