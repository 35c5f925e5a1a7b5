"""The kernels in torch operators: any device and dtype, for where no compiled kernel is."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.kernels.backend import ExampleError, GradientIn, Margins, Result, can_be_read
from emphasis.weighting._potential import MARGIN_REACH
from emphasis.weighting.margin_table import DEGREE, OCTAVES
from emphasis.weighting.options import Reduction

_HEADER = 6
_ONE = 0x3FF0000000000000  # the bits of 1.0


class OperatorsBackend:
    """Torch operators: the derivative is made where the softmax over the other classes was."""

    name = "operators"

    def takes(self, dtype: torch.dtype) -> bool:
        """Return whether there are kernels for logits of this dtype."""
        return dtype.is_floating_point

    def loss_of_labels(
        self,
        logits: Tensor,
        labels: Tensor,
        factor: Tensor | None,
        table: Tensor,
        ignore_index: int,
        reduction: Reduction,
        is_batch: bool,
        gradient_in: GradientIn,
    ) -> Result:
        """Return the loss of class labels and its derivative: as `Backend`."""
        margin, state = self.margins(logits, labels, ignore_index, gradient_in)
        valid = labels != ignore_index
        log_w, value = look_up(table, margin.double())
        factor = torch.where(valid, 1.0 if factor is None else factor, 0.0).double()
        pending: Tensor | float = 1.0
        if is_batch:
            share = torch.softmax((log_w + factor.log()).flatten(), 0).nan_to_num().view(labels.shape)
            losses = torch.where(share > 0.0, share * F.softplus(-margin), 0.0)
            largest = share.amax()
        else:
            share = log_w.exp()
            largest = factor.amax()
            if reduction == "mean":
                factor = factor / torch.where(largest == 0.0, 1.0, largest)
                total = factor.sum()
                largest = 1.0 / torch.where(total == 0.0, 1.0, total)
                factor = factor * largest
            share = share * factor
            losses = torch.where(factor == 0.0, 0.0, value * factor)
        dtype = margin.dtype
        loss = (losses if reduction == "none" else losses.sum()).to(dtype)
        if gradient_in == "nothing":
            return Result(loss, None, 1.0)
        if logits.dtype == torch.float16 and (is_batch or reduction == "mean"):
            pending = power_above(largest)
            share = share / pending
        gradient = self.derivative(logits, labels, (0.5 * share).to(dtype), state, ignore_index, gradient_in)
        return Result(loss, gradient, pending)

    def margins(self, logits: Tensor, labels: Tensor, ignore_index: int, gradient_in: GradientIn) -> Margins:
        """Return each example's margin: as `Backend`."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        valid = labels != ignore_index
        index = torch.where(valid, labels, 0).unsqueeze(1)
        own = logits.gather(1, index).squeeze(1).to(dtype)
        others = logits if gradient_in == "the logits" and logits.dtype == dtype else logits.to(dtype, copy=True)
        others.scatter_(1, index, -math.inf)
        peak = others.amax(1)
        torch.softmax(others, 1, out=others)
        # The largest of them is exp(0) / sum.
        margin = own - peak + others.amax(1).log()
        if margin.is_cpu and not margin.isfinite().all():
            bad = ~margin.isfinite() & valid
            if bad.any():
                raise ExampleError(int(bad.flatten().nonzero()[0]), "logits")
        if valid.is_cpu and bool(valid.all()):
            return Margins(margin, (others, index, None))
        return Margins(margin.masked_fill_(~valid, 0.0), (others, index, ~valid.unsqueeze(1)))

    def derivative(
        self,
        logits: Tensor,
        labels: Tensor,  # noqa: ARG002
        half: Tensor,
        state: Any,
        ignore_index: int,  # noqa: ARG002
        gradient_in: GradientIn,
    ) -> Tensor:
        """Return the derivative from half weights: as `Backend`."""
        others: Tensor
        others, index, ignored = state
        half = half.unsqueeze(1)
        others.mul_(half).scatter_(1, index, -half)
        if ignored is not None:
            others.masked_fill_(ignored, 0.0)  # NaN among them
        if others.dtype == logits.dtype:
            return others
        return logits.copy_(others) if gradient_in == "the logits" else others.to(logits.dtype)

    def scale(self, gradient: Tensor, factor: Tensor, pending_scale: Tensor | float) -> Tensor:
        """Return gradient * factor * pending_scale in place: as `Backend`."""
        return gradient.mul_(
            factor if isinstance(pending_scale, float) and pending_scale == 1.0 else factor * pending_scale
        )


OPERATORS = OperatorsBackend()


def power_above(number: Tensor) -> Tensor:
    """Return the power of two next above a positive number, 1 for 0."""
    normal = number.clamp(min=torch.finfo(number.dtype).tiny)
    return torch.where(number > 0.0, torch.exp2(torch.floor(torch.log2(normal)) + 1.0), 1.0)


def look_up(table: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log w, L) of margins: `MarginTable.__call__` in torch.

    Args:
        table: `MarginTable.packed`.
        margin: float64, any shape; NaN stays NaN.
    """
    header = table[:_HEADER].tolist() if table.is_cpu else _header_of(table)
    splits, max_margin, left, right, value_left, value_right = header
    splits = int(splits)
    bounded = margin.clamp(max=max_margin) if max_margin < math.inf else margin
    inside = bounded.clamp(-MARGIN_REACH, MARGIN_REACH)
    bits = (inside.abs() + 1.0).view(torch.int64)
    cell = ((bits >> (52 - splits)) - (1023 << splits)) + (inside < 0.0) * (OCTAVES << splits)
    x = (((bits << splits) & (2**52 - 1)) | _ONE).view(torch.float64) * 2.0 - 3.0
    rows = table[_HEADER:-1].view(-1, 2, DEGREE + 1)[cell.clamp(0, 2 * (OCTAVES << splits) - 1)]
    x = x.unsqueeze(-1)
    values = rows[..., DEGREE]
    for k in range(DEGREE - 1, -1, -1):
        values = torch.addcmul(rows[..., k], values, x)
    log_w, value = values.unbind(-1)
    beyond = bounded - inside
    if not can_be_read(margin) or bool(beyond.any()):
        log_w = log_w + torch.where(beyond < 0.0, left * beyond, right * beyond)
        value = value + torch.where(beyond < 0.0, value_left * beyond, value_right * beyond)
    if max_margin < math.inf:
        ended = margin > max_margin
        log_w, value = torch.where(ended, -math.inf, log_w), torch.where(ended, table[-1], value)
    return log_w, value


@lru_cache(maxsize=64)
def _header_of(table: Tensor) -> list[float]:
    """Return the header of a table on another device, read once."""
    header: list[float] = table[:_HEADER].tolist()
    return header
