"""log w and the loss as piecewise polynomials of the margin: a weighting as data, for kernels that run no Python.

One small float64 table stands for any weighting, built-in or a user's: a kernel needs an arcsinh, one row of the
table and two Horner sums per example, and no knowledge of families.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import chebyshev

from emphasis.weighting._numerics import Array, log_sigmoid
from emphasis.weighting._potential import MARGIN_REACH

if TYPE_CHECKING:
    from emphasis.weighting.base import Weighting

DEGREE = 8
_CELLS = (256, 512, 1024, 2048, 4096)
_TOLERANCE = 2e-8  # of log w, less than float32, the kernels' arithmetic, can hold
_DEEP = 90.0  # below exp(-90) of its peak a weight is no normal float32 number
_EARLIEST = 15.0  # a weight that is 0 before this margin is so by intent, not because 1-p rounds to 0 in float64
_EPS = 4e-16  # relative error of 1-p at p = 1/2


@dataclass(frozen=True, eq=False)
class MarginTable:
    """log w(u) - log_normalizer and L(u) / exp(log_normalizer) for margins u.

    With t = arcsinh(u) in [-REACH, REACH], position = (t + REACH) * cells / (2 REACH), cell = floor(position) and
    x = 2 (position - cell) - 1, the values are sums of coefficients[cell, kind, k] * x**k, kind 0 for log w and 1
    for L. Beyond the reach both go on along straight lines of `slopes` in u. Beyond
    `max_margin` the weight is 0 and the loss is `end`: a kernel applies both.

    Attributes:
        coefficients: (cells, 2, DEGREE + 1) float64, C-contiguous.
        slopes: (2, 2) float64: [kind][left, right].
        max_margin: The largest margin with a derivative, inf for none.
        end: The loss beyond it, exactly: 0 but for closed forms with another constant.
    """

    coefficients: np.ndarray[tuple[int, int, int], np.dtype[np.float64]]
    slopes: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    max_margin: float
    end: float

    REACH = math.asinh(MARGIN_REACH)

    @cached_property
    def packed(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """All of it in one float64 array: cells, max_margin, the four slopes in order, the coefficients, end."""
        header = np.array([len(self.coefficients), self.max_margin])
        return np.concatenate((header, self.slopes.ravel(), self.coefficients.ravel(), [self.end]))

    @cached_property
    def address(self) -> int:
        """Where `packed` lies in memory."""
        return self.packed.ctypes.data

    def __call__(self, margin: Array) -> tuple[Array, Array]:
        """Return (log w, L) of float64 margins, any shape: the reference of what kernels compute."""
        margin = np.asarray(margin, dtype=np.float64)
        ended = margin > self.max_margin
        margin = np.minimum(margin, self.max_margin)
        inside = np.clip(margin, -MARGIN_REACH, MARGIN_REACH)
        cells = len(self.coefficients)
        position = (np.arcsinh(inside) + self.REACH) * (cells / (2 * self.REACH))
        cell = np.clip(np.floor(position), 0, cells - 1).astype(np.int64)
        powers = (2.0 * (position - cell) - 1.0)[..., None] ** np.arange(DEGREE + 1)
        values = (self.coefficients[cell] * powers[..., None, :]).sum(-1)
        beyond = margin - inside
        slope = np.where(beyond[..., None] < 0, self.slopes[:, 0], self.slopes[:, 1])
        values = values + np.where(beyond == 0, 0.0, beyond)[..., None] * slope
        return np.where(ended, -np.inf, values[..., 0]), np.where(ended, self.end, values[..., 1])


def margin_table(weighting: Weighting, max_margin: float, log_normalizer: float) -> MarginTable | None:
    """Return the table, or None where a table would not be right to float32.

    That is so for weightings that are unbounded, and for a user's function with a kink, a jump, or a zero inside
    (0, 1): those need the formula itself.

    Args:
        weighting: Any weighting.
        max_margin: Number from `Weighting.max_margin`.
        log_normalizer: Subtracted from log w; the loss is divided by its exp.
    """
    if not weighting.log_peak < math.inf:
        return None
    # The constant of the loss depends on max_margin; the clip is the kernel's, lest a cell have a kink.
    at = np.array([min(0.0, max_margin)])

    def loss(margin: Array, end: float = math.inf) -> Array:
        return weighting.loss(margin, np, np.asarray, end, log_normalizer)

    offset = (loss(at, max_margin) - loss(at))[0]
    end = float(loss(np.array([max_margin]), max_margin)[0]) if max_margin < math.inf else 0.0

    log_weight = _continued(weighting)
    if log_weight is None:
        return None

    def values(margin: Array) -> Array:
        return np.stack((log_weight(margin) - log_normalizer, loss(margin) + offset))

    nodes = chebyshev.chebpts1(DEGREE + 1)
    to_powers = np.stack(
        [np.pad(p := chebyshev.cheb2poly(row), (0, DEGREE + 1 - len(p))) for row in np.eye(DEGREE + 1)]
    )
    to_coefficients = to_powers.T @ np.linalg.inv(chebyshev.chebvander(nodes, DEGREE))
    peak = weighting.log_peak - log_normalizer
    reach = MarginTable.REACH
    ends = np.array([-MARGIN_REACH, -MARGIN_REACH * 1.01, MARGIN_REACH, MARGIN_REACH * 1.01])
    left, left_out, right, right_out = values(ends).T
    slopes = np.stack(((left - left_out), (right_out - right)), 1) / (0.01 * MARGIN_REACH)
    for cells in _CELLS:
        centres = -reach + reach / cells * (2 * np.arange(cells) + 1)
        at_nodes = values(np.sinh(centres + reach / cells * nodes[:, None]))
        if not np.isfinite(at_nodes).all():
            return None
        coefficients = np.einsum("kn,inc->cik", to_coefficients, at_nodes)
        table = MarginTable(np.ascontiguousarray(coefficients), slopes, max_margin, end)
        # Between the nodes; three places a cell see a kink wherever it lies.
        margin = np.sinh(centres + reach / cells * np.array([-0.95, 0.13, 0.91])[:, None])
        log_w, loss_value = values(margin)
        got_log_w, got_loss = MarginTable(table.coefficients, slopes, math.inf, 0.0)(margin)
        counts = log_w > peak - _DEEP
        allowed = _TOLERANCE + _EPS * np.exp(np.minimum(np.abs(margin), 80.0))  # a function of p alone loses 1-p
        good = (np.abs(got_log_w - log_w) <= allowed)[counts].all()
        scale = np.abs(loss_value)
        unit = scale + 1e-6 * (1.0 + np.median(scale))
        if good and (np.abs(got_loss - loss_value) <= _TOLERANCE * unit).all():
            return table
    return None


def _continued(weighting: Weighting) -> Callable[[Array], Array] | None:
    """Return log w of the margin, continued along straight lines where a user's p or 1-p has rounded to 0.

    None if w is 0 before that.
    """

    def exact(margin: Array) -> Array:
        with np.errstate(all="ignore"):
            return weighting.log_weight(log_sigmoid(margin), log_sigmoid(-margin), np) + np.zeros_like(margin)

    grid = np.sinh(np.linspace(0.0, MarginTable.REACH, 2000))
    lines = []
    for sign in (-1.0, 1.0):
        bad = np.flatnonzero(~np.isfinite(exact(sign * grid)))
        if not bad.size:
            continue
        if grid[bad[0]] < _EARLIEST:
            return None
        start, before = sign * grid[bad[0]] * np.array([0.7, 0.6])
        here, there = exact(np.array([start, before]))
        lines.append((sign, start, here, (here - there) / (start - before)))

    def log_weight(margin: Array) -> Array:
        log_w = exact(margin)
        for sign, start, here, slope in lines:
            log_w = np.where(sign * margin > sign * start, here + slope * (margin - start), log_w)
        return log_w

    return log_weight
