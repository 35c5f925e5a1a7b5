"""Figures of an audit: the distribution of the labels' scores, and their development during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emphasis.diagnostics.plots.canvas import literal, new_figure
from emphasis.diagnostics.plots.palette import COLORS, FILLS
from emphasis.weighting import Weighting
from emphasis.weighting._numerics import log_sigmoid

_BINS = 60


def score_figure(
    score: NDArray[np.float64], groups: Mapping[str, NDArray[np.bool_]], *, narrow: bool = False
) -> Figure:
    """Return the histogram of scores, stacked by group of examples, with a line at 0.

    Args:
        score: (n,) mean margins.
        groups: Masks (n,) by name, at most two, which together contain every example.
        narrow: Whether the figure is for a telephone.
    """
    figure = new_figure(4.8 if narrow else 7.6, 3.4)
    axis = figure.subplots()
    edges = np.linspace(min(score.min(), -1e-6), max(score.max(), 1e-6), _BINS + 1)
    colors = list(FILLS[: len(groups)])
    labels = [f"{literal(name)} ({np.count_nonzero(mask):,})" for name, mask in groups.items()]
    axis.hist([score[mask] for mask in groups.values()], edges.tolist(), stacked=True, color=colors, label=labels)
    axis.axvline(0.0, color=COLORS[4], linewidth=1.2, linestyle=(0, (5, 1.5)))
    axis.set(xlabel="score: mean margin of the label, log(p / (1 - p))", ylabel="examples")
    _tidy(axis)
    figure.legend(loc="outside upper center", ncols=1 if narrow else 2, frameon=False)
    return figure


def training_figure(
    at: Sequence[int],
    margins: Sequence[NDArray[Any]],
    suspect: NDArray[np.bool_],
    weighting: Weighting | None,
    xlabel: str = "iteration",
    *,
    narrow: bool = False,
) -> Figure:
    """Return two panels over training: median and quartiles of p of suspects and others, and the emphasis on them.

    Args:
        at: (E,) iterations of the evaluations.
        margins: (E, n), NaN where an example was not evaluated.
        suspect: (n,) mask of the suspects.
        weighting: Weighting that was trained with; None draws the panel of p only.
        xlabel: Label of the horizontal axis.
        narrow: Whether to place the panels one below another, for a telephone.
    """
    count = 2 if weighting else 1
    rows, columns = (count, 1) if narrow else (1, count)
    figure = new_figure(4.8 if narrow else 9.6 if weighting else 5.6, 3.4 * rows if narrow else 3.6)
    axes: Any = figure.subplots(rows, columns, squeeze=False).ravel()
    parts = {"suspects": (suspect, COLORS[1]), "others": (~suspect, COLORS[0])}
    for name, (mask, color) in parts.items():
        if mask.any():
            quarters = np.array([np.nanquantile(row[mask].astype(np.float64), (0.25, 0.5, 0.75)) for row in margins])
            p = np.exp(log_sigmoid(quarters))
            axes[0].plot(at, p[:, 1], color=color, linewidth=2, label=name)
            axes[0].fill_between(at, p[:, 0], p[:, 2], color=color, alpha=0.18, linewidth=0)
    axes[0].set(ylim=(-0.02, 1.02), xlabel=xlabel, ylabel="p of the label: median, quartiles")
    if weighting is not None:
        shares, effective = emphasis_by_evaluation(margins, suspect, weighting)
        axes[1].plot(at, 100 * shares, color=COLORS[1], linewidth=2, label="emphasis on suspects")
        axes[1].axhline(100 * suspect.mean(), color=COLORS[1], linewidth=1, linestyle=(0, (5, 1.5)))
        axes[1].plot(
            at, 100 * effective, color=COLORS[4], linewidth=2, linestyle=(0, (1.5, 1)), label="effective sample size"
        )
        axes[1].set(ylim=(-2, 102), xlabel=xlabel, ylabel="% (dashed: suspects' part of the examples)")
        axes[1].legend(frameon=False, fontsize=9)
    axes[0].legend(frameon=False, fontsize=9)
    for axis in axes:
        _tidy(axis)
    return figure


def emphasis_by_evaluation(
    margins: Sequence[NDArray[Any]], subset: NDArray[np.bool_], weighting: Weighting
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the subset's share of the emphasis and the relative effective sample size at each evaluation.

    The effective sample size is (sum w)^2 / sum w^2. Both are in [0, 1], and 0 where all weights are 0.
    """
    shares, effective = [], []
    largest = weighting.max_margin("auto")
    for row in margins:
        u = row.astype(np.float64)
        seen = ~np.isnan(u)
        u = u[seen]
        with np.errstate(over="ignore", divide="ignore"):
            log_w = weighting.log_weight(log_sigmoid(u), log_sigmoid(-u), np)
        log_w = np.where(u > largest, -np.inf, log_w)
        peak = log_w.max(initial=-np.inf)
        w = np.exp(log_w - peak) if np.isfinite(peak) else np.zeros_like(u)
        total = w.sum()
        shares.append(w[subset[seen]].sum() / total if total else 0.0)
        effective.append(total**2 / (w**2).sum() / len(u) if total else 0.0)
    return np.array(shares), np.array(effective)


def _tidy(axis: Any) -> None:
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
