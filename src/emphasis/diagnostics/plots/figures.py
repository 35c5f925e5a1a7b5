"""Matplotlib figures, drawn on the Agg canvas without pyplot's global state or a display.

Functions take plain arrays and return a Figure; `themes.save` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray

from emphasis.diagnostics.plots.canvas import arrange, literal, new_figure
from emphasis.diagnostics.plots.palette import ALARM, COLORS, FILLS, GRAY
from emphasis.metrics import mean_and_std
from emphasis.weighting import Weighting

_CLEAN, _NOISY, _EDF = COLORS[0], COLORS[1], COLORS[4]
_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))


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


def accuracy_curves(
    panels: Sequence[CurvePanel],
    *,
    gray: str = "",
    columns: int = 3,
    ylabel: str = "test accuracy (%)",
    narrow: bool = False,
) -> Figure:
    """Return accuracy over iterations: mean and standard deviation over the networks, as lines and bands.

    Args:
        panels: One or more panels. A method has the same color in all of them if there are enough colors.
        gray: Name of a baseline method, drawn in gray.
        columns: Maximum number of panels side by side.
        ylabel: Label of the vertical axis.
        narrow: Whether to place the panels one below another, for a telephone.
    """
    columns = 1 if narrow else 2 if len(panels) == 4 else min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height = 3.8 if narrow else 5.0 if rows == 1 else 4.2
    full_width = 5.0 if narrow else 5.4 * columns + 0.8
    figure = new_figure(full_width, height * rows, layout=None)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    labels: list[Text] = []
    low, high = _range(panels)
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves if name != gray))
    for number, axis in enumerate(axes.flat):
        if number >= len(panels):
            axis.set_visible(False)
            continue
        panel = panels[number]
        colored = names if len(names) <= len(COLORS) else [name for name in panel.curves if name != gray]
        last = max((curve.iterations[-1] for curve in panel.curves.values()), default=1)
        ends: list[tuple[float, str, str]] = []
        for name, curve in panel.curves.items():
            position = -1 if name == gray else colored.index(name)
            color = GRAY if name == gray else COLORS[position % len(COLORS)]
            style = "-" if name == gray else _STYLES[(position // len(COLORS) + position) % len(_STYLES)]
            mean = _line(axis, curve, color, style, 100.0)
            finite = np.flatnonzero(np.isfinite(mean))
            end = 100 * float(mean[finite[-1]]) if finite.size else low
            if finite.size and finite[-1] < len(mean) - 1:  # every network has diverged
                axis.plot(
                    [curve.iterations[finite[-1]]],
                    [end],
                    "x",
                    color=color,
                    markersize=7,
                    markeredgewidth=2,
                    clip_on=False,
                )
            ends.append((end, name, color))
        axis.axhline(100 * panel.chance, color=GRAY, linewidth=0.8, linestyle=":")
        axis.text(
            0.985 * last,
            100 * panel.chance - 0.006 * (high - low),
            "chance",
            color=GRAY,
            fontsize=8,
            va="top",
            ha="right",
        )
        axis.set(ylim=(low, high), xlim=(0, last), xticks=(0, last // 2, last))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.tick_params(labelleft=True)
        axis.set_title(literal(panel.title), loc="left", y=1.0, fontweight="bold")
        axis.grid(axis="y", alpha=0.25, linewidth=0.6)
        labels += _label_ends(axis, float(last), ends, gap=13.5 / (72 * (height - 1.0)) * (high - low))
    width = max((label.get_window_extent().width / figure.dpi for label in labels), default=0.0)
    width = min(
        width + 0.25, 2.0 if narrow else 3.0
    )  # width of the labels and of the lines that lead to them; longer labels are shortened
    arrange(figure, rows, columns, left=0.8, right=width, bottom=0.7, top=0.4, gap=width + 0.5, row_gap=0.7)
    figure.supxlabel("iteration", fontsize=10, y=0.1 / (height * rows), va="bottom")
    figure.supylabel(ylabel, fontsize=10, x=0.1 / full_width, ha="left")
    return figure


def _range(panels: Sequence[CurvePanel]) -> tuple[float, float]:
    """Return the limits of the vertical axis in percent, which include all means and chance."""
    values = [panel.chance for panel in panels]
    for panel in panels:
        for curve in panel.curves.values():
            mean, _ = mean_and_std(curve.values)
            values.extend(mean[np.isfinite(mean)])
    return max(0.0, 100 * min(values) - 5.0), min(101.0, 100 * max(values) + 4.0)


def _line(axis: Any, curve: Curve, color: str, style: Any, scale: float = 1.0) -> NDArray[np.floating[Any]]:
    """Draw the mean of a curve and the band of its standard deviation; return the mean."""
    mean, spread = mean_and_std(curve.values)
    spread = np.nan_to_num(spread)  # no band around a single seed
    axis.plot(curve.iterations, scale * mean, color=color, linestyle=style, linewidth=1.8)
    axis.fill_between(
        curve.iterations, scale * (mean - spread), scale * (mean + spread), color=color, alpha=0.15, linewidth=0
    )
    return mean


def _label_ends(axis: Any, right: float, ends: Sequence[tuple[float, str, str]], gap: float) -> list[Text]:
    """Label each curve at its right end, with labels at least `gap` apart, and return the labels.

    Args:
        axis: The axes of the curves.
        right: Horizontal position of the ends, which is the right limit of the axes; the left limit is 0.
        ends: Vertical position, name and color of each curve's end.
        gap: Smallest vertical distance of two labels, in the units of the vertical axis.
    """
    ordered = sorted(ends)
    heights = np.array([end for end, _, _ in ordered])
    if len(heights) > 1:  # push overlapping neighbors apart until none overlap, then move all into the axes
        label_heights = heights.copy()
        for _ in range(200):
            overlap = np.maximum(gap - np.diff(label_heights), 0.0) / 2
            if overlap.max() < 0.002 * gap:
                break
            label_heights[:-1] -= overlap
            label_heights[1:] += overlap
        low, high = axis.get_ylim()
        label_heights += min(0.0, high - gap / 4 - label_heights[-1])
        label_heights += max(0.0, low + gap / 2 - label_heights[0])
    else:
        label_heights = heights
    labels = []
    for (end, name, color), height in zip(ordered, label_heights, strict=True):
        axis.plot([right, 1.03 * right], [end, height], color=color, linewidth=0.7, clip_on=False)
        labels.append(axis.text(1.035 * right, height, literal(name), va="center", fontsize=9, color=color))
    return labels


def probability_curves(panels: Sequence[ProbabilityPanel], columns: int = 4, *, narrow: bool = False) -> Figure:
    """Return small multiples of mean p over iterations, of examples with clean and with noisy labels.

    Lines are means over the networks, bands one standard deviation. The distance of the two lines shows how well the
    method separates wrong labels from correct ones.
    """
    figure, axes = _multiples(len(panels), columns, "iteration", "mean p", narrow)
    last = max(max(panel.clean.iterations[-1] for panel in panels), 1)
    axes[0].set(xlim=(0, last), ylim=(0, 1), xticks=(0, last // 2, last), yticks=(0, 0.25, 0.5, 0.75, 1))
    axes[0].xaxis.set_major_formatter("{x:,.0f}")
    for axis, panel in zip(axes, panels, strict=True):
        _line(axis, panel.clean, _CLEAN, "-")
        if np.isfinite(panel.noisy.values).any():
            _line(axis, panel.noisy, _NOISY, (0, (5, 1.5)))
        axis.set_title(literal(panel.title), fontsize=10, loc="left", y=1.0, fontweight="bold")
        axis.grid(axis="y", alpha=0.2, linewidth=0.6)
        _write_note(axis, panel.note)
    handles = [
        Line2D([], [], color=_CLEAN, linewidth=1.8, label="clean labels"),
        Line2D([], [], color=_NOISY, linewidth=1.8, linestyle=(0, (5, 1.5)), label="noisy labels"),
    ]
    figure.legend(handles=handles, loc="upper center", ncols=2, frameon=False, fontsize=10)
    return figure


def emphasis_panels(panels: Sequence[Panel], columns: int = 5, *, narrow: bool = False) -> Figure:
    """Return small multiples of the distribution of p at the end of training, and of the emphasis density.

    Bars are shares of the clean and of the noisy examples in bins of [0, 1], on a square-root scale, since most p end
    near 0 or 1; the line is the emphasis density h(p) relative to its peak, on a linear scale.
    """
    xlabel = "p, the probability given to the example's label at the end of training"
    figure, axes = _multiples(len(panels), columns, xlabel, "share of the examples", narrow)
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
    size = 8.5 if narrow else 10
    figure.legend(
        handles=list(handles.values()), loc="upper center", ncols=2 if narrow else 3, frameon=False, fontsize=size
    )
    return figure


def mode_by_noise(
    rates: Sequence[float],
    modes: Sequence[float],
    *,
    paper: Sequence[float] = (),
    paper_label: str = "paper",
    label: str = "ours",
    narrow: bool = False,
) -> Figure:
    """Return a figure of the emphasis mode of the best DM at each noise rate, beside the modes in the paper.

    Args:
        rates: (R,) noise rates in [0, 1].
        modes: (R,) modes in [0, 1]; NaN where no method with a mode was run.
        paper: (R,) the paper's modes, or empty.
        paper_label: Label of the paper's modes.
        label: Label of our modes.
        narrow: Whether the figure is for a telephone.
    """
    figure = new_figure(4.8 if narrow else 5.6, 3.8)
    axis = figure.subplots()
    order = np.argsort(rates)
    x = 100 * np.asarray(rates, dtype=np.float64)[order]
    if len(paper):
        axis.plot(
            x,
            np.asarray(paper, dtype=np.float64)[order],
            "s--",
            color=GRAY,
            linewidth=1.4,
            markersize=11,
            markerfacecolor="none",
            markeredgewidth=1.6,
            label=paper_label,
        )
    axis.plot(
        x, np.asarray(modes, dtype=np.float64)[order], "o-", color=COLORS[0], linewidth=1.8, markersize=6, label=label
    )
    axis.set(xlabel="noise rate (%)", ylabel="emphasis mode of the best DM", ylim=(-0.04, 1.0), xticks=x)
    axis.set_yticks((0, 1 / 3, 1 / 2, 2 / 3, 1), ("0", "1/3", "1/2", "2/3", "1"))
    axis.margins(x=0.08)
    axis.grid(alpha=0.25, linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=10)
    return figure


def _multiples(count: int, columns: int, xlabel: str, ylabel: str, narrow: bool) -> tuple[Figure, list[Any]]:
    """Return a figure and `count` small axes with shared scales and tick labels on the outer axes."""
    columns = min(2 if narrow else columns, count)
    rows = -(-count // columns)
    width, height = (4.7, 2.0 * rows + 1.0) if narrow else (max(3.1 * columns, 6.0), 2.5 * rows + 0.7)  # in inches
    figure = new_figure(width, height, layout=None)
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    arrange(figure, rows, columns, left=0.95, right=0.2, bottom=0.75, top=1.0 if narrow else 0.7, gap=0.25, row_gap=0.4)
    figure.supxlabel(xlabel, fontsize=9 if narrow else 10, y=0.15 / height, va="bottom")
    figure.supylabel(ylabel, fontsize=10, x=0.15 / width, ha="left")
    for number, axis in enumerate(axes):
        axis.set_visible(number < count)
        axis.tick_params(labelsize=8.5 if narrow else 8, labelbottom=number + columns >= count)
    return figure, axes[:count]


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


def edf_figure(weightings: Sequence[Weighting], *, narrow: bool = False) -> Figure:
    """Return a figure of the emphasis densities h(p) of weightings, or w(p) where the integral is infinite."""
    figure = new_figure(4.8 if narrow else 6.4, 4.2)
    axis = figure.subplots()
    draw_weightings(axis, weightings)
    axis.set(ylabel="emphasis density h(p)")
    figure.legend(loc="outside upper left", frameon=False, ncols=1)
    return figure


def draw_weightings(axis: Any, weightings: Sequence[Weighting], *, normalized: bool = True) -> None:
    """Draw the emphasis densities h(p) of weightings into axes, or w(p), each with its modes."""
    grid = np.linspace(0.0, 1.0, 1001)
    for number, weighting in enumerate(weightings):
        color, style = COLORS[number % len(COLORS)], _STYLES[number % len(_STYLES)]
        density = weighting.density if normalized and weighting.log_integral < np.inf else weighting
        values = density(grid)
        axis.plot(
            grid,
            np.where(np.isfinite(values), values, np.nan),
            color=color,
            linestyle=style,
            linewidth=2,
            label=literal(repr(weighting)),
        )
        for mode in weighting.modes:
            peak = float(density(mode))
            if np.isfinite(peak):
                axis.plot([mode], [peak], "o", color=color, markersize=5, clip_on=False, zorder=5)
    axis.set(xlim=(0, 1), xlabel="p, the probability given to the example's label")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25, linewidth=0.6)
