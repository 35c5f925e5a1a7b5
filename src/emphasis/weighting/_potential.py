"""The loss value of a weighting without a closed form: a table of its potential, exact to rounding.

L(u) = -1/2 * integral_0^u w(sigmoid(s)) ds. With u = sinh t the integrand is smooth in t on the whole range, so it is
expanded in Chebyshev polynomials on equal cells of t and integrated term by term. A value is looked up by one gather
and one short sum of cosines, in any array module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from emphasis.weighting._numerics import Array, ArrayModule, log_sigmoid

MARGIN_REACH = 2e4  # beyond this margin w is constant and L is extrapolated linearly
_DEGREE = 7
_CELLS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_TOLERANCE = 1e-13
_LARGEST_LOG = 650.0  # keeps the table of an unbounded weighting finite


@dataclass(frozen=True, eq=False)
class PotentialTable:
    """A table of L(u) * exp(-log_scale) with L(0) = 0.

    Attributes:
        coefficients: Chebyshev coefficients of L on each cell of t = asinh(u), (cells, _DEGREE + 2) float64.
        slopes: Derivatives of L to the left and to the right of the table.
        log_scale: Logarithm of the scale that the values are divided by.
    """

    coefficients: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    slopes: tuple[float, float]
    log_scale: float

    def __call__(self, margin: Array, xp: ArrayModule, asarray: Callable[[Array], Array]) -> Array:
        """Return L(margin) * exp(-log_scale).

        Args:
            margin: Floating array of `xp`, of any shape; float64 for full precision.
            xp: The array module.
            asarray: Converts a numpy array to the module, device and dtype of `margin`.
        """
        cells = self.coefficients.shape[0]
        inside = xp.clip(margin, -MARGIN_REACH, MARGIN_REACH)
        reach = float(np.arcsinh(MARGIN_REACH))
        position = (xp.arcsinh(inside) + reach) * (cells / (2 * reach))
        cell = xp.clip(xp.floor(xp.nan_to_num(position)), 0, cells - 1)  # NaN gets some cell here and stays NaN in x
        x = xp.clip(2.0 * (position - cell) - 1.0, -1.0, 1.0)
        basis = xp.cos(xp.arccos(x)[..., None] * asarray(np.arange(_DEGREE + 2.0)))
        rows = asarray(self.coefficients)[_as_index(cell)]
        largest = float(xp.finfo(margin.dtype).max)
        beyond = xp.clip(margin - inside, -largest, largest)  # finite, for a slope of 0 at an infinite margin
        left, right = self.slopes
        return (rows * basis).sum(-1) + xp.where(beyond < 0, left * beyond, right * beyond)


def build_table(log_w: Callable[[Array, Array], Array], log_peak: float) -> PotentialTable:
    """Tabulate the potential of `log_w`, with as many cells as double precision needs.

    Args:
        log_w: Function (log p, log(1-p)) -> log w of float64 numpy arrays.
        log_peak: Maximum of log w, inf if w is unbounded.
    """
    log_scale = log_peak if np.isfinite(log_peak) else 0.0
    reach = np.arcsinh(MARGIN_REACH)
    nodes = chebyshev.chebpts1(_DEGREE + 1)
    to_coefficients = np.linalg.inv(chebyshev.chebvander(nodes, _DEGREE))

    def weight(margin: Array) -> Array:
        with np.errstate(divide="ignore", over="ignore"):
            log = log_w(log_sigmoid(margin), log_sigmoid(-margin)) - log_scale
        return np.exp(np.minimum(log, _LARGEST_LOG))

    for cells in _CELLS:
        half = reach / cells
        centers = -reach + half * (2 * np.arange(cells) + 1)
        t = centers + half * nodes[:, None]
        series = to_coefficients @ (weight(np.sinh(t)) * np.cosh(t))
        scale = np.maximum.accumulate(np.abs(series).max(axis=0))
        if (np.abs(series[-2:]).max(axis=0) <= _TOLERANCE * (1.0 + scale)).all():
            break
    primitive: Array = chebyshev.chebint(series * (-0.5 * half), lbnd=-1)  # zero at each cell's left end
    totals: Array = chebyshev.chebval(1.0, primitive)
    middle = cells // 2  # u = 0 is the left end of this cell
    before, after = -np.cumsum(totals[:middle][::-1])[::-1], np.cumsum(totals[middle:-1])
    primitive[0] += np.concatenate((before, np.zeros(1), after))
    ends = -0.5 * weight(np.array([-MARGIN_REACH, MARGIN_REACH]))
    return PotentialTable(np.ascontiguousarray(primitive.T), (float(ends[0]), float(ends[1])), log_scale)


def _as_index(cell: Array) -> Array:
    """Return integers for indexing: the modules spell the conversion differently, and jax may not have 64 bits."""
    return cell.long() if hasattr(cell, "long") else cell.astype(int)
