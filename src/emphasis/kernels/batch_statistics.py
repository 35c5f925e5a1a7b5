"""What a weighting that depends on the batch has to know of it before an example is weighed; see `Relative`.

In torch operators, for any device, dtype and layout. The kernels for the CPU find it out by themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from emphasis.weighting._numerics import doubt_of, exponent_of


class Likeliest(NamedTuple):
    """The likeliest class of each example, and how likely each class is in the batch.

    Probabilities are given by what they lack to 1, which keeps its digits where they are near 1.

    Attributes:
        top: int64, the likeliest class, in its examples' shape.
        rest: 1 - p_max, of that shape.
        sums: (C,), the sum over examples of share * (1 - p), where an example counts as much as its share.
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
    """Return the likeliest class and what follows, with size 1 along `dim`, which are the classes.

    Args:
        logits: At least float32; of an example with a share of 0 they may be anything.
        share: What each example counts, with size 1 along `dim`.
        dim: Of the classes.
        across: The dimensions to sum over; all but `dim` if None.
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
    """Return the exponents of p / p_max of a batch that is here as a whole, of the shape of `likeliest.rest`.

    Args:
        trust: `Weighting.trust`.
        log_p: Of the labels.
        lead: Of that shape, the labels' logits less the largest other ones.
        share: Of that shape, what each counts, or None for 1.
        likeliest: Of the examples.
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
    """Return the exponents (N,) of rows of probabilities, (N, C) as the logits, in float64."""
    share = targets if class_weight is None else targets * class_weight
    share = (share if factor is None else share * factor.unsqueeze(1)).to(
        torch.promote_types(logits.dtype, torch.float32)
    )
    wide = logits.to(share.dtype)
    log_p = wide.log_softmax(1)
    lead = log_p - log_p.amax(1, keepdim=True)
    likeliest = likeliest_of(wide, share.sum(1, keepdim=True))
    return exponents(trust, log_p, lead, share, likeliest).squeeze(1).double()
