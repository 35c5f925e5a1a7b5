"""What kernels that go through a batch once need to know of it before: how much the network contradicts the labels.

The kernels for the CPU find it out themselves. See `emphasis.weighting.Relative`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.kernels.backend import Backend
from emphasis.kernels.operators import power_in_batch

_POWER = 6  # where `MarginTable.packed` has it


def table_of_labels(
    table: Tensor,
    trust: tuple[float, float],
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    ignore_index: int,
    backend: Backend | None,
) -> Tensor:
    """Return the table with the power of this batch.

    Args:
        table: `MarginTable.packed`.
        trust: `Weighting.trust`.
        logits: (outer, C, ...), contiguous.
        labels: (outer, ...), int64.
        factor: Of the labels' shape, or None.
        ignore_index: Label of examples to leave out.
        backend: Computes the margins; None for torch operators, which a compiler fuses.
    """
    counted = (labels != ignore_index).to(table.dtype)
    counted = counted if factor is None else torch.where(counted > 0.0, factor.to(table.dtype), 0.0)
    if backend is None:
        wide = logits.float()
        own = wide.gather(1, labels.clamp(0, logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
        log_p, lead = own - wide.logsumexp(1), own - wide.amax(1)  # where the label leads, lead is 0 as it may be
    else:
        margin, lead, _ = backend.margins(logits, labels, ignore_index, "nothing")
        log_p = F.logsigmoid(margin)
    return _with_power(table, power_in_batch(trust, log_p.to(table.dtype), lead.to(table.dtype), counted))


def table_of_targets(
    table: Tensor,
    trust: tuple[float, float],
    logits: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    factor: Tensor | None,
) -> Tensor:
    """Return the table with the power of this batch of rows of probabilities, (N, C) as the logits."""
    log_p = logits.float().log_softmax(1)
    share = targets if class_weight is None else targets * class_weight
    share = share if factor is None else share * factor.unsqueeze(1)
    lead = log_p - log_p.amax(1, keepdim=True)
    return _with_power(table, power_in_batch(trust, log_p, lead, share.to(log_p.dtype)))


def _with_power(table: Tensor, power: Tensor) -> Tensor:
    return torch.cat((table[:_POWER], power.to(table.dtype).view(1), table[_POWER + 1 :]))
