"""Figures as matplotlib objects, drawn on the Agg canvas: nothing of pyplot's state, no display needed.

Functions take plain arrays and return a Figure; `save` writes it in the format of the file's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emphasis.files import replacing
from emphasis.metrics import mean_and_std
from emphasis.weighting import Weighting

# Okabe and Ito's palette, told apart under the common colour blindnesses; without its yellow, and its orange and
# sky blue last, since they are faint as text on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#000000", "#C98A00", "#56B4E9")
_CLEAN, _NOISY, _EDF, _GREY = "#56B4E9", "#D55E00", "#000000", "#767676"
_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True, eq=False)
class Panel:
    """One panel of `emphasis_panels`.

    Attributes:
        title: The method's name.
        weighting: Its w(p).
        p_clean: Probabilities of rightly labelled examples' labels, any number.
        p_noisy: The same of wrongly labelled ones.
        note: Said below the title, such as "collapsed (5 of 5 seeds)".
    """

    title: str
    weighting: Weighting
    p_clean: NDArray[np.floating[Any]]
    p_noisy: NDArray[np.floating[Any]]
    note: str = ""


def accuracy_curves(
    iterations: Sequence[int],
    groups: Mapping[str, Mapping[str, NDArray[np.float64]]],
    *,
    chance: float,
    reference: tuple[str, NDArray[np.float64]] | None = None,
) -> Figure:
    """Return test accuracy over iterations, mean and band of one standard deviation, one panel per group.

    Args:
        iterations: (E,).
        groups: Title of the panel -> name of the method -> (K, E) accuracies in [0, 1], NaN where there is none.
        chance: 1/C, drawn as a line.
        reference: Name and curves of a method to be drawn in grey in the panels that do not hold it.
    """
    figure = _figure(5.4 * len(groups) + 0.8, 5.0)
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axis, (group, methods) in zip(axes, groups.items(), strict=True):
        ends: list[tuple[float, str, str]] = []
        drawn = dict(methods)
        if reference is not None and reference[0] not in methods:
            drawn[reference[0]] = reference[1]
        for number, (name, values) in enumerate(drawn.items()):
            color = COLORS[number % len(COLORS)] if name in methods else _GREY
            style = _STYLES[(number // len(COLORS) + number) % len(_STYLES)] if name in methods else "-"
            mean, spread = mean_and_std(values)
            spread = np.nan_to_num(spread)  # no band around a single seed
            axis.plot(iterations, 100 * mean, color=color, linestyle=style, linewidth=1.8)
            axis.fill_between(
                iterations, 100 * (mean - spread), 100 * (mean + spread), color=color, alpha=0.15, linewidth=0
            )
            finite = mean[np.isfinite(mean)]
            ends.append((100 * float(finite[-1]) if finite.size else 0.0, name, color))
        axis.axhline(100 * chance, color=_GREY, linewidth=0.8, linestyle=":")
        axis.text(0.985 * iterations[-1], 100 * chance - 1, "chance", color=_GREY, fontsize=8, va="top", ha="right")
        axis.set(xlabel="iteration", ylim=(0, 101), xlim=(0, iterations[-1]))
        axis.set_title(group, loc="left", fontweight="bold")
        axis.grid(axis="y", alpha=0.25, linewidth=0.6)
        _label_ends(axis, float(iterations[-1]), ends)
    axes[0].set_ylabel("test accuracy (%)")
    return figure


def _label_ends(axis: Any, right: float, ends: Sequence[tuple[float, str, str]], gap: float = 4.6) -> None:
    """Name each curve at its right end, labels moved apart where they would overlap; `gap` in axis units."""
    ordered = sorted(ends)
    heights = np.array([end for end, _, _ in ordered])
    if len(heights) > 1:  # spread upward from the lowest, then shift each run of neighbours back onto its mean
        places = heights.copy()
        for _ in range(200):
            overlap = np.maximum(gap - np.diff(places), 0.0) / 2
            if overlap.max() < 0.01:
                break
            places[:-1] -= overlap
            places[1:] += overlap
        low, high = axis.get_ylim()
        places += min(0.0, high - 1.0 - places[-1])
        places += max(0.0, low + 2.0 - places[0])
    else:
        places = heights
    for (end, name, color), place in zip(ordered, places, strict=True):
        axis.annotate(
            name,
            xy=(right, end),
            xycoords="data",
            xytext=(1.035, (place - axis.get_ylim()[0]) / np.ptp(axis.get_ylim())),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=color,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0},
        )


def emphasis_panels(panels: Sequence[Panel], columns: int = 5) -> Figure:
    """Return small multiples: where each method's examples ended, and where it puts its emphasis.

    Bars are the share of the clean and of the noisy examples in each twentieth of [0, 1] (square-root scale, since
    most end near 0 or 1); the line is the EDF h(p), as a share of its peak, on a linear scale.
    """
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    figure = _figure(3.1 * columns, 2.5 * rows + 0.7)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    bins = np.linspace(0.0, 1.0, 21)
    grid = np.linspace(0.0, 1.0, 401)
    handles: list[Any] = []
    for number, axis in enumerate(axes.flat):
        if number >= len(panels):
            axis.set_visible(False)
            continue
        panel = panels[number]
        handles = [
            _bars(axis, bins, panel.p_clean, -0.5, _CLEAN, "clean labels"),
            _bars(axis, bins, panel.p_noisy, 0.5, _NOISY, "noisy labels"),
        ]
        density = np.exp(panel.weighting.log(grid) - panel.weighting.log_peak)
        axis.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0.0)), np.square))
        axis.set(xlim=(0, 1), ylim=(0, 1.05), yticks=(0, 0.05, 0.25, 0.5, 1.0), xticks=(0, 0.5, 1))
        axis.set_yticklabels(("0", "5 %", "25 %", "50 %", "100 %"))
        axis.set_title(panel.title, fontsize=10, loc="left", fontweight="bold")
        over = axis.twinx()  # the EDF keeps its shape on a linear scale of its own
        over.set(ylim=(0, np.sqrt(1.05)), yticks=())  # its 1 stands where the bars' 100 % does
        handles += over.plot(grid, density, color=_EDF, linewidth=1.6, label="EDF h(p) / its peak (linear)")
        if panel.note:
            over.text(0.5, 0.42, panel.note.replace("; ", "\n").replace(", ", "\n"), fontsize=8.5, color="#B23C00",
                      ha="center", va="center", fontweight="bold",
                      bbox={"facecolor": "white", "alpha": 0.9, "linewidth": 0, "pad": 2})  # fmt: skip
        axis.grid(axis="y", alpha=0.2, linewidth=0.6)
        axis.tick_params(labelsize=8, labelbottom=number + columns >= len(panels))
    figure.supxlabel("p, the probability given to the example's label at the end of training", fontsize=10)
    figure.supylabel("share of the examples", fontsize=10)
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return figure


def _bars(
    axis: Any, bins: NDArray[np.float64], p: NDArray[np.floating[Any]], side: float, color: str, label: str
) -> Any:
    """Draw the shares of `p` in the bins, left (-0.5) or right (0.5) half of each; NaN is left out."""
    counts, _ = np.histogram(p[np.isfinite(p)], bins)
    width = np.diff(bins) * 0.45
    centers = (bins[1:] + bins[:-1]) / 2 + side * width
    return axis.bar(centers, counts / max(counts.sum(), 1), width, color=color, label=label)


def edf_figure(weightings: Sequence[Weighting]) -> Figure:
    """Return the EDFs h(p) of weightings, with their modes; w(p) for a weighting whose integral is infinite."""
    figure = _figure(6.4, 4.2)
    axis = figure.subplots()
    grid = np.linspace(0.0, 1.0, 1001)
    for number, weighting in enumerate(weightings):
        color, style = COLORS[number % len(COLORS)], _STYLES[number % len(_STYLES)]
        density = weighting.density if weighting.log_integral < np.inf else weighting
        values = density(grid)
        axis.plot(grid, np.where(np.isfinite(values), values, np.nan), color=color, linestyle=style,
                  linewidth=2, label=repr(weighting))  # fmt: skip
        for mode in weighting.modes:
            peak = float(density(mode))
            if np.isfinite(peak):
                axis.plot([mode], [peak], "o", color=color, markersize=5, clip_on=False, zorder=5)
    axis.set(xlim=(0, 1), xlabel="p, the probability given to the example's label", ylabel="emphasis density h(p)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25, linewidth=0.6)
    figure.legend(loc="outside upper left", frameon=False, ncols=1)
    return figure


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write `figure` in the format of the file's name.

    Raises:
        ValueError: The suffix is none of `FORMATS`.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ValueError(f"cannot draw to {path.name!r}; use a name that ends in {', '.join('.' + f for f in FORMATS)}")
    with replacing(path) as partial:
        figure.savefig(partial, format=suffix, dpi=dpi)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
