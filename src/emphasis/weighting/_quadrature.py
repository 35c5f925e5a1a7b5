"""Tanh-sinh quadrature in log space: integrals of weighting functions that may span hundreds of decades.

The substitution p = sigmoid(pi sinh t) sends [0, 1] to the real line and makes the trapezoidal rule converge
doubly exponentially, endpoint singularities such as p**0.1 included (Takahasi and Mori, 1974). The sum runs over
logarithms, so that integrands such as exp(1e4) do not overflow.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np

from emphasis.weighting._numerics import Array, EmphasisWarning, log_sigmoid, logsumexp

_REACH = 7.0  # pi sinh 7 = 1723: p**(a-1) is integrated to full precision from a = 0.025 upwards
_FIRST_LEVEL, _LAST_LEVEL = 3, 14  # steps 2**-3 to 2**-14
_TOLERANCE = 1e-14
_WORTH_A_WARNING = 1e-6
_DIVERGENT = -12.0  # log of the integrand's tail over its peak above which the integral is called infinite


def log_integral(log_f: Callable[[Array, Array], Array], name: str, lower: float = 0.0, upper: float = 1.0) -> float:
    """Return log of the integral of f over p in [lower, upper], or inf if it diverges.

    Args:
        log_f: Function (log p, log(1-p)) -> log f(p) of float64 numpy arrays.
        name: Name of the integrand, for the warning.
        lower: Left end, 0 <= lower.
        upper: Right end, lower < upper <= 1.

    Warns:
        EmphasisWarning: The value has fewer than six correct digits because f is not smooth.
    """
    width = upper - lower

    def log_integrand(t: Array) -> Array:
        s = np.pi * np.sinh(t)
        log_s, log_r = log_sigmoid(s), log_sigmoid(-s)  # p = lower + width s, 1-p = (1-upper) + width r
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            log_p = np.logaddexp(np.log(lower), math.log(width) + log_s)
            log_q = np.logaddexp(np.log1p(-upper), math.log(width) + log_r)
            value = log_f(log_p, log_q)
        return value + log_s + log_r + np.log(np.cosh(t)) + math.log(np.pi * width)

    tail = log_integrand(np.array([-_REACH, _REACH]))
    previous, error = math.nan, math.inf
    for level in range(_FIRST_LEVEL, _LAST_LEVEL + 1):
        step = 2.0**-level
        t = np.arange(-_REACH, _REACH + step / 2, step)
        values = log_integrand(t)
        if values.max() == -math.inf:
            return -math.inf
        if tail.max() > values.max() + _DIVERGENT:
            return math.inf
        current = float(logsumexp(values)) + math.log(step)
        error, previous = abs(current - previous), current
        if error < _TOLERANCE * max(1.0, abs(current)):
            return current
    if error > _WORTH_A_WARNING:
        warnings.warn(
            f"the integral of {name} over [{lower:g}, {upper:g}] is accurate to about {error:.0e} only, because the "
            "integrand is not smooth there; for more digits split the interval with mass(a, b) at its jumps",
            EmphasisWarning,
            stacklevel=3,
        )
    return previous
