"""Reliability diagram: the accuracy of predictions by their confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from emphasis.diagnostics.plots.canvas import literal, new_figure
from emphasis.diagnostics.plots.palette import COLORS, GRAY

_MARKERS, _LARGEST_AREA, _SMALLEST_AREA = "osD^", 160.0, 12.0


def reliability_figure(methods: Mapping[str, Sequence[Mapping[str, float]]], *, narrow: bool = False) -> Figure:
    """Return the reliability diagram of several methods; the area of a marker grows with the rows of its bin.

    Args:
        methods: Bins of each method, as `emphasis.scores.reliability` returns them.
        narrow: Whether the figure is for a telephone.
    """
    figure = new_figure(4.8 if narrow else 5.6, 4.2)
    axis = figure.subplots()
    axis.plot([0.0, 1.0], [0.0, 1.0], color=GRAY, linewidth=1.0, linestyle=(0, (5, 1.5)), label="calibrated")
    for number, (name, bins) in enumerate(methods.items()):
        confidence, accuracy = ([part[key] for part in bins] for key in ("confidence", "accuracy"))
        color = COLORS[number % len(COLORS)]
        axis.plot(confidence, accuracy, color=color, linewidth=1.4, label=literal(name))
        areas = [_SMALLEST_AREA + _LARGEST_AREA * part["share"] for part in bins]
        axis.scatter(confidence, accuracy, areas, color=color, marker=_MARKERS[number % len(_MARKERS)], alpha=0.8)
    axis.set(xlabel="confidence: p of the predicted class", ylabel="share predicted as given", ylim=(-0.02, 1.02))
    axis.set_xlim(left=min((part["confidence"] for bins in methods.values() for part in bins), default=0.0) - 0.03)
    axis.set_xlim(right=1.02)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=1 if narrow else 3, frameon=False, fontsize=9)
    return figure
