"""Statistics of a batch for weightings that depend on it, such as `Relative`.

They are computed by torch operators, for any device, dtype and layout. The kernels for the CPU compute their own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from emphasis.weighting._numerics import doubt_of, exponent_of


class Likeliest(NamedTuple):
    """The likeliest class of each example, and the probability of each class in the batch.

    Probabilities are stored as their difference from 1, which keeps its precision where they are near 1.

    Attributes:
        top: Likeliest classes, int64 of the shape of the examples.
        rest: Values of 1 - p_max, of the same shape.
        sums: Sums over examples of share * (1 - p) for each class, (C,).
    """

    top: Tensor
    rest: Tensor
    sums: Tensor


class BatchStatistics(NamedTuple):
    """Statistics of a batch of class labels: `margin` and `lead` as in `Margins`, and `Likeliest`."""

    margin: Tensor
    lead: Tensor
    likeliest: Likeliest


def likeliest_of(logits: Tensor, share: Tensor, dim: int = 1, across: tuple[int, ...] | None = None) -> Likeliest:
    """Return the likeliest classes and their statistics, with size 1 along `dim`.

    Args:
        logits: Logits in float32 or float64, with the classes along `dim`; of examples with share 0 they may be NaN.
        share: Weights of the examples, with size 1 along `dim`.
        dim: Dimension of the classes.
        across: Dimensions to sum over; all but `dim` by default.
    """
    logits = logits.detach()
    top = logits.argmax(dim, keepdim=True)
    others = logits.scatter(dim, top, -torch.inf)
    log_rest = others.logsumexp(dim, keepdim=True)
    rest = torch.sigmoid(log_rest - logits.gather(dim, top))
    rests = (1.0 - (others - log_rest).exp() * rest).scatter(dim, top, rest)
    across = tuple(d for d in range(logits.dim()) if d != dim) if across is None else across
    return Likeliest(top, rest, torch.where(share == 0.0, 0.0, share * rests).sum(across))


def exponents(
    trust: tuple[float, float], log_p: Tensor, lead: Tensor, share: Tensor | None, likeliest: Likeliest
) -> Tensor:
    """Return the exponents of p / p_max for a batch that is not distributed, of the shape of `likeliest.rest`.

    Args:
        trust: `Weighting.trust`.
        log_p: Log probabilities of the labels.
        lead: Logits of the labels minus the largest other logits, of the same shape.
        share: Weights of the labels, of the same shape, or None for 1.
        likeliest: Likeliest classes of the examples.
    """
    doubt = doubt_of(log_p, lead, torch)
    if share is not None:
        doubt = torch.where(share == 0.0, 0.0, share * doubt)
    whole = doubt.new_full((), doubt.numel()) if share is None else share.sum()
    whole = torch.where(whole == 0.0, 1.0, whole)
    prior_rest = (likeliest.sums.to(doubt.dtype) / whole).take(likeliest.top)
    exponent: Tensor = exponent_of(trust, doubt.sum() / whole, likeliest.rest.to(doubt.dtype), prior_rest, torch)
    return exponent


def exponents_of_targets(
    trust: tuple[float, float], logits: Tensor, targets: Tensor, class_weight: Tensor | None, factor: Tensor | None
) -> Tensor:
    """Return the exponents (N,) for target probabilities (N, C), in float64; see `exponents`."""
    share = targets if class_weight is None else targets * class_weight
    share = (share if factor is None else share * factor.unsqueeze(1)).to(
        torch.promote_types(logits.dtype, torch.float32)
    )
    wide = logits.to(share.dtype)
    log_p = wide.log_softmax(1)
    lead = log_p - log_p.amax(1, keepdim=True)
    likeliest = likeliest_of(wide, share.sum(1, keepdim=True))
    return exponents(trust, log_p, lead, share, likeliest).squeeze(1).double()
