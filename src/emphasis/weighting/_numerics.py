"""Helpers in log space that all families share, for any array module.

`xp` is the array module (numpy, torch or jax.numpy). Only functions that all three spell alike are used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emphasis.errors import EmphasisValueError

# Arrays of numpy, torch or jax: the three share no type, and importing two of them is what this package avoids.
Array = Any
ArrayModule = Any

# Below this log, exp(x) is under half an ulp of 1 in float64, so one-term expansions are exact.
_NEGLIGIBLE = -40.0


class EmphasisWarning(UserWarning):
    """Warns about a setting that is allowed but probably not intended; the message says what to do."""


def log_sigmoid(margin: Array, xp: ArrayModule = np) -> Array:
    """Return log sigmoid(margin), accurate on both tails."""
    return xp.clip(margin, -math.inf, 0.0) - xp.log1p(xp.exp(-xp.abs(margin)))


def logsumexp(values: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """Return log sum exp over `axis`; -inf where every entry is -inf (numpy)."""
    peak = np.max(values, axis=axis, keepdims=True)
    safe = np.where(np.isfinite(peak), peak, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.sum(np.exp(values - safe), axis=axis, keepdims=True)) + safe
    return total if keepdims else np.squeeze(total, axis=axis)


def log_power(exponent: float, log_x: Array) -> Array:
    """Return log(x**exponent) with 0**0 = 1, which avoids the NaN of 0 * -inf."""
    return exponent * log_x if exponent else 0.0


def log_of_expm1_exp(log_x: Array, xp: ArrayModule) -> Array:
    """Return log(expm1(x)) given log x, accurate from x = 0 to where exp(x) overflows.

    For tiny x the expansion log x + x/2 is used, for the rest x + log(1 - exp(-x)).
    """
    small = log_x < -18.0
    x = xp.exp(log_x)
    # The branch not taken sees 1, never 0: its derivative must stay finite when autograd multiplies it by 0.
    x_large = xp.where(small, xp.ones_like(x), x)
    return xp.where(small, log_x + 0.5 * x, x_large + xp.log(-xp.expm1(-x_large)))


def log_of_minus_log_p(log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
    """Return log(-log p), which is log(1-p) where p is 1 to within rounding."""
    near_one = log_q < _NEGLIGIBLE
    safe = xp.where(near_one, -xp.ones_like(log_p), log_p)
    return xp.where(near_one, log_q, xp.log(-safe))


def checked_probabilities(p: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return `p` as float64, or raise ValueError if an entry is NaN or outside [0, 1]."""
    array = np.asarray(p, dtype=np.float64)
    bad = ~((array >= 0.0) & (array <= 1.0))
    if bad.any():
        raise EmphasisValueError(
            f"p holds {array[bad].flat[0]!r}: probabilities lie in [0, 1]. "
            "Pass softmax outputs, not logits; for logits use derivative(logits, labels) or potential(margin)."
        )
    return array


# Lower bound of 1 - pi: where a class is nearly certain a priori, no probability counts as more certain than that.
LEAST_ROOM = 1e-6


def log_trust_of(exponent: Array, lead: Array, xp: ArrayModule) -> Array:
    """Return log of (p / p_max)^exponent, 0 where the label is the likeliest class; see `weighting.Relative`.

    Args:
        exponent: Exponents from `exponent_of`, of the shape of `lead` or broadcastable to it.
        lead: Logits of the labels minus the largest other logits; log(p / p_max) where negative.
        xp: Module of the arrays.
    """
    return exponent * xp.clip(lead, -math.inf, 0.0)


def doubt_of(log_p: Array, lead: Array, xp: ArrayModule) -> Array:
    """Return p_max - p of labels.

    Args:
        log_p: Log probabilities of the labels, finite.
        lead: Logits of the labels minus the largest other logits, of the same shape.
        xp: Module of the arrays.
    """
    below = xp.clip(lead, -math.inf, 0.0)
    return -xp.exp(log_p - below) * xp.expm1(below)


def exponent_of(trust: tuple[float, float], doubt: Array, rest: Array, prior_rest: Array, xp: ArrayModule) -> Array:
    """Return the exponent of p / p_max, q min(1, doubt / level) max(0, (p_max - pi) / (1 - pi)).

    Probabilities are passed as their difference from 1, which keeps its precision where p_max and pi are near 1.

    Args:
        trust: The pair (q, level) of `Weighting.trust`.
        doubt: Mean of p_max - p over the batch.
        rest: Value of 1 - p_max for each example.
        prior_rest: Value of 1 - pi for each example: the mean over the batch of 1 minus the probability of the class
            that is the likeliest one of the example.
        xp: Module of the arrays.
    """
    q, level = trust
    certainty = xp.clip((prior_rest - rest) / xp.clip(prior_rest, LEAST_ROOM, math.inf), 0.0, 1.0)
    return q * certainty * (xp.clip(doubt / level, 0.0, 1.0) if level else 1.0)
