"""What all HTML pages share: the template environment with one style sheet, and images as data URIs."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from emphasis.texts import encodable


def page_environment(*packages: str) -> Environment:
    """Return the Jinja environment of the templates of packages, which may include "page.css"."""
    loaders = [PackageLoader(package) for package in (*packages, "emphasis.diagnostics.plots")]
    return Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_encodable,
    )


def _encodable(value: Any) -> Any:
    """Return a template's value in a form that UTF-8 can encode: file names may contain undecodable bytes."""
    return encodable(value) if type(value) is str else value


def shown(value: Any) -> str:
    """Return a table's value formatted for reading."""
    if value is None or value != value:  # NaN and NaT differ from themselves
        return "missing"
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


def png_uri(content: bytes) -> str:
    """Return the content of a PNG file as a data URI for <img>."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
