"""The kernels for GPUs behind the same functions as the others: `triton_rows`, where there is Triton.

Nothing is read on the host: a label that is not allowed, or a logit that is not finite, makes the loss NaN.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from emphasis.kernels import triton_rows
from emphasis.weighting.margin_table import MarginTable

State = triton_rows.State
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
available = triton_rows.available


def _examples(tensor: Tensor, outer: int) -> Tensor:
    return tensor.reshape(outer, -1)


def _rows(logits: Tensor) -> Tensor:
    return logits.view(logits.shape[0], logits.shape[1], -1)


@lru_cache(maxsize=64)
def _on_device(table: MarginTable, device: torch.device) -> Tensor:
    return torch.from_numpy(table.packed).to(device)


def loss_and_derivative(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    table: MarginTable,
    ignore_index: int,
    out: Tensor | None,
    reduction: str,
    defer: bool,
) -> tuple[Tensor, Tensor | float]:
    """Return the loss, and write its derivative to `out`: as in `native`, with NaN instead of errors."""
    outer = logits.shape[0]
    own = None if factor is None else _examples(factor, outer)
    scale: Tensor | None = None
    still: Tensor | float = 1.0
    if reduction == "mean":
        counts = labels != ignore_index
        if factor is None:  # few launches: of a small loss they are the whole cost
            scale = counts.sum(dtype=torch.float32).clamp(min=1.0).reciprocal()
        else:
            total = torch.where(counts, factor, 0.0).sum()
            scale = torch.where(total == 0.0, 1.0, 1.0 / total)
        if defer:
            still = scale.log2().floor().exp2()
            scale = scale / still
    losses = triton_rows.loss_and_derivative(
        _rows(logits),
        _examples(labels, outer),
        own,
        scale,
        _on_device(table, logits.device),
        ignore_index,
        None if out is None else _rows(out),
    )
    if own is not None:
        losses = torch.where(own == 0.0, 0.0, losses)
    if reduction == "none":
        return losses.view(labels.shape), still
    loss = losses.sum()
    return loss * still if isinstance(still, Tensor) else loss, still


def margins(logits: Tensor, labels: Tensor, ignore_index: int, out: Tensor | None) -> tuple[Tensor, State]:  # noqa: ARG001
    """Return each example's margin, and what `write_derivative` needs: as in `native`, with NaN instead of errors."""
    margin, state = triton_rows.margins(_rows(logits), _examples(labels, logits.shape[0]), ignore_index)
    return margin.view(labels.shape), state


def write_derivative(
    logits: Tensor, labels: Tensor, half: Tensor, state: State, ignore_index: int, out: Tensor
) -> None:
    """Write dz_y = -half, dz_j = half * q_j to `out`: as in `native`."""
    outer = logits.shape[0]
    rows, target = _rows(logits), _rows(out)
    triton_rows.write_derivative(rows, _examples(labels, outer), _examples(half, outer), state, ignore_index, target)


def scale(gradient: Tensor, factor: Tensor, still: Tensor | float) -> Tensor:
    """Return gradient * factor * still in place: as in `native`, without memory traffic if that is 1."""
    if isinstance(still, Tensor) or still != 1.0:
        factor = factor * still
    if any(factor.stride()):
        return gradient.mul_(factor)
    triton_rows.scale_in_place(gradient, factor)
    return gradient
