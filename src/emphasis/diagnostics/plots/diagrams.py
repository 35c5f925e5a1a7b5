"""Diagrams of the paper: common practice compared with derivative manipulation, and a small network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from emphasis.diagnostics.plots.canvas import new_figure
from emphasis.diagnostics.plots.palette import ALARM, COLORS, GRAY

_INK, _BLUE = COLORS[4], COLORS[0]


def practice_and_dm_diagram() -> Figure:
    """Return Figure 1a of the paper, which shows how the derivative with respect to the logits z is obtained.

    In common practice it is derived from a loss. Derivative manipulation designs its size w(p) instead.
    """
    figure = new_figure(10.4, 5.0)
    axes = figure.subplots()
    axes.set(xlim=(0.0, 10.4), ylim=(-0.5, 4.8), aspect="equal")
    axes.axis("off")
    for y, title in ((3.7, "Common practice"), (1.0, "Derivative manipulation")):
        axes.text(0.2, y + 0.7, title, fontsize=12, fontweight="bold", color=_INK)
        for x, text in ((0.9, "examples\nx"), (3.1, "network"), (5.2, "logits\nz"), (7.2, "softmax\np")):
            _box(axes, x, y, text, _INK)
        for start, end in ((1.6, 2.4), (3.8, 4.5), (5.9, 6.5)):
            _arrow(axes, (start, y), (end, y), _INK)
        _arrow(axes, (4.6, y - 0.62), (3.7, y - 0.62), ALARM)
        axes.text(4.15, y - 0.98, "backward", ha="center", fontsize=9, color=ALARM)
    _box(axes, 9.4, 3.7, "loss\nL(p)", _INK)
    _arrow(axes, (7.9, 3.7), (8.7, 3.7), _INK)
    _arrow(axes, (9.4, 3.28), (5.9, 3.08), ALARM, bend=-0.25)
    axes.text(7.75, 2.42, "∂L/∂z, derived from the loss", ha="center", fontsize=10, color=ALARM)
    _box(axes, 9.4, 1.0, "density\nw(p)", _BLUE)
    _arrow(axes, (7.9, 1.0), (8.7, 1.0), _INK)
    _arrow(axes, (9.4, 0.58), (5.9, 0.38), ALARM, bend=-0.25)
    axes.text(
        7.75, -0.25, "derivative with respect to z, of size w(p) by design", ha="center", fontsize=10, color=ALARM
    )
    return figure


def network_diagram(layers: Sequence[tuple[str, int]], most_drawn: int = 8) -> Figure:
    """Return a drawing of fully connected layers in the style of Figure 4 of the paper.

    Args:
        layers: Name and number of units of each layer, from the inputs to the outputs.
        most_drawn: Maximum number of units drawn per layer; dots stand for the others.
    """
    figure = new_figure(2.6 * len(layers), 4.2)
    axes = figure.subplots()
    axes.set(xlim=(-1.2, 2.6 * (len(layers) - 1) + 1.2), ylim=(-0.8, 5.6), aspect="equal")
    axes.axis("off")
    columns = []
    for number, (name, units) in enumerate(layers):
        drawn = min(units, most_drawn)
        spacing = 0.55
        heights = [2.3 + spacing * (unit - (drawn - 1) / 2) for unit in range(drawn)]
        if units > drawn:  # dots replace the unit in the middle
            heights = [y for unit, y in enumerate(heights) if unit != drawn // 2]
            axes.text(
                2.6 * number, 2.3 + spacing * (drawn // 2 - (drawn - 1) / 2), "⋮", ha="center", va="center", color=_INK
            )
        columns.append(heights)
        axes.text(2.6 * number, 5.1, name, ha="center", fontsize=11, fontweight="bold", color=_INK)
        axes.text(2.6 * number, -0.5, f"{units:,}", ha="center", fontsize=11, color=_INK)
    for number, (left, right) in enumerate(itertools.pairwise(columns)):
        for a in left:
            for b in right:
                axes.plot((2.6 * number, 2.6 * (number + 1)), (a, b), color=GRAY, linewidth=0.5, zorder=1)
    for number, heights in enumerate(columns):
        for y in heights:
            axes.add_patch(Circle((2.6 * number, y), 0.19, facecolor=_BLUE, edgecolor=_INK, linewidth=0.8, zorder=2))
    return figure


def _box(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """Draw a text in a rounded box around (x, y)."""
    corner, style = (x - 0.7, y - 0.42), "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch(corner, 1.4, 0.84, boxstyle=style, fill=False, edgecolor=color, linewidth=1.3))
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color=color)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, bend: float = 0.0) -> None:
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=13, color=color, linewidth=1.4, connectionstyle=style
        )
    )
