"""Margins and derivatives in float64 numpy: the reference that every front end and kernel is tested against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.weighting._numerics import Array, doubt_of, exponent_of, log_sigmoid, log_trust_of, logsumexp

if TYPE_CHECKING:
    from emphasis.weighting._density import FloatArray
    from emphasis.weighting.base import Weighting


def margin_and_direction(logits: Array, labels: Array) -> tuple[FloatArray, FloatArray]:
    """Return the margin u = z_y - logsumexp_{j != y} z_j and q, the softmax over the other classes.

    Args:
        logits: Finite array of shape (N, C) or (N, C, d1, ...), C >= 2.
        labels: Integers in [0, C), of shape (N,) or (N, d1, ...).

    Returns:
        The margins u, of the shape of the labels, and q, of the shape of the logits and 0 at the label. The probability
        of the label is p = sigmoid(u), and 1-p = sigmoid(-u).

    Raises:
        ValueError: Shapes do not match, a label is out of range or a logit is not finite.
        TypeError: Labels are not integers.
    """
    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels)
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise EmphasisValueError(f"logits must be (N, C) or (N, C, d1, ...) with C >= 2, got shape {logits.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise EmphasisTypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise EmphasisValueError(
            f"labels must have shape {logits.shape[:1] + logits.shape[2:]} for logits of shape {logits.shape}, "
            f"got {labels.shape}"
        )
    num_classes = logits.shape[1]
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        raise EmphasisValueError(f"label {labels[wrong].flat[0]} is outside 0..{num_classes - 1}")
    if not np.isfinite(logits).all():
        raise EmphasisValueError("logits hold NaN or infinity; derivatives need finite logits")
    index = np.expand_dims(labels, 1)
    others = logits.copy()
    np.put_along_axis(others, index, -np.inf, axis=1)
    log_rest = logsumexp(others, axis=1, keepdims=True)
    margin = np.take_along_axis(logits, index, axis=1) - log_rest
    return margin.squeeze(1), np.exp(others - log_rest)


def lead_of(logits: Array, labels: Array) -> FloatArray:
    """Return z_y - max_{j != y} z_j in float64, which is log(p / p_max) where negative; see `margin_and_direction`."""
    others = np.array(logits, dtype=np.float64)
    index = np.expand_dims(np.asarray(labels), 1)
    label_logit = np.take_along_axis(others, index, axis=1).squeeze(1)
    np.put_along_axis(others, index, -np.inf, axis=1)
    lead: FloatArray = label_logit - others.max(axis=1)
    return lead


def rests_of(logits: Array) -> tuple[FloatArray, FloatArray]:
    """Return 1 - p_max and 1 - pi of each example, pi being the batch's mean probability of its likeliest class."""
    top = np.asarray(logits).argmax(axis=1)
    margin, direction = margin_and_direction(logits, top)
    rest = np.exp(log_sigmoid(-margin))
    rests = 1.0 - direction * np.expand_dims(rest, 1)  # exact for the likeliest class only, which the next line sets
    np.put_along_axis(rests, np.expand_dims(top, 1), np.expand_dims(rest, 1), axis=1)
    prior_rest: FloatArray = rests.mean(axis=tuple(axis for axis in range(rests.ndim) if axis != 1))[top]
    return rest, prior_rest


def derivative(weighting: Weighting, logits: Array, labels: Array, max_margin: float = math.inf) -> FloatArray:
    """Return dz_y = -w/2, dz_j = (w/2) q_j (Eq. 7 without its 0/0); see `Weighting.derivative`."""
    margin, direction = margin_and_direction(logits, labels)
    with np.errstate(over="ignore", divide="ignore"):
        log_p, log_q = log_sigmoid(margin), log_sigmoid(-margin)
        log_w = weighting.where_agreed.log_weight(log_p, log_q, np)
        if weighting.trust[0]:
            lead = lead_of(logits, labels)
            rest, prior_rest = rests_of(logits)
            exponent = exponent_of(weighting.trust, doubt_of(log_p, lead, np).mean(), rest, prior_rest, np)
            log_w = log_w + log_trust_of(exponent, lead, np)
        half_w = 0.5 * np.where(margin > max_margin, 0.0, np.exp(log_w))
    result = direction * np.expand_dims(half_w, 1)
    np.put_along_axis(result, np.expand_dims(np.asarray(labels), 1), -np.expand_dims(half_w, 1), axis=1)
    return result
