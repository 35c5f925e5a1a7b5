"""Figures of emphasis densities and of emphasis modes.

Functions take plain arrays and return a Figure; `themes.save` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emphasis.diagnostics.plots.canvas import literal, new_figure
from emphasis.diagnostics.plots.palette import COLORS, GRAY, LINE_STYLES
from emphasis.weighting import Weighting


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
        color, style = COLORS[number % len(COLORS)], LINE_STYLES[number % len(LINE_STYLES)]
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
