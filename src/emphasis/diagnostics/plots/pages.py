"""Functions shared by all HTML pages: the template environment, charts for wide and narrow windows, and formatting.

A page is a template that extends "page.html.j2" and fills its blocks `title`, `header` and `content`. The style sheet,
the table of contents, the scrolling boxes of tables and their CSV files are added to every page by `document.finish`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from emphasis.diagnostics.plots.canvas import Layouts
from emphasis.diagnostics.plots.document import finish
from emphasis.diagnostics.plots.themes import chart_colors, inline_svg, svg_text
from emphasis.texts import encodable


@dataclass(frozen=True)
class Chart:
    """A figure as SVG in two layouts, of which a page shows the one that fits into the window.

    Attributes:
        wide: The figure for a window of at least 56 em, and for a file.
        narrow: The figure for a telephone.
    """

    wide: str
    narrow: str


def chart(draw: Layouts) -> Chart:
    """Return a figure as SVG in both layouts."""
    return Chart(svg_text(draw(narrow=False)), svg_text(draw(narrow=True)))


def page_environment(*packages: str) -> Environment:
    """Return the Jinja environment for the templates of `packages`, which extend "page.html.j2"."""
    loaders = [PackageLoader(package) for package in (*packages, "emphasis.diagnostics.plots")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_encodable,
    )
    environment.filters["chart"] = chart_html
    environment.filters["finish"] = finish
    environment.globals["chart_colors"] = Markup(chart_colors())
    return environment


def chart_html(value: Chart, description: str) -> Markup:
    """Return both layouts of a chart as inline SVG; the style sheet shows one of them.

    Args:
        value: The chart.
        description: What the chart shows, for screen readers.
    """
    prefix = blake2b(value.wide.encode(), digest_size=4).hexdigest()
    layouts = (
        f'<div class="{name}">{inline_svg(svg, f"{name[0]}{prefix}", description)}</div>'
        for name, svg in (("wide", value.wide), ("narrow", value.narrow))
    )
    return Markup(f'<div class="chart">{"".join(layouts)}</div>')


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
