"""A figure as a file for paper, for a dark page, or for both: an SVG that follows the reader's own setting."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib as mpl
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from emphasis.diagnostics.plots.figures import FORMATS
from emphasis.diagnostics.plots.palette import DARK
from emphasis.errors import EmphasisValueError
from emphasis.files import replacing

Theme = Literal["auto", "light", "dark"]
_INKS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def save(figure: Figure, path: Path, theme: Theme = "light", dpi: int = 150) -> None:
    """Write `figure` in the format of the file's name; the same figure gives the same SVG, byte for byte.

    Args:
        figure: Drawn in the inks of `inks`.
        path: Ends in one of `FORMATS`.
        theme: "light"; "dark", on a dark ground; or "auto": an SVG without a ground that turns dark where the reader
            prefers that, and light for PNG and PDF, which cannot. "dark" changes the figure itself.
        dpi: Of PNG.

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
    follows = theme == "auto" and suffix == "svg"
    drawn = io.BytesIO()
    about = {"Date": None, "Creator": None} if suffix == "svg" else None
    with mpl.rc_context({"svg.hashsalt": "emphasis"}):
        figure.savefig(drawn, format=suffix, dpi=dpi, transparent=follows, metadata=about)
    content = drawn.getvalue()
    if follows:
        content = following(content.decode("utf-8")).encode("utf-8")
    with replacing(path) as partial:
        partial.write_bytes(content)


def darken(figure: Figure) -> None:
    """Replace every ink of a figure by its dark counterpart, and the paper by night."""
    found = figure.findobj()
    hidden: list[Any] = [
        one.get_bbox_patch() for one in found if isinstance(one, Text)
    ]  # parts that findobj passes over
    hidden += [one.arrow_patch for one in found if isinstance(one, Annotation)]
    for artist in [*found, *hidden]:
        for ink in _INKS:
            get, put = getattr(artist, f"get_{ink}", None), getattr(artist, f"set_{ink}", None)
            if get is not None and put is not None and (dark := _dark(get())) is not None:
                put(dark)


def _dark(value: Any) -> Any:
    """Return the dark counterpart of a colour or of an array of them, opacity kept; None if there is none to change."""
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


def following(svg: str) -> str:
    """Return an SVG that matplotlib wrote with a style that turns its inks dark where the reader prefers dark."""
    rules = [
        f'[style*="{what}: {ink.lower()}"] {{ {what}: {dark} !important }}'
        for ink, dark in DARK.items() for what in ("fill", "stroke")
    ]  # fmt: skip
    unfilled = f"svg {{ fill: {DARK['#000000']} }}"  # texts in black say nothing of their fill
    style = f"<style>@media (prefers-color-scheme: dark) {{ {' '.join([unfilled, *rules])} }}</style>"
    opened = re.search(r"<svg\b[^>]*>", svg)
    assert opened is not None
    return svg[: opened.end()] + "\n" + style + svg[opened.end() :]
