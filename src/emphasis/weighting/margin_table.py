"""log w and the loss as piecewise polynomials of the margin: a weighting as data, for kernels that run no Python.

One small float64 table represents any weighting, whether it is built in or a function of the user. A kernel needs a few
bits of |u| + 1, one row of the table and two Horner sums per example, and does not know the families.
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

_Float32 = np.ndarray[tuple[int, int], np.dtype[np.float32]]

DEGREE = 8
OCTAVES = 15  # of |u| + 1, from 1 to 2^15, more than MARGIN_REACH
_SPLITS = (1, 2, 3, 4, 5, 6, 7)  # halvings of an octave
_MOST_SPLITS_EXACT = 5  # with more cells the table would not fit into the cache
_TOLERANCE = 2e-8  # of log w, below the precision of float32, in which the kernels compute
_EXACT = 2e-15  # the same for float64, times 1 + |u| + |log w|: a few times the change of log w by rounding u,
_BEST = 5e-16  # and the error that more cells do not reduce
_EXACT_LOSS = 1e-13  # relative, the precision of the potential's own table
_DEEP = 90.0  # below exp(-90) of its peak a weight is no normal float32 number
_EARLIEST = 15.0  # margin before which a weight of 0 is meant; after it 1-p may have rounded to 0 in float64
_EPS = 4e-16  # relative error of 1-p at p = 1/2

COMPACT_DEGREE = 10
COMPACT_SPLITS, COMPACT_OCTAVES = 0, 8  # so few cells that a register holds a number of each
COMPACT_REACH = 127.0
NEAR_SPLITS, NEAR_OCTAVES, NEAR_REACH = 1, 4, 15.0  # 8 cells of |u| + 1 for each sign
_COMPACT_TOLERANCE = 3e-7
_NEAR_RISE = 16.0  # change of log w within half a cell: more would cost a digit of float32


@dataclass(frozen=True, eq=False)
class MarginTable:
    """A table of log w(u) - log_normalizer and L(u) / exp(log_normalizer) for margins u.

    With |u| + 1 = m 2^e, 1 <= m < 2, each octave e has 2^splits equal cells of m. In a cell x goes from -1 to 1, and
    the values are sums of coefficients[cell, kind, k] * x**k, kind 0 for log w and 1 for L. Cells of u >= 0 come first,
    octave by octave, then those of u < 0. The leading bits of the number |u| + 1 give the cell and the others x,
    without rounding. Beyond +-MARGIN_REACH both values are extrapolated linearly in u with `slopes`. Beyond
    `max_margin` the weight is 0 and the loss is `end`; a kernel applies both.

    Attributes:
        coefficients: Polynomials of the cells, (2 * OCTAVES * 2**splits, 2, DEGREE + 1) float64, C-contiguous.
        slopes: Slopes beyond the table, (2, 2) float64: [kind][left, right].
        max_margin: Largest margin with a derivative; inf if there is no limit.
        end: Loss beyond `max_margin`: 0 except for closed forms with another constant.
        trust: `Weighting.trust`, for kernels that see the batch; the values of the table are those of labels that the
            network agrees with. If it is not (0, 0), the table is that of cross-entropy, with the loss -log p.
        is_exact: Whether the values have the precision of float64 rather than float32.
        compact: Smaller table for the classes that are not the likeliest, (2 * (COMPACT_DEGREE + 1), 8) float32: log
            rho, with rho = w / (2 (1-p)), and L as polynomials of v = log p for v >= -COMPACT_REACH. The cells are
            the octaves of 1 + 2 (log 1/2 - v); rows are the powers, first of log rho, then of L. None where that
            would not have the precision of float32.
        near: Table in float32 for margins -NEAR_REACH <= u <= NEAR_REACH, (2 * (COMPACT_DEGREE + 1), 16): log w and L
            as polynomials, two to an octave of |u| + 1, columns 0 to 7 for u >= 0 and 8 to 15 for u < 0. Rows are the
            powers, first of log w, then of L; instead of its constants the first row holds the exponentials of them,
            which keeps a digit. None where that would not have the precision of float32.
    """

    coefficients: np.ndarray[tuple[int, int, int], np.dtype[np.float64]]
    slopes: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    max_margin: float
    end: float
    trust: tuple[float, float] = (0.0, 0.0)
    is_exact: bool = False
    compact: _Float32 | None = None
    near: _Float32 | None = None

    @property
    def splits(self) -> int:
        """The base-2 logarithm of the number of cells in an octave of |u| + 1."""
        return (len(self.coefficients) // (2 * OCTAVES)).bit_length() - 1

    @cached_property
    def packed(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """All fields but the small tables in one array: splits, max_margin, slopes, trust, coefficients, end."""
        header = np.array([self.splits, self.max_margin, *self.slopes.ravel(), *self.trust])
        return np.concatenate((header, self.coefficients.ravel(), [self.end]))

    def __call__(self, margin: Array) -> tuple[Array, Array]:
        """Return (log w, L) of float64 margins of any shape: the reference for the kernels."""
        margin = np.asarray(margin, dtype=np.float64)
        ended = margin > self.max_margin
        margin = np.minimum(margin, self.max_margin)
        inside = np.clip(margin, -MARGIN_REACH, MARGIN_REACH)
        cell, x = _cell_of(np.abs(inside) + 1.0, self.splits)
        cell = cell + np.where(inside < 0.0, OCTAVES << self.splits, 0)
        values = (self.coefficients[cell] * (x[..., None] ** np.arange(DEGREE + 1))[..., None, :]).sum(-1)
        beyond = margin - inside
        slope = np.where(beyond[..., None] < 0, self.slopes[:, 0], self.slopes[:, 1])
        values = values + np.where(beyond == 0, 0.0, beyond)[..., None] * slope
        return np.where(ended, -np.inf, values[..., 0]), np.where(ended, self.end, values[..., 1])


def _cell_of(number: Array, splits: int) -> tuple[Array, Array]:
    """Return the cell of each number >= 1, and its position in the cell from -1 to 1."""
    mantissa, exponent = np.frexp(number)  # mantissa in [1/2, 1)
    position = (2.0 * mantissa - 1.0) * 2**splits
    within = np.floor(position)
    return ((exponent - 1) * 2**splits + within).astype(np.int64), 2.0 * (position - within) - 1.0


def _starts_and_widths(octaves: int, splits: int) -> tuple[Array, Array]:
    """Return the start and the width of each cell of numbers >= 1."""
    octave, within = np.divmod(np.arange(octaves << splits), 2**splits)
    width = 2.0 ** (octave - splits)
    return 2.0**octave + within * width, width


def margin_table(weighting: Weighting, max_margin: float, log_normalizer: float) -> MarginTable | None:
    """Return the table of a weighting, or None where a table would not have the precision of float32.

    There is no table for unbounded weightings and for functions with a kink, a jump or a zero inside (0, 1); these need
    the formula itself.

    Args:
        weighting: Any weighting.
        max_margin: Number from `Weighting.max_margin`.
        log_normalizer: Number that is subtracted from log w; the loss is divided by its exponential.
    """
    trust, weighting = weighting.trust, weighting.where_agreed
    if not weighting.log_peak < math.inf:
        return None
    # The constant of the loss depends on max_margin. The kernel clips the margin, so no cell has a kink.
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

    ends = np.array([-MARGIN_REACH, -MARGIN_REACH * 1.01, MARGIN_REACH, MARGIN_REACH * 1.01])
    left, left_out, right, right_out = values(ends).T
    slopes = np.stack(((left - left_out), (right_out - right)), 1) / (0.01 * MARGIN_REACH)
    peak = weighting.log_peak - log_normalizer
    table: MarginTable | None = None
    for splits in _SPLITS:
        starts, widths = _starts_and_widths(OCTAVES, splits)
        starts, widths = np.tile(starts, 2), np.tile(widths, 2)
        sign = np.repeat((1.0, -1.0), len(starts) // 2)

        def margins(x: Array) -> Array:
            return sign * (starts - 1.0 + 0.5 * widths * (1.0 + x[:, None]))  # noqa: B023

        coefficients = _polynomials(values, margins, DEGREE)
        if coefficients is None:
            return None
        # Between the nodes: three points of each cell detect a kink anywhere in it.
        margin = margins(np.array([-0.95, 0.13, 0.91]))
        margin = margin[np.abs(margin) < MARGIN_REACH]
        log_w, loss_value = values(margin)
        got_log_w, got_loss = MarginTable(coefficients, slopes, math.inf, 0.0)(margin)
        counts = log_w > peak - _DEEP
        rounding = _EPS * np.exp(np.minimum(np.abs(margin), 80.0))  # 1-p of a function that takes p alone
        log_w_error, loss_error = np.abs(got_log_w - log_w), np.abs(got_loss - loss_value)
        scale = np.abs(loss_value)
        unit = scale + 1e-6 * (1.0 + np.median(scale))
        if not (log_w_error <= _TOLERANCE + rounding)[counts].all() or not (loss_error <= _TOLERANCE * unit).all():
            if table is not None or splits == _SPLITS[-1]:
                break
            continue
        if table is None:
            table = MarginTable(
                coefficients, slopes, max_margin, end, trust, False, _compact(values, peak), _near(values, peak)
            )
        exact = log_w > peak - 700.0
        size = 1.0 + np.abs(margin) + np.abs(log_w)
        error = (log_w_error / size)[exact].max()
        if error <= _EXACT and (loss_error <= _EXACT_LOSS * (1.0 + scale)).all():
            table = MarginTable(coefficients, slopes, max_margin, end, trust, True, table.compact, table.near)
        if (table.is_exact and error <= _BEST) or splits >= _MOST_SPLITS_EXACT:
            break
    return table


def _polynomials(values: Callable[[Array], Array], at: Callable[[Array], Array], degree: int) -> Array | None:
    """Return each cell's coefficients of powers of x, (cells, kinds, degree + 1); None if a value is not finite.

    Args:
        values: Function of numbers (nodes, cells) that returns (kinds, nodes, cells).
        at: Function that returns the numbers (nodes, cells) at the nodes' positions x.
        degree: Degree of the polynomials, which interpolate at Chebyshev nodes.
    """
    nodes = chebyshev.chebpts1(degree + 1)
    to_powers = np.stack(
        [np.pad(p := chebyshev.cheb2poly(row), (0, degree + 1 - len(p))) for row in np.eye(degree + 1)]
    )
    to_coefficients = to_powers.T @ np.linalg.inv(chebyshev.chebvander(nodes, degree))
    at_nodes = values(at(nodes))
    if not np.isfinite(at_nodes).all():
        return None
    # The value in the middle is subtracted first, so that only differences are rounded.
    middle = values(at(np.zeros(1)))
    coefficients = np.einsum("kn,inc->cik", to_coefficients, at_nodes - middle)
    coefficients[..., 0] += middle[:, 0].T
    return np.ascontiguousarray(coefficients)


def _compact(values: Callable[[Array], Array], peak: float) -> _Float32 | None:
    """Return `MarginTable.compact`.

    Args:
        values: Function of margins that returns (log w, L).
        peak: Maximum of log w.
    """
    starts, widths = _starts_and_widths(COMPACT_OCTAVES, COMPACT_SPLITS)

    def log_p(x: Array) -> Array:
        return 0.5 - math.log(2.0) - 0.5 * (starts + 0.5 * widths * (1.0 + x[:, None]))

    def of_log_p(v: Array) -> Array:
        log_q = np.log(-np.expm1(v))
        log_w, loss = values(v - log_q)
        return np.stack((log_w - math.log(2.0) - log_q, loss))

    return _small_table(of_log_p, log_p, peak)


def _near(values: Callable[[Array], Array], peak: float) -> _Float32 | None:
    """Return `MarginTable.near`; arguments are those of `_compact`."""
    starts, widths = _starts_and_widths(NEAR_OCTAVES, NEAR_SPLITS)
    sign = np.repeat((1.0, -1.0), len(starts))

    def margins(x: Array) -> Array:
        return sign * (np.tile(starts, 2) - 1.0 + 0.5 * np.tile(widths, 2) * (1.0 + x[:, None]))

    table = _small_table(values, margins, peak)
    if (
        table is None
        or np.abs(table[0]).max() > 60.0
        or np.abs(table[1 : COMPACT_DEGREE + 1]).sum(0).max() > _NEAR_RISE
    ):
        return None
    table[0] = np.exp(table[0].astype(np.float64))
    return table


def _small_table(values: Callable[[Array], Array], at: Callable[[Array], Array], peak: float) -> _Float32 | None:
    """Return polynomials of degree COMPACT_DEGREE in float32, or None where they are not as precise as float32.

    Args:
        values: Function of numbers that returns two kinds of values, the first of which is a log weight.
        at: Function that returns the numbers (positions, cells) at positions x, from -1 to 1, of all cells.
        peak: Maximum of the log weight.

    Returns:
        Coefficients (2 * (COMPACT_DEGREE + 1), cells): the powers of the first kind of values, then of the second.
    """
    coefficients = _polynomials(values, at, COMPACT_DEGREE)
    if coefficients is None or not (np.abs(coefficients) < np.finfo(np.float32).max).all():
        return None
    table: _Float32 = np.ascontiguousarray(
        coefficients.transpose(1, 2, 0).reshape(2 * (COMPACT_DEGREE + 1), -1), dtype=np.float32
    )
    x = np.array([-0.95, -0.4, 0.13, 0.6, 0.91])
    powers = x[:, None, None] ** np.arange(COMPACT_DEGREE + 1)[:, None]
    got_log, got_loss = ((part * powers).sum(1) for part in np.split(table.astype(np.float64), 2))
    log_weight, loss = values(at(x))
    counts = log_weight > peak - _DEEP
    scale = np.abs(loss)
    good = (np.abs(got_log - log_weight) <= _COMPACT_TOLERANCE * (1.0 + np.minimum(np.abs(log_weight), 20.0)))[
        counts
    ].all()
    close = (np.abs(got_loss - loss) <= _COMPACT_TOLERANCE * (scale + 1e-3 * np.median(scale))).all()
    return table if good and close else None


def _continued(weighting: Weighting) -> Callable[[Array], Array] | None:
    """Return log w as a function of the margin, extrapolated linearly where p or 1-p has rounded to 0.

    Returns None if w is 0 before that.
    """

    def exact(margin: Array) -> Array:
        with np.errstate(all="ignore"):
            return weighting.log_weight(log_sigmoid(margin), log_sigmoid(-margin), np) + np.zeros_like(margin)

    grid = np.sinh(np.linspace(0.0, math.asinh(MARGIN_REACH), 2000))
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
