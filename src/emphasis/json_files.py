"""JSON files that others wrote, or a kill or a full disk damaged: read with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emphasis.errors import EmphasisValueError

_DEEPEST = 64  # lists and tables within each other; what copies and writes them calls itself for each


class JSONFileError(EmphasisValueError):
    """A file does not hold the JSON that it should; the message names the file, and the line of JSON Lines."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a file holds.

    Raises:
        JSONFileError: It cannot be read or holds none.
        FileNotFoundError: There is no such file.
    """
    return _object(_text(path), str(path))


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield, for each line of a file, where it is ("FILE, line 3") and the object that it holds.

    Raises:
        JSONFileError: The file cannot be read, or a line holds no object, such as one cut short.
        FileNotFoundError: There is no such file.
    """
    for number, line in enumerate(_text(path).removesuffix("\n").split("\n"), start=1):
        where = f"{path}, line {number}"
        if line or number > 1:  # of an empty file there is no line
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
        found = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # one alone stands for a byte of a file's name
            json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except RecursionError:
        raise JSONFileError(f"{where}: its lists and tables are nested too deep") from None
    except UnicodeEncodeError:
        raise JSONFileError(f"{where}: a text in it holds half a character") from None
    except ValueError as error:
        raise JSONFileError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise JSONFileError(f"{where}: not a JSON object")
    if too_deep(found):
        raise JSONFileError(f"{where}: its lists and tables are nested too deep")
    return found


def too_deep(found: Any) -> bool:
    """Return whether lists and tables are within each other deeper than is safe to copy and to write."""
    level = [found]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
