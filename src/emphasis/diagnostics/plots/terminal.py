"""Emphasis densities drawn in the terminal with plotext, and their key numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotext

from emphasis.weighting import Weighting

_COLORS = ("blue+", "orange+", "green+", "magenta+", "cyan+", "red+")


def draw(weightings: Sequence[Weighting], width: int, height: int, color: bool) -> str:
    """Return the emphasis densities h(p) as text; w(p) for a weighting whose integral is infinite.

    Args:
        weightings: Weightings to draw, one curve each.
        width: Width in characters.
        height: Height in lines.
        color: Whether to keep the escape codes that color the text.
    """
    figure = plotext.figure
    figure.clear()
    figure.theme("clear")
    grid = np.linspace(0.0, 1.0, max(4 * width, 200))
    for weighting in weightings:
        density = weighting.density if weighting.log_integral < math.inf else weighting
        values = density(grid)
        finite = np.isfinite(values)
        signal = figure.signal(grid[finite].tolist(), values[finite].tolist())
        signal.lines()
        if len(weightings) > 1:
            signal.label(repr(weighting))
        figure.draw(signal)
    figure.plot_size(width, height)
    figure.title(repr(weightings[0]) if len(weightings) == 1 else "Emphasis density h(p)")
    figure.label("p, the probability given to the example's label", "x")
    text = figure.build().string()
    return text if color else str(plotext.uncolorize(text))


def numbers(weighting: Weighting, radius: float = 0.1) -> dict[str, Any]:
    """Return the numbers that `describe` shows as plain data."""
    has_density = weighting.log_integral < math.inf
    return {
        "weighting": repr(weighting),
        "modes": [float(mode) for mode in weighting.modes],
        "integral": float(weighting.integral),
        "w_at_one": float(weighting(1.0)),
        "vanishes": bool(weighting.vanishes),
        "mass": [
            float(weighting.mass(max(0.0, mode - radius), min(1.0, mode + radius))) if has_density else math.nan
            for mode in weighting.modes
        ],
    }


def describe(weighting: Weighting, radius: float = 0.1) -> str:
    """Return the mode, the integral, w(1) and the share of the emphasis near the mode, in a few lines.

    Args:
        weighting: Weighting to describe.
        radius: Largest distance from the mode that counts as near.
    """
    at_one = float(weighting(1.0))
    modes = ", ".join(f"{mode:.4g}" for mode in weighting.modes) or "none: every example counts alike"
    integral = weighting.integral
    lines = [
        repr(weighting),
        f"  emphasis mode   {modes}",
        f"  integral of w   {integral:.4g}" + (" (no density: the curve is w itself)" if integral == math.inf else ""),
        f"  w(1)            {at_one:.4g}" + _push(weighting),
    ]
    back = getattr(weighting, "pushes_back", math.nan)  # an attribute of the derivative view of a method
    if math.isfinite(back):
        lines.append(f"  decreases p     beyond p = {back:.3g}, where the derivative has the opposite sign")
    if weighting.log_integral < math.inf:
        for mode in weighting.modes:
            low, high = max(0.0, mode - radius), min(1.0, mode + radius)
            share = weighting.mass(low, high)
            lines.append(f"  near the mode   {share:.1%} of the emphasis lies in p = {low:.3g} to {high:.3g}")
    return "\n".join(lines)


def _push(weighting: Weighting) -> str:
    if weighting.vanishes:
        return ": the derivative of learned examples vanishes"
    if hasattr(weighting, "pushes_back"):
        return ": the derivative of learned examples does not vanish"
    return ': the derivative of learned examples does not vanish; train with max_margin="auto"'
