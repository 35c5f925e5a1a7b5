"""Settings as texts: NAME=VALUE of a command line, the value in TOML, and tables as a recipe has them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from emphasis.errors import EmphasisValueError


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
