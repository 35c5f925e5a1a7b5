"""The derivative alone, for many networks at once: what a training loop needs, without any loss value.

`logits.backward(stacked_derivative(...))` trains as `emphasis_loss(...).backward()` does, network by network, in a
fraction of the operations: margins and directions are computed once for all networks, and only the log-weights
method by method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.errors import EmphasisValueError
from emphasis.kernels.batch_statistics import likeliest_of
from emphasis.torch._autograd import lead_of, margin_and_others, saturated_log_weight
from emphasis.torch._checks import arithmetic_dtype
from emphasis.torch._options import Options
from emphasis.torch.distributed import global_logsumexp, mean_over_ranks
from emphasis.weighting._numerics import doubt_of, exponent_of, log_trust_of


@lru_cache(maxsize=16)
def _constants(options: tuple[Options, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the methods' largest margins, logarithms of their integrals, and which are batch-normalised."""

    def column(values: list[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1, 1)

    return (
        column([one.max_margin for one in options], dtype),
        column([one.log_normalizer for one in options], dtype),
        column([one.normalization == "batch" for one in options], torch.bool),
    )


@torch.no_grad()
def stacked_derivative(logits: Tensor, labels: Tensor, options: Sequence[Options]) -> Tensor:
    """Return the derivative of every network's mean loss with respect to its logits.

    With M methods and K seeds, network m * K + k is trained by options[m] on labels[k]. Each example's derivative
    is dz_y = -w/2, dz_j = (w/2) q_j with q the softmax over the other classes (Eq. 7 without its 0/0); w is divided
    by its integral and the batch size, or by its sum over the network's own batch.

    Args:
        logits: (M * K, N, C), floating; NaN and infinity pass through to that network's derivative.
        labels: (K, N) int64 in [0, C).
        options: M of them, from `emphasis.torch.functional.resolve` with reduction "mean"; with a process group, all
            with the same, over which the N examples of each network are spread, unevenly if you like.

    Returns:
        (M * K, N, C), of the logits' dtype.

    Raises:
        OverflowError: A weight exceeds the arithmetic's dtype (a large beta with normalization=None, say).
        ValueError: The shapes do not fit.
    """
    networks, examples, classes = logits.shape
    if networks != len(options) * len(labels) or labels.shape[1] != examples:
        raise EmphasisValueError(
            f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} do not fit "
            f"{len(options)} methods; use (methods * seeds, N, C) and (seeds, N)"
        )
    dtype = arithmetic_dtype(logits)
    z = logits.to(dtype).view(len(options), len(labels), examples, classes)
    index = labels.expand(len(options), -1, -1).unsqueeze(3)
    margin, others, log_rest = margin_and_others(z, index, 3)
    log_p, log_q = F.logsigmoid(margin), F.logsigmoid(-margin)
    log_w = torch.empty_like(margin)
    lead = lead_of(z, index, others, 3) if any(one.weighting.trust[0] for one in options) else margin
    for number, one in enumerate(options):
        one.check_range(dtype)
        log_w[number] = saturated_log_weight(log_p[number], log_q[number], one, logits.dtype)
        if one.weighting.trust[0]:
            log_w[number] += _log_trust(z[number], log_p[number], lead[number], one)
    max_margin, log_normalizer, is_batch = _constants(tuple(options), dtype, logits.device)
    log_w.masked_fill_(margin > max_margin, -math.inf)
    log_sum = torch.logsumexp(log_w, 2, keepdim=True)
    count = math.log(examples) if examples else -math.inf
    log_count: Tensor | float = count
    if options[0].process_group is not None:
        both = torch.stack((log_sum, torch.full_like(log_sum, count)))
        log_sum, log_count = global_logsumexp(both, options[0].process_group)
    log_unit = torch.where(is_batch, log_sum, log_normalizer + log_count)
    half = (log_w - torch.where(log_unit == -math.inf, 0.0, log_unit) - math.log(2.0)).exp_()
    derivative = others.sub_(log_rest).exp_().mul_(half).scatter_(3, index, -half)
    return derivative.view(logits.shape).to(logits.dtype)


def _log_trust(z: Tensor, log_p: Tensor, lead: Tensor, options: Options) -> Tensor:
    """Return log of what a label that the network contradicts is multiplied by; see `_autograd.log_trust`.

    Args:
        z: Logits (K, N, C) of K networks.
        log_p: (K, N, 1), of the labels.
        lead: (K, N, 1), their logits less the largest other ones.
        options: One method's.
    """
    likeliest = likeliest_of(z, torch.ones_like(lead), 2, across=(1,))
    doubt = doubt_of(log_p, lead, torch).sum(1)
    count = doubt.new_full((len(z), 1), z.shape[1])
    means = mean_over_ranks(torch.cat((doubt, likeliest.sums), 1), count, options.process_group)
    prior_rest = means[:, 1:].gather(1, likeliest.top.squeeze(2)).unsqueeze(2)
    exponent = exponent_of(options.weighting.trust, means[:, :1, None], likeliest.rest, prior_rest, torch)
    result: Tensor = log_trust_of(exponent, lead, torch)
    return result
