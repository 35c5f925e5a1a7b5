"""Small multiples of p, the probability given to the example's label: a panel for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emphasis.diagnostics.plots.canvas import Layouts, arrange, literal, new_figure
from emphasis.diagnostics.plots.curves import Curve, draw_mean
from emphasis.diagnostics.plots.palette import ALARM, COLORS, FILLS
from emphasis.weighting import Weighting

_CLEAN, _NOISY, _EDF = COLORS[0], COLORS[1], COLORS[4]


@dataclass(frozen=True, eq=False)
class ProbabilityPanel:
    """One panel of `probability_curves`: a method's mean p of correctly and of wrongly labeled examples."""

    title: str
    clean: Curve
    noisy: Curve
    note: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """One panel of `emphasis_panels`.

    Attributes:
        title: Title of the panel, such as the method's name.
        weighting: The method's weighting; None if it has none, in which case no line is drawn.
        clean: Number of correctly labeled examples in each of B equal bins of p in [0, 1], at the end of training.
        noisy: The same for wrongly labeled examples.
        note: Text in the panel, such as "collapsed (5 of 5 seeds)".
    """

    title: str
    weighting: Weighting | None
    clean: Sequence[int]
    noisy: Sequence[int]
    note: str = ""


def probability_curves(panels: Sequence[ProbabilityPanel], columns: int = 4) -> Figure:
    """Return the figure of `probability_layouts` for a wide window."""
    return probability_layouts(panels, columns)(narrow=False)


def probability_layouts(panels: Sequence[ProbabilityPanel], columns: int = 4) -> Layouts:
    """Return small multiples of mean p over iterations, of examples with clean and with noisy labels.

    Lines are means over the networks, bands one standard deviation. The distance of the two lines shows how well the
    method separates wrong labels from correct ones. The panels are drawn once for both layouts.
    """
    figure, axes = _multiples(len(panels))
    last = max(max(panel.clean.iterations[-1] for panel in panels), 1)
    axes[0].set(xlim=(0, last), ylim=(0, 1), xticks=(0, last // 2, last), yticks=(0, 0.25, 0.5, 0.75, 1))
    axes[0].xaxis.set_major_formatter("{x:,.0f}")
    for axis, panel in zip(axes, panels, strict=True):
        draw_mean(axis, panel.clean, _CLEAN, "-")
        if np.isfinite(panel.noisy.values).any():
            draw_mean(axis, panel.noisy, _NOISY, (0, (5, 1.5)))
        axis.set_title(literal(panel.title), fontsize=10, loc="left", y=1.0, fontweight="bold")
        axis.grid(axis="y", alpha=0.2, linewidth=0.6)
        _write_note(axis, panel.note)
    handles = [
        Line2D([], [], color=_CLEAN, linewidth=1.8, label="clean labels"),
        Line2D([], [], color=_NOISY, linewidth=1.8, linestyle=(0, (5, 1.5)), label="noisy labels"),
    ]
    figure.legend(handles=handles, loc="upper center", ncols=2, frameon=False, fontsize=10)

    def lay_out(*, narrow: bool) -> Figure:
        return _arrange(axes, columns, "iteration", "mean p", narrow)

    return lay_out


def emphasis_panels(panels: Sequence[Panel], columns: int = 5) -> Figure:
    """Return the figure of `emphasis_layouts` for a wide window."""
    return emphasis_layouts(panels, columns)(narrow=False)


def emphasis_layouts(panels: Sequence[Panel], columns: int = 5) -> Layouts:
    """Return small multiples of the distribution of p at the end of training, and of the emphasis density.

    Bars are shares of the clean and of the noisy examples in bins of [0, 1], on a square-root scale, since most p end
    near 0 or 1; the line is the emphasis density h(p) relative to its peak, on a linear scale. The panels are drawn
    once for both layouts.
    """
    figure, axes = _multiples(len(panels))
    grid = np.linspace(0.0, 1.0, 401)
    axes[0].set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0.0)), np.square))
    axes[0].set(xlim=(0, 1), ylim=(0, 1.05), xticks=(0, 0.5, 1))  # the other axes share these scales
    axes[0].set_yticks((0, 0.05, 0.25, 0.5, 1.0), ("0", "5 %", "25 %", "50 %", "100 %"))
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=True):
        drawn = [
            _bars(axis, panel.clean, -0.5, FILLS[0], "clean labels"),
            _bars(axis, panel.noisy, 0.5, FILLS[1], "noisy labels"),
        ]
        axis.set_title(literal(panel.title), fontsize=10, loc="left", y=1.0, fontweight="bold")
        if panel.weighting is not None:
            density = np.exp(panel.weighting.log(grid) - panel.weighting.log_peak)
            label = "EDF h(p) / its peak (linear)"  # on the square-root scale, the square is linear
            drawn += axis.plot(grid, density**2, color=_EDF, linewidth=1.6, label=label)
        handles |= {str(artist.get_label()): artist for artist in drawn}
        _write_note(axis, panel.note)
        axis.grid(axis="y", alpha=0.2, linewidth=0.6)

    def lay_out(*, narrow: bool) -> Figure:
        for legend in list(figure.legends):  # that of the other layout
            legend.remove()
        columns_of_legend, size = (2, 8.5) if narrow else (3, 10)
        figure.legend(
            handles=list(handles.values()), loc="upper center", ncols=columns_of_legend, frameon=False, fontsize=size
        )
        xlabel = "p, the probability given to the example's label at the end of training"
        return _arrange(axes, columns, xlabel, "share of the examples", narrow)

    return lay_out


