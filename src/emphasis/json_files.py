"""Reading JSON files that may be damaged, or not ours, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emphasis.errors import EmphasisValueError

_MAX_DEPTH = 64  # of nested lists and objects, which are copied and written recursively


class JSONFileError(EmphasisValueError):
    """A file does not contain the expected JSON; the message names the file, and the line in a JSON Lines file."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        JSONFileError: The file cannot be read or contains no object.
        FileNotFoundError: The file does not exist.
    """
    return _object(_text(path), str(path))


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the position ("FILE, line 3") and the object of each line of a JSON Lines file.

    Raises:
        JSONFileError: The file cannot be read, or a line, such as a truncated one, contains no object.
        FileNotFoundError: The file does not exist.
    """
    for number, line in enumerate(_text(path).removesuffix("\n").split("\n"), start=1):
        where = f"{path}, line {number}"
        if line or number > 1:  # an empty file has no lines
            yield where, _object(line, where)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise JSONFileError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise JSONFileError(f"{path} is damaged: it is not UTF-8") from error


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # lone surrogates stand for bytes of file names
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except RecursionError:
        raise JSONFileError(f"{where}: its lists and tables are nested too deep") from None
    except UnicodeEncodeError:
        raise JSONFileError(f"{where}: a text in it holds half a character") from None
    except ValueError as error:
        raise JSONFileError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise JSONFileError(f"{where}: not a JSON object")
    if too_deep(value):
        raise JSONFileError(f"{where}: its lists and tables are nested too deep")
    return value


def too_deep(value: Any) -> bool:
    """Return whether lists and objects are nested too deep to be copied and written safely."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
