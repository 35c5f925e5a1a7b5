"""Texts for people: NAME=VALUE and TOML, suggestions for mistyped names, and untrusted text made safe to show."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from emphasis.errors import EmphasisValueError

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return a text with what a terminal obeys rather than shows written out: \x1b for the escape character.

    Control characters but for tabs and ends of lines, those that turn the direction of writing, and halves of
    characters, which stand in file names for bytes that are no UTF-8.
    """
    return _UNSEEN.sub(_written_out, text)


def encodable(text: str) -> str:
    """Return a text that can be written as UTF-8: halves of characters are written out."""
    return _HALF.sub(_written_out, text)


def one_line(error: Exception) -> str:
    """Return what an error of another library says, in one line."""
    return " ".join(str(error).split())


def _written_out(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


def toml_value(text: str) -> Any:
    """Return the value that a text stands for in TOML, or the text itself, without spaces around, if it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def inline_table(values: Mapping[str, Any]) -> str:
    """Return texts, numbers, truth values and lists of them as a table of TOML on one line."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + " }"


def named_value(text: str, form: str, example: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE.

    Raises:
        ValueError: It is none; the message says what form to write, with an example.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise EmphasisValueError(f"--set {text!r} is not allowed; write {form}, such as {example}")
    return name.strip(), toml_value(value)


def did_you_mean(name: str, known: Iterable[str], show: Callable[[str], str] = repr) -> str:
    """Return "; did you mean 'GCE'?" for the known name nearest to a mistyped one, "" if none is near."""
    by_folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, 1, 0.5)
    return f"; did you mean {show(by_folded[close[0]])}?" if close else ""


def shortened(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first `most` names in one line, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
