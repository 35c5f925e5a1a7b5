"""What all pages share: one style, readable in light and dark, images within the page, no other file needed."""

from __future__ import annotations

import base64

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page_environment(package: str) -> Environment:
    """Return the environment of a package's templates, which may include "page.css"."""
    loaders = [PackageLoader(package), PackageLoader("emphasis.diagnostics")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def png_uri(content: bytes) -> str:
    """Return a PNG file's bytes as an address for <img>."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
