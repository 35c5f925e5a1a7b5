"""What all pages share: one style, readable in light and dark, images within the page, no other file needed."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from emphasis.texts import encodable


def page_environment(package: str) -> Environment:
    """Return the environment of a package's templates, which may include "page.css"."""
    loaders = [PackageLoader(package), PackageLoader("emphasis.diagnostics.plots")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_writable,
    )  # fmt: skip


def _writable(value: Any) -> Any:
    """Return what a template shows as it can be written: names of files may hold what is no text."""
    return encodable(value) if type(value) is str else value


def shown(value: Any) -> str:
    """Return a table's value as people read it."""
    if value is None or value != value:  # NaN and NaT are not themselves
        return "missing"
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


def png_uri(content: bytes) -> str:
    """Return a PNG file's bytes as an address for <img>."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
