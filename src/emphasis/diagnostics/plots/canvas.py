"""Functions shared by all figures: canvas, margins, text shown literally, and PNG files.

Figures are drawn on the Agg canvas, without pyplot's state and without a display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emphasis.texts import visible

FORMATS = ("png", "svg", "pdf")


class Layouts(Protocol):
    """A function that returns a figure laid out for a wide window, or for a narrow one such as a telephone's.

    Each call may change the figure that an earlier call returned, so write a figure before asking for the other layout.
    """

    def __call__(self, *, narrow: bool) -> Figure:
        """Return the figure in one layout."""


def literal(text: str) -> str:
    """Return `text` in a form that matplotlib shows literally.

    Unescaped, text between two dollar signs would become a formula, and labels that begin with "_" would be missing
    from legends.
    """
    shown = visible(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def png(figure: Figure, dpi: int = 120) -> bytes:
    """Return the figure as the bytes of a PNG file with 256 colors, which looks the same at a third of the size.

    `Figure.savefig` would draw the figure twice, the first time to lay it out.
    """
    from PIL import Image  # a dependency of matplotlib

    canvas: Any = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    quantized = Image.fromarray(pixels).quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette, background = quantized.getpalette() or [], 3 * int(np.asarray(quantized)[0, 0])
    palette[background : background + 3] = pixels[0, 0].tolist()  # the octree makes 254 of 255
    quantized.putpalette(palette)
    file = io.BytesIO()
    quantized.save(file, "PNG")
    return file.getvalue()


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Return an empty figure on the Agg canvas, with its size given in inches."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def arrange(
    axes: Sequence[Any],
    columns: int,
    *,
    width: float,
    height: float,
    left: float,
    right: float,
    bottom: float,
    top: float,
    gap: float,
    row_gap: float,
) -> None:
    """Place axes in rows, and set the size of their figure, the margins and the gaps between the axes, in inches.

    The axes have no labels of their own, so these get fixed coordinates: to place them, matplotlib would measure all
    tick labels. Constrained layout would measure all texts of all axes twice, which takes as long as drawing them.
    """
    figure, rows = axes[0].figure, -(-len(axes) // columns)
    figure.set_size_inches(width, height)
    grid = figure.add_gridspec(rows, columns)
    for number, axis in enumerate(axes):
        axis.set_subplotspec(grid[divmod(number, columns)])
        axis.xaxis.set_label_coords(0.0, 0.0)
        axis.yaxis.set_label_coords(0.0, 0.0)
    figure.subplots_adjust(
        left=left / width,
        right=1.0 - right / width,
        bottom=bottom / height,
        top=1.0 - top / height,
        wspace=gap * columns / (width - left - right - gap * (columns - 1)),
        hspace=row_gap * rows / (height - bottom - top - row_gap * (rows - 1)),
    )
