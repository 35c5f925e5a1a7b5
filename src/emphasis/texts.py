"""Text helpers: NAME=VALUE and TOML, suggestions for mistyped names, and escaping of untrusted text."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from emphasis.errors import EmphasisValueError

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return a text with the characters escaped that a terminal interprets: \x1b for the escape character.

    These are control characters except tabs and newlines, characters that change the writing direction, and lone
    surrogates, which stand for undecodable bytes in file names.
    """
    return _CONTROL.sub(_escape, text)


def encodable(text: str) -> str:
    """Return a text that can be encoded as UTF-8: lone surrogates are escaped."""
    return _SURROGATE.sub(_escape, text)


def one_line(error: Exception) -> str:
    """Return the message of another library's error in one line."""
    return " ".join(str(error).split())


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def toml_value(text: str) -> Any:
    """Return the TOML value of a text, or, if it is not valid TOML, the text itself without surrounding spaces."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def inline_table(values: Mapping[str, Any]) -> str:
    """Return strings, numbers, booleans and lists of them as an inline table of TOML."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + " }"


def named_value(text: str, form: str, example: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE.

    Raises:
        ValueError: The text has another form; the message gives the right one, with an example.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise EmphasisValueError(f"--set {text!r} is not allowed; write {form}, such as {example}")
    return name.strip(), toml_value(value)


def did_you_mean(name: str, known: Iterable[str], show: Callable[[str], str] = repr) -> str:
    """Return " (did you mean 'GCE'?)" for the known name closest to a mistyped one; "" if none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, 1, 0.5)
    return f" (did you mean {show(by_folded[close[0]])}?)" if close else ""


def shortened(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first `most` names in one line, and the number of further names."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
