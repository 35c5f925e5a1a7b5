"""The derivative of the loss, without its value, for many networks at once.

`logits.backward(stacked_derivative(...))` is equivalent to `emphasis_loss(...).backward()` for each network, with fewer
operations: margins and directions are computed for all networks at once, and only the log-weights for each method.
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
from emphasis.torch._autograd import lead_of, log_trust, margin_and_others, saturated_log_weight
from emphasis.torch._checks import arithmetic_dtype
from emphasis.torch._options import Options
from emphasis.torch.distributed import global_logsumexp


@lru_cache(maxsize=16)
def _constants(options: tuple[Options, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest margin and log integral of each method, and whether it is normalized by batch."""

    def column(values: list[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1, 1)

    return (
        column([method.max_margin for method in options], dtype),
        column([method.log_normalizer for method in options], dtype),
        column([method.normalization == "batch" for method in options], torch.bool),
    )


@torch.no_grad()
def stacked_derivative(logits: Tensor, labels: Tensor, options: Sequence[Options]) -> Tensor:
    """Return the derivative of every network's mean loss with respect to its logits.

    With M methods and K seeds, network m * K + k is trained by options[m] on labels[k]. The derivative of an example is
    dz_y = -w/2, dz_j = (w/2) q_j with q the softmax over the other classes (Eq. 7 without its 0/0); w is divided by its
    integral and the batch size, or by its sum over the batch of the network.

    Args:
        logits: Floating tensor of shape (M * K, N, C). NaN and infinity affect only the derivative of their network.
        labels: Integers in [0, C), int64 of shape (K, N).
        options: Options of the M methods, from `emphasis.torch.functional.resolve` with reduction "mean" and the same
            process group, over which the N examples of each network are distributed, in any numbers.

    Returns:
        The derivative, of the shape and dtype of the logits.

    Raises:
        OverflowError: A weight exceeds the range of the dtype, such as with a large beta and normalization=None.
        ValueError: The shapes do not match.
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
    lead = lead_of(z, index, others, 3) if any(method.weighting.trust[0] for method in options) else margin
    share = torch.ones_like(margin[0])
    for m, method in enumerate(options):
        method.check_range(dtype)
        log_w[m] = saturated_log_weight(log_p[m], log_q[m], method, logits.dtype)
        if method.weighting.trust[0]:
            log_w[m] += log_trust(log_p[m], lead[m], likeliest_of(z[m], share, 2, across=(1,)), share, method)
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
