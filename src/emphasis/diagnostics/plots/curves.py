"""Curves of several networks during training, as small multiples with a label at the end of each curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray

from emphasis.diagnostics.plots.canvas import Layouts, arrange, literal, new_figure
from emphasis.diagnostics.plots.palette import COLORS, GRAY, LINE_STYLES
from emphasis.metrics import mean_and_std


@dataclass(frozen=True, eq=False)
class Curve:
    """A quantity of K networks during training.

    Attributes:
        iterations: (E,), increasing.
        values: (K, E) in [0, 1]; NaN where there is no value.
    """

    iterations: Sequence[int]
    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CurvePanel:
    """One panel of `accuracy_curves`.

    Attributes:
        title: Title of the panel.
        curves: Curves by the method's name.
        chance: Accuracy of chance, 1/C, drawn as a line.
    """

    title: str
    curves: Mapping[str, Curve]
    chance: float


def accuracy_curves(
    panels: Sequence[CurvePanel], gray: str | None = None, columns: int = 3, ylabel: str = "test accuracy (%)"
) -> Figure:
    """Return the figure of `curve_layouts` for a wide window."""
    return curve_layouts(panels, gray, columns, ylabel)(narrow=False)


def curve_layouts(
    panels: Sequence[CurvePanel], gray: str | None = None, columns: int = 3, ylabel: str = "test accuracy (%)"
) -> Layouts:
    """Return accuracy curves: means with bands of one standard deviation, each labeled at its end.

    The panels are drawn once for both layouts. The narrow one places them one below another.

    Args:
        panels: One or more panels. A method has the same color in all of them if there are enough colors.
        gray: Name of a baseline method, drawn in gray.
        columns: Maximum number of panels side by side.
        ylabel: Label of the vertical axis.
    """
    low, high = _range(panels)
    columns = 2 if len(panels) == 4 else min(columns, len(panels))
    figure = new_figure(5.4 * columns + 0.8, 4.2, layout=None)
    grid = figure.subplots(-(-len(panels) // columns), columns, sharey=True, squeeze=False)
    axes, spare = list(grid.flat[: len(panels)]), grid.flat[len(panels) :]
    for axis in spare:
        axis.remove()
    axes[0].set_ylim(low, high)
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves if name != gray))
    labels: list[_Label] = []
    for axis, panel in zip(axes, panels, strict=True):
        colored = names if len(names) <= len(COLORS) else [name for name in panel.curves if name != gray]
        labels += _draw_panel(axis, panel, colored)
    longest = max((label.text.get_window_extent().width / figure.dpi for label in labels), default=0.0)

    def lay_out(*, narrow: bool) -> Figure:
        side_by_side = 1 if narrow else columns
        rows = -(-len(panels) // side_by_side)
        height = 3.8 if narrow else 5.0 if rows == 1 else 4.2
        width = 5.0 if narrow else 5.4 * columns + 0.8
        for axis in axes:
            _separate([label for label in labels if label.text.axes is axis], 13.5 / (72 * (height - 1.0)), low, high)
        margin = min(longest + 0.25, 2.0 if narrow else 3.0)  # for the labels and the lines that lead to them
        arrange(
            axes,
            side_by_side,
            width=width,
            height=height * rows,
            left=0.8,
            right=margin,
            bottom=0.7,
            top=0.4,
            gap=margin + 0.5,
            row_gap=0.7,
        )
        figure.supxlabel("iteration", fontsize=10, y=0.1 / (height * rows), va="bottom")
        figure.supylabel(ylabel, fontsize=10, x=0.1 / width, ha="left")
        return figure

    return lay_out


def _draw_panel(axis: Any, panel: CurvePanel, colored: Sequence[str]) -> list[_Label]:
    """Draw a panel and return the labels of its curves, each at the height of its end.

    Args:
        axis: The axes, with the limits of their vertical axis.
        panel: The panel.
        colored: Names of the methods in the order of their colors; a method that is not among them is gray.
    """
    low, high = axis.get_ylim()
    last = max((curve.iterations[-1] for curve in panel.curves.values()), default=1)
    labels = []
    for name, curve in panel.curves.items():
        color = GRAY
        style: Any = LINE_STYLES[0]
        if name in colored:
            position = colored.index(name)
            color = COLORS[position % len(COLORS)]
            style = LINE_STYLES[(position // len(COLORS) + position) % len(LINE_STYLES)]
        mean = draw_mean(axis, curve, color, style, 100.0)
        finite = np.flatnonzero(np.isfinite(mean))
        end = 100 * float(mean[finite[-1]]) if finite.size else low
        if finite.size and finite[-1] < len(mean) - 1:  # every network has diverged
            at = curve.iterations[finite[-1]]
            axis.plot([at], [end], "x", color=color, markersize=7, markeredgewidth=2, clip_on=False)
        labels.append((end, name, color))
    axis.axhline(100 * panel.chance, color=GRAY, linewidth=0.8, linestyle=":")
    height = 100 * panel.chance - 0.006 * (high - low)
    axis.text(0.985 * last, height, "chance", color=GRAY, fontsize=8, va="top", ha="right")
    axis.set(xlim=(0, last), xticks=(0, last // 2, last))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.tick_params(labelleft=True)
    axis.set_title(literal(panel.title), loc="left", y=1.0, fontweight="bold")
    axis.grid(axis="y", alpha=0.25, linewidth=0.6)
    return [_label_end(axis, last, end, name, color) for end, name, color in sorted(labels)]


def _range(panels: Sequence[CurvePanel]) -> tuple[float, float]:
    """Return the limits of the vertical axis in percent, which include all means and chance."""
    values = [panel.chance for panel in panels]
    for panel in panels:
        for curve in panel.curves.values():
            mean, _ = mean_and_std(curve.values)
            values.extend(mean[np.isfinite(mean)])
    return max(0.0, 100 * min(values) - 5.0), min(101.0, 100 * max(values) + 4.0)


def draw_mean(axis: Any, curve: Curve, color: str, style: Any, scale: float = 1.0) -> NDArray[np.floating[Any]]:
    """Draw the mean of a curve and the band of its standard deviation; return the mean."""
    mean, spread = mean_and_std(curve.values)
    spread = np.nan_to_num(spread)  # no band around a single seed
    axis.plot(curve.iterations, scale * mean, color=color, linestyle=style, linewidth=1.8)
    axis.fill_between(
        curve.iterations, scale * (mean - spread), scale * (mean + spread), color=color, alpha=0.15, linewidth=0
    )
    return mean


@dataclass(frozen=True, eq=False)
class _Label:
    """The label of a curve, to the right of its end, and the line that leads to it."""

    end: float
    line: Line2D
    text: Text


def _label_end(axis: Any, right: float, end: float, name: str, color: str) -> _Label:
    """Label a curve that ends at (right, end)."""
    (line,) = axis.plot([right, 1.03 * right], [end, end], color=color, linewidth=0.7, clip_on=False)
    text = axis.text(1.035 * right, end, literal(name), va="center", fontsize=9, color=color)
    return _Label(end, line, text)


def _separate(labels: Sequence[_Label], gap: float, low: float, high: float) -> None:
    """Move the labels of a panel, in ascending order of the ends, apart from each other and into the axes.

    Args:
        labels: The labels.
        gap: Smallest vertical distance of two labels, as a share of the height of the axes.
        low: Lower limit of the vertical axis.
        high: Upper limit of the vertical axis.
    """
    heights = np.array([label.end for label in labels])
    gap *= high - low
    if len(heights) > 1:
        for _ in range(200):  # push overlapping neighbors apart until none overlap
            overlap = np.maximum(gap - np.diff(heights), 0.0) / 2
            if overlap.max() < 0.002 * gap:
                break
            heights[:-1] -= overlap
            heights[1:] += overlap
        heights += min(0.0, high - gap / 4 - heights[-1])
        heights += max(0.0, low + gap / 2 - heights[0])
    for label, height in zip(labels, heights, strict=True):
        label.line.set_ydata([label.end, height])
        label.text.set_y(height)
