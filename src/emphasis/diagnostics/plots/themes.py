"""Saves figures for light pages, for dark pages, or for both, as an SVG that follows the reader's color scheme."""

from __future__ import annotations

import io
import re
from html import escape
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
    """Write `figure` in the format given by the suffix of `path`; the same figure gives the same SVG, byte for byte.

    Args:
        figure: A figure in the colors of `palette`.
        path: A path that ends in one of `FORMATS`.
        theme: "light"; "dark", on a dark background; or "auto": an SVG without background that turns dark where the
            reader prefers dark pages (PNG and PDF files cannot do so, and are light). "dark" changes the figure itself.
        dpi: Resolution of a PNG file.

    Raises:
        ValueError: The suffix is not in `FORMATS`, or the theme is unknown.
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
    """Return an SVG drawn by matplotlib with a style sheet that turns its colors dark where the reader prefers dark."""
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


def chart_colors() -> str:
    """Return the style rules with the colors of `inline_svg`, light and dark.

    The colors are CSS variables, because selectors of the page do not match the content of `<use>`, which draws the
    markers of curves.
    """
    light, dark = (
        " ".join(f"--{key[1:].lower()}: {color};" for key, color in pairs.items())
        for pairs in ({key: key for key in DARK}, DARK)
    )
    return (
        f".chart {{ {light} }} .chart svg {{ fill: var(--000000) }}\n"
        f"@media (prefers-color-scheme: dark) {{ .chart {{ {dark} }} }}"
    )


def svg_text(figure: Figure) -> str:
    """Return a figure as a compact SVG without background, whose texts are kept as text.

    The same figure gives the same SVG, byte for byte. Fonts as wide as
    the font that the figure was laid out with are preferred.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "emphasis", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = _COORDINATES.sub(lambda match: _LONG_NUMBER.sub(_rounded, " ".join(match.group().split())), text)
    referenced = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: match.group() if match[1] in referenced else "", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "'DejaVu Sans', Verdana, sans-serif", text)
    return re.sub(r">\s+<", "><", text).strip()


_COORDINATES = re.compile(r'(?<= )(?:d|x|y|transform|points|width|height)="[^"]*"')
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match.group()):.2f}".rstrip("0").rstrip(".")


def _variable(match: re.Match[str]) -> str:
    return f"{match[1]}: var(--{match[2]})" if f"#{match[2].upper()}" in DARK else match.group()


def inline_svg(svg: str, prefix: str, description: str) -> str:
    """Return an SVG of `svg_text` for embedding in an HTML page.

    Args:
        svg: The SVG.
        prefix: Prefix of its identifiers, which must be unique on the page.
        description: What the figure shows.
    """
    text = re.sub(r"(fill|stroke): #([0-9a-f]{6})", _variable, svg)
    text = re.sub(r' id="', f' id="{prefix}', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", text)
    start = re.match(r'<svg\b[^>]*?viewBox="0 0 ([\d.]+) [^>]*>', text)
    assert start is not None
    box = re.search(r'viewBox="[^"]*"', start.group())
    assert box is not None
    width = float(start[1]) / 72  # inches
    opening = f'<svg {box.group()} style="max-width: {width:.1f}in" role="img" aria-label="{escape(description)}">'
    return opening + text[start.end() :]
