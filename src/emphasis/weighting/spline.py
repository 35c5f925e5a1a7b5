"""A weighting through points: the curve that a hand draws."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from emphasis.errors import EmphasisValueError
from emphasis.weighting._numerics import Array, ArrayModule
from emphasis.weighting.base import Weighting


@dataclass(frozen=True, repr=False)
class Spline(Weighting):
    """w(p) through points (p, w), smooth, and between two neighbours never above or below both.

    The piecewise cubic of F. N. Fritsch and J. Butland (A Method for Constructing Local Monotone Piecewise Cubic
    Interpolants, 1984), as scipy's PchipInterpolator. Its modes are among the points, its integral has a closed form.

    Args:
        points: Pairs (p, w): p rising from 0 to 1, w >= 0 and not 0 everywhere; two or more.

    Raises:
        ValueError: Points are none of this; the message says which.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _checked(self.points))

    @cached_property
    def _slopes(self) -> tuple[float, ...]:
        """The derivative of w at the points."""
        x, y = np.array(self.points).T
        h, d = np.diff(x), np.diff(y) / np.diff(x)
        slopes = np.zeros(len(x))
        left, right = 2.0 * h[1:] + h[:-1], h[1:] + 2.0 * h[:-1]
        for k in np.flatnonzero(np.sign(d[:-1]) * np.sign(d[1:]) > 0.0):  # elsewhere it turns, or is flat
            slopes[k + 1] = (left[k] + right[k]) / (left[k] / d[k] + right[k] / d[k + 1])
        slopes[0] = _end_slope(h[0], h[1], d[0], d[1]) if len(d) > 1 else d[0]
        slopes[-1] = _end_slope(h[-1], h[-2], d[-1], d[-2]) if len(d) > 1 else d[0]
        return tuple(slopes.tolist())

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Log of the cubic that p lies in, the last one in terms of 1-p: a w that ends at 0 keeps its digits."""
        (x, y), slopes = zip(*self.points, strict=True), self._slopes
        h = 1.0 - x[-2]
        log_w = _log_cubic(log_q - math.log(h), y[-1], y[-2], -h * slopes[-1], -h * slopes[-2], xp)
        p = xp.exp(log_p)
        for k in range(len(x) - 3, -1, -1):
            h = x[k + 1] - x[k]
            log_s = log_p - math.log(h) if k == 0 else xp.log(xp.clip((p - x[k]) / h, 0.0, 1.0))
            cubic = _log_cubic(log_s, y[k], y[k + 1], h * slopes[k], h * slopes[k + 1], xp)
            log_w = xp.where(p < x[k + 1], cubic, log_w)
        return log_w

    @cached_property
    def modes(self) -> tuple[float, ...]:
        """The points of the largest w; a plateau counts once, by its smallest p."""
        x, y = zip(*self.points, strict=True)
        if min(y) == max(y):
            return ()
        return tuple(x[k] for k in range(len(x)) if y[k] == max(y) and (k == 0 or y[k - 1] < max(y)))

    @cached_property
    def log_integral(self) -> float:
        """Log of the sum over pieces of h (w_0 + w_1) / 2 + h^2 (w'_0 - w'_1) / 12."""
        x, y = np.array(self.points).T
        h, slopes = np.diff(x), np.array(self._slopes)
        return math.log(float(np.sum(h * (y[:-1] + y[1:]) / 2.0 + h**2 * (slopes[:-1] - slopes[1:]) / 12.0)))

    def to_dict(self) -> dict[str, Any]:
        """{"family": "Spline", "points": [[0.0, 1.0], ...]}."""
        return {"family": "Spline", "points": [list(point) for point in self.points]}


def _log_cubic(log_s: Array, y0: float, y1: float, d0: float, d1: float, xp: ArrayModule) -> Array:
    """Return the log of Hermite's cubic at s in [0, 1]: values y >= 0 and derivatives d at its ends.

    What it has of s as a factor, where it begins at 0, is added as a logarithm.
    """
    s = xp.exp(xp.clip(log_s, -math.inf, 0.0))  # beyond its end another cubic counts
    r = 1.0 - s
    square = y1 * (3.0 - 2.0 * s) - d1 * r
    if y0 == 0.0 and d0 == 0.0:
        return 2.0 * log_s + _log(square, xp)
    if y0 == 0.0:
        return log_s + _log(d0 * r * r + s * square, xp)
    return _log(y0 * (1.0 + 2.0 * s) * r * r + s * (d0 * r * r + s * square), xp)


def _log(value: Array, xp: ArrayModule) -> Array:
    """Return the log of what is 0 at least, but for rounding."""
    return xp.log(xp.where(value < 0.0, xp.zeros_like(value), value))


def _end_slope(h0: float, h1: float, d0: float, d1: float) -> float:
    """Return the slope at an end by its parabola, held back so that the curve neither turns nor overshoots."""
    slope = ((2.0 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
    if slope * d0 <= 0.0:
        return 0.0
    return 3.0 * d0 if d0 * d1 <= 0.0 and abs(slope) > 3.0 * abs(d0) else slope


def _checked(points: Iterable[Iterable[float]]) -> tuple[tuple[float, float], ...]:
    try:
        found = tuple((float(p), float(w)) for p, w in points)
    except (TypeError, ValueError, OverflowError) as error:
        raise EmphasisValueError(f"Spline: points={points!r} are not allowed; give pairs (p, w) of numbers") from error
    if len(found) < 2:
        raise EmphasisValueError(f"Spline: {len(found)} points are not enough; give two or more")
    x, y = zip(*found, strict=True)
    if (x[0], x[-1]) != (0.0, 1.0) or not all(a < b for a, b in pairwise(x)):
        raise EmphasisValueError(
            f"Spline: p = {', '.join(f'{one:g}' for one in x)} is not allowed; let it rise from 0 to 1"
        )
    if not all(math.isfinite(one) and one >= 0.0 for one in y):
        raise EmphasisValueError(
            f"Spline: w = {', '.join(f'{one:g}' for one in y)} is not allowed; weights are finite and >= 0"
        )
    if not any(y):
        raise EmphasisValueError("Spline: w is 0 at every point; a weighting of 0 everywhere teaches nothing")
    return found
