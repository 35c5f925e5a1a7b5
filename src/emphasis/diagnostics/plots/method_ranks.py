"""Figure of the ranks of methods on each task, and of their means."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from emphasis.diagnostics.plots.canvas import literal, new_figure
from emphasis.diagnostics.plots.palette import COLORS, GRAY

_MARKERS = "osD^vP*X"
_LIGHT, _DARK, _MARKED = GRAY, COLORS[4], COLORS[0]


def rank_figure(
    ranks: Mapping[str, Sequence[float]], tasks: Sequence[str], marked: Collection[str] = (), *, narrow: bool = False
) -> Figure:
    """Return a figure of the methods from best to worst, with a mark for each task's rank and a bar at the mean.

    Args:
        ranks: Ranks (T,) by method, 1 being the best; drawn in this order.
        tasks: Names of the T tasks.
        marked: Methods to highlight in color.
        narrow: Whether the figure is for a telephone.
    """
    figure = new_figure(5.0 if narrow else 7.6, 0.8 + 0.26 * len(ranks))
    axis = figure.subplots()
    positions = np.arange(len(ranks))
    values = np.array(list(ranks.values()), dtype=np.float64)
    for number, task in enumerate(tasks):
        axis.plot(
            values[:, number],
            positions,
            _MARKERS[number % len(_MARKERS)],
            color=_LIGHT,
            markersize=5,
            markerfacecolor="none",
            label=literal(task),
        )
    colors = [_MARKED if name in marked else _DARK for name in ranks]
    axis.scatter(values.mean(1), positions, marker="|", s=150, linewidths=3, color=colors, label="mean", zorder=3)
    axis.set_yticks(positions, labels=list(map(literal, ranks)))
    for label, color in zip(axis.get_yticklabels(), colors, strict=True):
        label.set(color=color, fontweight="bold" if color == _MARKED else "normal")
    axis.set(xlim=(0.5, len(ranks) + 0.5), ylim=(len(ranks) - 0.4, -0.6), xlabel="rank (1 is best)")
    axis.grid(axis="y", alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(2 if narrow else 3, len(tasks) + 1), frameon=False, fontsize=9)
    return figure
