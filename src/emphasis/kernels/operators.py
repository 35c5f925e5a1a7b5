"""The kernels' two halves in torch operators: any device and dtype, for where no compiled kernel is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emphasis.kernels import ExampleError

State = tuple[Tensor, Tensor, Tensor | None]


def margins(logits: Tensor, labels: Tensor, ignore_index: int, out: Tensor | None) -> tuple[Tensor, State]:
    """Return each example's margin (0 for ignored ones), and what `write_derivative` needs.

    One softmax, over the other classes, in the memory that the derivative will be in.

    Args:
        logits: (outer, C, ...), floating.
        labels: (outer, ...) int64, in [0, C) or `ignore_index`.
        ignore_index: Label of examples without loss and derivative.
        out: Like the logits, may be the logits; None if there will be no derivative.

    Raises:
        ExampleError: A margin is NaN or infinite; on the CPU only, where looking costs nothing.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    valid = labels != ignore_index
    index = torch.where(valid, labels, 0).unsqueeze(1)
    own = logits.gather(1, index).squeeze(1).to(dtype)
    if out is None or out.dtype != dtype:
        others = logits.to(dtype, copy=True)
    else:
        others = out if out.data_ptr() == logits.data_ptr() else out.copy_(logits)
    others.scatter_(1, index, -math.inf)
    peak = others.amax(1)
    torch.softmax(others, 1, out=others)
    # The largest of them is exp(0) / sum.
    margin = own - peak + others.amax(1).log()
    if margin.is_cpu and not margin.isfinite().all():
        bad = ~margin.isfinite() & valid
        if bad.any():
            raise ExampleError(int(bad.flatten().nonzero()[0]), is_label=False)
    if valid.is_cpu and bool(valid.all()):
        return margin, (others, index, None)
    return margin.masked_fill_(~valid, 0.0), (others, index, ~valid.unsqueeze(1))


def write_derivative(
    logits: Tensor,  # noqa: ARG001
    labels: Tensor,  # noqa: ARG001
    half: Tensor,
    state: State,
    ignore_index: int,  # noqa: ARG001
    out: Tensor,
) -> None:
    """Write dz_y = -half, dz_j = half * q_j to `out`; 0 for ignored examples.

    Args:
        logits: As given to `margins`.
        labels: As given to `margins`.
        half: Like the labels, half the weights.
        state: What `margins` returned.
        ignore_index: As given to `margins`.
        out: As given to `margins`.
    """
    others, index, ignored = state
    half = half.unsqueeze(1)
    others.mul_(half).scatter_(1, index, -half)
    if ignored is not None:
        others.masked_fill_(ignored, 0.0)  # NaN among them
    if out.data_ptr() != others.data_ptr():
        out.copy_(others)


def scale(gradient: Tensor, factor: Tensor, still: float) -> Tensor:
    """Return gradient * factor * still in place; factor is one number, or one for each example with size 1 for C."""
    return gradient.mul_(factor * still if still != 1.0 else factor)
