"""The arithmetic by which a weighting becomes a derivative: exact, or as the paper's authors released it.

Only training by a recipe has the other kinds, to show what they do; `emphasis_loss` is always exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from torch import Tensor

from emphasis.torch._options import Options
from emphasis.torch.stacked import stacked_derivative
from emphasis.weighting import DM

Arithmetic = Literal["exact", "keep-learned", "float32-published"]
ARITHMETIC: tuple[Arithmetic, ...] = get_args(Arithmetic)

#: Added to 2 (1 - p), and to the sum of the weights, in GR_caffe_layer/unified_weight_loss_layer.cpp of the release.
QUOTIENT_EPSILON, SUM_EPSILON = 1e-6, 1e-8
_BASE = 2.718281828  # the release's e


@dataclass(frozen=True)
class OtherArithmetic(Options):
    """Options of a method whose derivative is not the exact one."""

    arithmetic: Arithmetic = "exact"


def with_arithmetic(options: Options, arithmetic: Arithmetic) -> Options:
    """Return options that `derivative` computes by the given arithmetic."""
    if arithmetic == "exact":
        return options
    return OtherArithmetic(**{one.name: getattr(options, one.name) for one in fields(Options)}, arithmetic=arithmetic)


def derivative(logits: Tensor, labels: Tensor, options: Sequence[Options]) -> Tensor:
    """Return `stacked_derivative`, and by another arithmetic for the methods whose options ask for it."""
    result = stacked_derivative(logits, labels, options)
    for number, one in enumerate(options):
        if isinstance(one, OtherArithmetic):
            rows = slice(number * len(labels), (number + 1) * len(labels))
            compute = published_derivative if one.arithmetic == "float32-published" else keep_learned_derivative
            result[rows] = compute(logits[rows], labels, one).to(result.dtype)
    return result


@torch.no_grad()
def published_derivative(logits: Tensor, labels: Tensor, options: Options, epsilon: float = QUOTIENT_EPSILON) -> Tensor:
    """Return the derivative as the paper's released layer computes it in float32, (K, N, C).

    w (softmax - onehot) / (2 (1 - p) + epsilon) / sum of w, with p rounded to float32 and the weights of learned
    examples in the sum. Where 1 - p is no larger than epsilon the push dies away, and beyond margin 16.6 p is 1 and
    it is 0: but such an example still takes its share of the sum.

    Args:
        logits: (K, N, C), of K networks.
        labels: (K, N) int64.
        options: With a `DM` that does not vanish, and "batch".
        epsilon: What keeps the quotient finite; the release has 1e-6.
    """
    weighting = options.weighting
    assert isinstance(weighting, DM)
    index = labels.unsqueeze(2)
    exponentials = (logits.float() - logits.float().amax(2, keepdim=True)).exp()
    probabilities = exponentials / exponentials.sum(2, keepdim=True)
    p = probabilities.gather(2, index)
    weight = torch.pow(_BASE, (1.0 - p) * (weighting.beta * p.pow(weighting.lam)))
    quotient = probabilities.scatter_add(2, index, -torch.ones_like(p)) / (2.0 - 2.0 * p + epsilon)
    total = weight.sum(1, keepdim=True)
    if options.process_group is not None:  # whose ranks average their gradients
        torch.distributed.all_reduce(total, group=options.process_group)
        total /= torch.distributed.get_world_size(options.process_group)
    return quotient * weight / (total + SUM_EPSILON)


@torch.no_grad()
def keep_learned_derivative(logits: Tensor, labels: Tensor, options: Options) -> Tensor:
    """Return the exact derivative, whose sum over the batch keeps the weights of examples beyond `max_margin`."""
    unlimited = Options(
        options.weighting,
        options.normalization,
        options.reduction,
        float("inf"),
        options.log_normalizer,
        options.log_largest,
        options.process_group,
    )
    index = labels.unsqueeze(2)
    others = logits.float().scatter(2, index, -torch.inf)
    margin = logits.float().gather(2, index) - others.logsumexp(2, keepdim=True)
    return stacked_derivative(logits, labels, [unlimited]).masked_fill_(margin > options.max_margin, 0.0)