def _multiples(count: int) -> tuple[Figure, list[Any]]:
    """Return a figure and `count` small axes with shared scales, which `_arrange` places."""
    figure = new_figure(4.7, 3.0, layout=None)
    return figure, list(figure.subplots(1, count, sharex=True, sharey=True, squeeze=False).flat)


def _arrange(axes: Sequence[Any], columns: int, xlabel: str, ylabel: str, narrow: bool) -> Figure:
    """Place small multiples in rows, with tick labels on the outer axes, and return their figure."""
    columns = min(2 if narrow else columns, len(axes))
    rows = -(-len(axes) // columns)
    width, height = (4.7, 2.0 * rows + 1.0) if narrow else (max(3.1 * columns, 6.0), 2.5 * rows + 0.7)  # in inches
    top = 1.0 if narrow else 0.7
    arrange(
        axes, columns, width=width, height=height, left=0.95, right=0.2, bottom=0.75, top=top, gap=0.25, row_gap=0.4
    )
    figure: Figure = axes[0].figure
    figure.supxlabel(xlabel, fontsize=9 if narrow else 10, y=0.15 / height, va="bottom")
    figure.supylabel(ylabel, fontsize=10, x=0.15 / width, ha="left")
    for number, axis in enumerate(axes):
        is_left, is_last = number % columns == 0, number + columns >= len(axes)
        axis.tick_params(labelsize=8.5 if narrow else 8, labelleft=is_left, labelbottom=is_last)
    return figure


def _write_note(axis: Any, note: str) -> None:
    """Write a note, such as a failure, into the middle of a panel."""
    if note:
        axis.text(
            0.5,
            0.42,
            literal(note).replace("; ", "\n").replace(" (", "\n("),
            fontsize=8.5,
            color=ALARM,
            ha="center",
            va="center",
            fontweight="bold",
            transform=axis.transAxes,
            bbox={"facecolor": "white", "alpha": 0.9, "linewidth": 0, "pad": 2},
        )


def _bars(axis: Any, counts: Sequence[int], side: float, color: str, label: str) -> Any:
    """Draw the shares of the bins in the left (-0.5) or right (0.5) half of each bin.

    One collection of rectangles takes a fraction of the time of `Axes.bar`, which creates an artist for each bar.
    """
    shares = np.asarray(counts, dtype=np.float64)
    heights = shares / max(shares.sum(), 1.0)
    bins = np.linspace(0.0, 1.0, len(shares) + 1)
    width = np.diff(bins) * 0.45
    left = (bins[1:] + bins[:-1]) / 2 + side * width - width / 2
    corners = [
        [(x, 0.0), (x, height), (x + w, height), (x + w, 0.0)]
        for x, w, height in zip(left, width, heights, strict=True)
    ]
    return axis.add_collection(PolyCollection(corners, facecolor=color, linewidth=0, label=label), autolim=False)
