"""Figure of the trials of `tune`: their settings and accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from emphasis.diagnostics.plots.canvas import literal, new_figure
from emphasis.diagnostics.plots.palette import COLORS

_MARKERS = "osD^vP"


@dataclass(frozen=True)
class TrialPoint:
    """A trial: the setting on the horizontal axis, its accuracy, and whether every fold evaluated it."""

    x: float
    accuracy: float
    is_complete: bool


def trials_figure(
    groups: Mapping[str, Sequence[TrialPoint]],
    xlabel: str,
    best: TrialPoint,
    baseline: float,
    log: bool,
    *,
    narrow: bool = False,
) -> Figure:
    """Return the accuracies of trials, with a color and marker per group; trials stopped early are hollow.

    Args:
        groups: Trials by the settings that are not on the horizontal axis.
        xlabel: Label of the horizontal axis.
        best: The chosen trial, which is circled.
        baseline: Accuracy of cross-entropy, drawn as a dashed line.
        log: Whether the axis is logarithmic.
        narrow: Whether the figure is for a telephone.
    """
    figure = new_figure(4.8 if narrow else 7.6, 4.4 if narrow else 3.8)
    axis = figure.subplots()
    for number, (name, trials) in enumerate(groups.items()):
        color, marker = COLORS[number % len(COLORS)], _MARKERS[number % len(_MARKERS)]
        for is_complete in (True, False):
            points = [trial for trial in trials if trial.is_complete == is_complete]
            axis.plot(
                [point.x for point in points],
                [100 * point.accuracy for point in points],
                marker,
                color=color,
                markersize=6,
                markerfacecolor=color if is_complete else "none",
                label=literal(name) if is_complete else None,
            )
    axis.plot(
        [best.x],
        [100 * best.accuracy],
        "o",
        color=COLORS[4],
        markersize=13,
        markerfacecolor="none",
        markeredgewidth=1.6,
        label="chosen",
    )
    if np.isfinite(baseline):
        axis.axhline(100 * baseline, color=COLORS[4], linewidth=1.2, linestyle=(0, (5, 1.5)), label="cross-entropy")
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axis.set(xlabel=xlabel, ylabel="accuracy on held-out labels (%)")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center" if narrow else "outside right upper", frameon=False, fontsize=9)
    return figure
