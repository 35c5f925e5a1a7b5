"""Figures of a tuning: what was tried and how it did, and what the choice emphasises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from emphasis.diagnostics.plots.canvas import literal, new_figure
from emphasis.diagnostics.plots.palette import COLORS

_MARKERS = "osD^vP"


@dataclass(frozen=True)
class Tried:
    """A trial: the value of what is drawn along the axis, its accuracy, and whether it was judged by every fold."""

    x: float
    accuracy: float
    whole: bool


def trials_figure(
    groups: Mapping[str, Sequence[Tried]], xlabel: str, best: Tried, baseline: float, log: bool
) -> Figure:
    """Return accuracies of trials, a colour and marker for each group; those stopped early are hollow.

    Args:
        groups: Trials that share what is not drawn along the axis, by name.
        xlabel: What is drawn along the axis.
        best: Ringed.
        baseline: Accuracy of cross-entropy, a dashed line.
        log: Whether the axis is logarithmic.
    """
    figure = new_figure(7.6, 3.8)
    axis = figure.subplots()
    for number, (name, trials) in enumerate(groups.items()):
        color, marker = COLORS[number % len(COLORS)], _MARKERS[number % len(_MARKERS)]
        for whole in (True, False):
            some = [trial for trial in trials if trial.whole == whole]
            axis.plot([one.x for one in some], [100 * one.accuracy for one in some], marker, color=color, markersize=6,
                      markerfacecolor=color if whole else "none", label=literal(name) if whole else None)  # fmt: skip
    axis.plot([best.x], [100 * best.accuracy], "o", color=COLORS[4], markersize=13, markerfacecolor="none",
              markeredgewidth=1.6, label="chosen")  # fmt: skip
    if np.isfinite(baseline):
        axis.axhline(100 * baseline, color=COLORS[4], linewidth=1.2, linestyle=(0, (5, 1.5)), label="cross-entropy")
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=xlabel, ylabel="accuracy on held-out labels (%)")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure
