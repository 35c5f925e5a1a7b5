"""Numerical argmax of a weighting without a closed form of its modes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emphasis.weighting._numerics import Array, log_sigmoid

_MARGINS = np.sinh(np.linspace(-10.0, 10.0, 8001))
_FLAT = 1e-12
_TIE = 1e-9
_CLOSE = 1e-6
_ZOOMS = 10


def numerical_modes(log_w: Callable[[Array, Array], Array]) -> tuple[float, ...]:
    """Return every p that maximizes w, in ascending order; () if w is flat. Of a plateau the smallest p is returned."""

    def at(margin: Array) -> Array:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return log_w(log_sigmoid(margin), log_sigmoid(-margin))

    margins = np.concatenate(([-np.inf], _MARGINS, [np.inf]))
    values = at(margins)
    best = values.max()
    if best - values.min() < _FLAT:
        return ()
    # w rises to i and does not rise after it: the left edge of every peak and plateau.
    padded = np.concatenate(([-np.inf], values, [-np.inf]))
    with np.errstate(invalid="ignore"):
        peaks = np.flatnonzero((padded[1:-1] > padded[:-2]) & (padded[1:-1] >= padded[2:]))
    if best == np.inf:
        return tuple(float(p) for p in np.exp(log_sigmoid(margins[values == np.inf])))
    candidates = [_refined(at, margins, int(i)) for i in peaks if values[i] > best - 1e-3]
    top = max(value for _, value in candidates)
    modes = sorted(float(np.exp(log_sigmoid(margin))) for margin, value in candidates if value >= top - _TIE)
    # Rounding makes values near an end of the interval equal to the one at the end, which is then the mode.
    if values[0] >= top - _TIE:
        modes = [0.0, *(p for p in modes if p > _CLOSE)]
    if values[-1] >= top - _TIE and modes[-1] > 1.0 - _CLOSE:
        modes = [*(p for p in modes if p < 1.0 - _CLOSE), 1.0]
    return tuple(p for i, p in enumerate(modes) if i == 0 or p - modes[i - 1] > _CLOSE)


def _refined(at: Callable[[Array], Array], margins: Array, i: int) -> tuple[float, float]:
    """Return (margin, value) of the peak near margins[i], by successively finer grids between its neighbors."""
    margin, value = float(margins[i]), float(at(margins[i : i + 1])[0])
    if not np.isfinite(margin):
        return margin, value
    low, high = np.nan_to_num(margins[[i - 1, i + 1]], neginf=margins[1] * 2, posinf=margins[-2] * 2)
    for _ in range(_ZOOMS):
        grid = np.linspace(low, high, 41)
        values = at(grid)
        k = int(values.argmax())
        if values[k] >= value:  # the first of equal values, which is the left end of a plateau
            margin, value = float(grid[k]), float(values[k])
        low, high = grid[max(k - 1, 0)], grid[min(k + 1, 40)]
    return margin, value
