"""Arithmetic that computes the derivative of a weighting: exact, or as in the code released by the paper's authors.

The inexact kinds are available in recipes only, to show their effect; `emphasis_loss` is always exact.
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
_BASE = 2.718281828  # the value of e in the release


@dataclass(frozen=True)
class OtherArithmetic(Options):
    """Options of a method whose derivative is not the exact one."""

    arithmetic: Arithmetic = "exact"


def with_arithmetic(options: Options, arithmetic: Arithmetic) -> Options:
    """Return options that `derivative` computes by the given arithmetic."""
    if arithmetic == "exact":
        return options
    return OtherArithmetic(
        **{option.name: getattr(options, option.name) for option in fields(Options)}, arithmetic=arithmetic
    )


def derivative(logits: Tensor, labels: Tensor, options: Sequence[Options]) -> Tensor:
    """Return `stacked_derivative`, computed with another arithmetic for methods with `OtherArithmetic`."""
    result = stacked_derivative(logits, labels, options)
    for number, method_options in enumerate(options):
        if isinstance(method_options, OtherArithmetic):
            rows = slice(number * len(labels), (number + 1) * len(labels))
            compute = (
                published_derivative if method_options.arithmetic == "float32-published" else keep_learned_derivative
            )
            result[rows] = compute(logits[rows], labels, method_options).to(result.dtype)
    return result


@torch.no_grad()
def published_derivative(logits: Tensor, labels: Tensor, options: Options, epsilon: float = QUOTIENT_EPSILON) -> Tensor:
    """Return the derivative as the paper's released layer computes it in float32, (K, N, C).

    w (softmax - onehot) / (2 (1 - p) + epsilon) / sum of w, with p rounded to float32 and the weights of learned
    examples in the sum. Where 1 - p is not larger than epsilon, the derivative fades, and beyond margin 16.6, where p
    rounds to 1, it is 0. The weight of such an example is nevertheless part of the sum.

    Args:
        logits: (K, N, C) logits of K networks.
        labels: (K, N) int64.
        options: Options with a `DM` that does not vanish, and "batch" normalization.
        epsilon: Constant that keeps the quotient finite; 1e-6 in the release.
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
    if options.process_group is not None:  # the ranks average their gradients
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
