"""Saving a figure for a light page, for a dark page, or for both: an SVG that follows the reader's system setting."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib as mpl
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from emphasis.diagnostics.plots.canvas import FORMATS
from emphasis.diagnostics.plots.palette import DARK
from emphasis.errors import EmphasisValueError
from emphasis.files import replacing

Theme = Literal["auto", "light", "dark"]
_COLOR_PROPERTIES = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def save(figure: Figure, path: Path, theme: Theme = "light", dpi: int = 150) -> None:
    """Write `figure` in the format of the file's name; the same figure gives the same SVG, byte for byte.

    Args:
        figure: A figure in the colors of `palette`.
        path: A path that ends in one of `FORMATS`.
        theme: "light"; "dark", on a dark background; or "auto": an SVG without background that turns dark where the
            reader prefers dark pages, and "light" for PNG and PDF, which cannot. "dark" changes the figure itself.
        dpi: Resolution of a PNG file.

    Raises:
        ValueError: The suffix is none of `FORMATS`, or there is no such theme.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise EmphasisValueError(
            f"cannot draw to {path.name!r}; use a name that ends in {', '.join('.' + f for f in FORMATS)}"
        )
    if theme not in get_args(Theme):
        raise EmphasisValueError(f"theme={theme!r} is not allowed; use one of {', '.join(get_args(Theme))}")
    if theme == "dark":
        darken(figure)
    follows_reader = theme == "auto" and suffix == "svg"
    file = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else None
    with mpl.rc_context({"svg.hashsalt": "emphasis"}):
        figure.savefig(file, format=suffix, dpi=dpi, transparent=follows_reader, metadata=metadata)
    content = file.getvalue()
    if follows_reader:
        content = add_dark_style(content.decode("utf-8")).encode("utf-8")
    with replacing(path) as partial:
        partial.write_bytes(content)


def darken(figure: Figure) -> None:
    """Replace every color of a figure by its dark counterpart."""
    artists = figure.findobj()
    parts: list[Any] = [artist.get_bbox_patch() for artist in artists if isinstance(artist, Text)]
    parts += [artist.arrow_patch for artist in artists if isinstance(artist, Annotation)]
    for artist in [*artists, *parts]:  # findobj does not return the parts of texts
        for name in _COLOR_PROPERTIES:
            get, put = getattr(artist, f"get_{name}", None), getattr(artist, f"set_{name}", None)
            if get is not None and put is not None and (dark := _dark(get())) is not None:
                put(dark)


def _dark(value: Any) -> Any:
    """Return the dark counterpart of a color or of an array of colors, with the same opacity; None if it has none."""
    try:
        rows = colors.to_rgba_array(value)
    except (ValueError, TypeError):  # "auto", "none" and the like
        return None
    if not len(rows):
        return None
    changed = [
        colors.to_rgba(DARK.get(colors.to_hex(row).upper(), colors.to_hex(row)), alpha=float(row[3])) for row in rows
    ]
    return changed if len(changed) > 1 else changed[0]


def add_dark_style(svg: str) -> str:
    """Return an SVG of matplotlib's with a style sheet that turns its colors dark where the reader prefers dark."""
    rules = [
        f'[style*="{attribute}: {color.lower()}"] {{ {attribute}: {dark} !important }}'
        for color, dark in DARK.items()
        for attribute in ("fill", "stroke")
    ]
    default = f"svg {{ fill: {DARK['#000000']} }}"  # black texts have no fill attribute
    style = f"<style>@media (prefers-color-scheme: dark) {{ {' '.join([default, *rules])} }}</style>"
    start = re.search(r"<svg\b[^>]*>", svg)
    assert start is not None
    return svg[: start.end()] + "\n" + style + svg[start.end() :]
