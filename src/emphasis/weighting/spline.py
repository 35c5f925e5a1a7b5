"""A weighting through given points, such as a curve drawn by hand."""

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
    """A smooth w(p) through points (p, w) that is monotone between neighboring points.

    The piecewise cubic of F. N. Fritsch and J. Butland (A Method for Constructing Local Monotone Piecewise Cubic
    Interpolants, 1984), as scipy's PchipInterpolator. Its modes are among the points,
    and its integral has a closed form.

    Args:
        points: Two or more pairs (p, w): p increases from 0 to 1, and w is >= 0 and not 0 everywhere.

    Raises:
        ValueError: The points are not allowed; the message says why.
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
        # Elsewhere the curve has an extremum or is flat.
        for k in np.flatnonzero(np.sign(d[:-1]) * np.sign(d[1:]) > 0.0):
            slopes[k + 1] = (left[k] + right[k]) / (left[k] / d[k] + right[k] / d[k + 1])
        slopes[0] = _end_slope(h[0], h[1], d[0], d[1]) if len(d) > 1 else d[0]
        slopes[-1] = _end_slope(h[-1], h[-2], d[-1], d[-2]) if len(d) > 1 else d[0]
        return tuple(slopes.tolist())

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w by the cubic of p's interval; the last one uses 1-p, for precision where w(1) = 0."""
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
        """The points where w is largest; of a plateau the smallest p."""
        x, y = zip(*self.points, strict=True)
        if min(y) == max(y):
            return ()
        return tuple(x[k] for k in range(len(x)) if y[k] == max(y) and (k == 0 or y[k - 1] < max(y)))

    @cached_property
    def log_integral(self) -> float:
        """The logarithm of the integral, the sum over intervals of h (w_0 + w_1) / 2 + h^2 (w'_0 - w'_1) / 12."""
        x, y = np.array(self.points).T
        h, slopes = np.diff(x), np.array(self._slopes)
        return math.log(float(np.sum(h * (y[:-1] + y[1:]) / 2.0 + h**2 * (slopes[:-1] - slopes[1:]) / 12.0)))

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary {"family": "Spline", "points": [[0.0, 1.0], ...]}."""
        return {"family": "Spline", "points": [list(point) for point in self.points]}


def _log_cubic(log_s: Array, y0: float, y1: float, d0: float, d1: float, xp: ArrayModule) -> Array:
    """Return the logarithm of a Hermite cubic at s in [0, 1] with values y >= 0 and derivatives d at its ends.

    Powers of s that are a factor of the cubic, where it begins at 0, are added as logarithms.
    """
    s = xp.exp(xp.clip(log_s, -math.inf, 0.0))  # beyond its end another cubic is used
    r = 1.0 - s
    square = y1 * (3.0 - 2.0 * s) - d1 * r
    if y0 == 0.0 and d0 == 0.0:
        return 2.0 * log_s + _log(square, xp)
    if y0 == 0.0:
        return log_s + _log(d0 * r * r + s * square, xp)
    return _log(y0 * (1.0 + 2.0 * s) * r * r + s * (d0 * r * r + s * square), xp)


def _log(value: Array, xp: ArrayModule) -> Array:
    """Return the logarithm of a number that is >= 0 except for rounding."""
    return xp.log(xp.where(value < 0.0, xp.zeros_like(value), value))


def _end_slope(h0: float, h1: float, d0: float, d1: float) -> float:
    """Return the slope of a parabola at an end, limited so that the curve stays monotone."""
    slope = ((2.0 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
    if slope * d0 <= 0.0:
        return 0.0
    return 3.0 * d0 if d0 * d1 <= 0.0 and abs(slope) > 3.0 * abs(d0) else slope


def _checked(points: Iterable[Iterable[float]]) -> tuple[tuple[float, float], ...]:
    try:
        pairs = tuple((float(p), float(w)) for p, w in points)
    except (TypeError, ValueError, OverflowError) as error:
        raise EmphasisValueError(f"Spline: points={points!r} are not allowed; give pairs (p, w) of numbers") from error
    if len(pairs) < 2:
        raise EmphasisValueError(f"Spline: {len(pairs)} points are not enough; give two or more")
    x, y = zip(*pairs, strict=True)
    if (x[0], x[-1]) != (0.0, 1.0) or not all(a < b for a, b in pairwise(x)):
        raise EmphasisValueError(
            f"Spline: p = {', '.join(f'{value:g}' for value in x)} is not allowed; p must increase from 0 to 1"
        )
    if not all(math.isfinite(value) and value >= 0.0 for value in y):
        raise EmphasisValueError(
            f"Spline: w = {', '.join(f'{value:g}' for value in y)} is not allowed; weights are finite and >= 0"
        )
    if not any(y):
        raise EmphasisValueError("Spline: w is 0 at every point; at least one must be > 0")
    return pairs
