"""The kernels as torch operators, for devices and dtypes without compiled kernels."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.kernels.backend import ExampleError, GradientIn, Margins, Result, Wrong, can_be_read
from emphasis.kernels.batch_statistics import BatchStatistics, Likeliest, exponents, likeliest_of
from emphasis.weighting._numerics import Array, ArrayModule, log_trust_of
from emphasis.weighting._potential import MARGIN_REACH
from emphasis.weighting.margin_table import DEGREE, OCTAVES
from emphasis.weighting.options import Reduction

_HEADER = 8
_FEW = 128  # up to so many classes, exp and a sum take less time than softmax and its largest value
_CHUNK = 8192  # margins that are looked up at a time
_ONE = 0x3FF0000000000000  # the bits of 1.0


class OperatorsBackend:
    """Kernels of torch operators, which overwrite the softmax over the other classes with the derivative."""

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
        trust: tuple[float, float] = (0.0, 0.0),
    ) -> Result:
        """Return the loss of class labels and its derivative: as `Backend`."""
        parts = _parts_of(table)
        trust = parts.trust
        # The likeliest classes come first, as the derivative may overwrite the logits.
        share = None if trust[0] == 0.0 else share_of_labels(labels, factor, ignore_index)
        likeliest = None if share is None else _likeliest(logits, share)
        # Columns, of size 1 along the classes: to reshape takes as long as to compute where the batch is small.
        margin, lead, state = _columns_of_margins(logits, labels, ignore_index, gradient_in)
        ignored = state[3]
        log_w, value = _look_up_parts(parts, margin)
        factor = None if factor is None else factor.unsqueeze(1)
        if ignored is not None:
            factor = (~ignored).to(log_w.dtype) if factor is None else factor.masked_fill(ignored, 0.0)
        if likeliest is not None:
            of_labels = lead.squeeze(1).to(value.dtype)
            exponent = exponents(trust, -value.squeeze(1), of_labels, share, likeliest)
            log_trust = log_trust_of(exponent, of_labels, torch).unsqueeze(1)
            log_w, value = log_w + log_trust, value * log_trust.exp()
        loss, weight, pending_scale = _weighted(log_w, value, margin, factor, reduction, is_batch)
        loss = loss.to(margin.dtype)
        if gradient_in == "nothing":
            return Result(loss, None, 1.0)
        if logits.dtype != torch.float16:
            weight, pending_scale = weight.mul_(0.5 * pending_scale), 1.0
        else:
            weight = 0.5 * weight
        half = weight.to(margin.dtype)
        return Result(loss, _derivative(logits, half, state, gradient_in), pending_scale)

    def margins(self, logits: Tensor, labels: Tensor, ignore_index: int, gradient_in: GradientIn) -> Margins:
        """Return the margins: as `Backend`."""
        margin, lead, state = _columns_of_margins(logits, labels, ignore_index, gradient_in)
        return Margins(margin.squeeze(1), lead.squeeze(1), state)

    def batch_statistics(self, logits: Tensor, labels: Tensor, share: Tensor, ignore_index: int) -> BatchStatistics:
        """Return the statistics for weightings that depend on the batch: as `Backend`."""
        margin, lead, _ = self.margins(logits, labels, ignore_index, "new memory")
        return BatchStatistics(margin, lead, _likeliest(logits, share))

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
        return _derivative(logits, half.unsqueeze(1), state, gradient_in)

    def scale(self, gradient: Tensor, factor: Tensor, pending_scale: Tensor | float) -> Tensor:
        """Return gradient * factor * pending_scale in place: as `Backend`."""
        if isinstance(pending_scale, float) and factor.is_cpu and factor.dim() == 0:
            number = factor.item() * pending_scale
            return gradient if number == 1.0 else gradient.mul_(number)
        return gradient.mul_(factor * pending_scale)


OPERATORS = OperatorsBackend()


def power_above(number: Tensor) -> Tensor:
    """Return the smallest power of two above a positive number; 1 for 0."""
    normal = number.clamp(min=torch.finfo(number.dtype).tiny)
    return torch.where(number > 0.0, torch.exp2(torch.floor(torch.log2(normal)) + 1.0), 1.0)


def _likeliest(logits: Tensor, share: Tensor) -> Likeliest:
    """Return the likeliest class of each example, and the probability of each class in the batch."""
    top, rest, sums = likeliest_of(logits.to(torch.promote_types(logits.dtype, torch.float32)), share.unsqueeze(1))
    return Likeliest(top.squeeze(1), rest.squeeze(1), sums)


def _columns_of_margins(logits: Tensor, labels: Tensor, ignore_index: int, gradient_in: GradientIn) -> Margins:
    """Return the margins, with size 1 along the classes."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    index = labels.unsqueeze(1)
    own = _logits_of_classes(logits, index) if not 0 <= ignore_index < logits.shape[1] else None
    ignored = None
    if own is None:
        ignored = _ignored(logits, labels, ignore_index)
        if ignored is not None:
            ignored = ignored.unsqueeze(1)
            index = index.masked_fill(ignored, 0)
        own = logits.gather(1, index)
    if logits.dtype != dtype:
        others = logits.to(dtype)
    else:
        others = logits if gradient_in == "the logits" else logits.clone(memory_format=torch.contiguous_format)
    others.scatter_(1, index, -math.inf)
    peak = others.amax(1, keepdim=True)
    lead = own.to(dtype).sub_(peak)
    total = None
    if logits.shape[1] < _FEW:
        total = others.sub_(peak).exp_().sum(1, keepdim=True)
        margin = lead - total.log()
    else:
        torch.softmax(others, 1, out=others)
        margin = others.amax(1, keepdim=True).log_().add_(lead)  # the largest of them is exp(0) / sum
    state = others, total, index, ignored
    return Margins(margin if ignored is None else margin.masked_fill_(ignored, 0.0), lead, state)


def _derivative(logits: Tensor, half: Tensor, state: Any, gradient_in: GradientIn) -> Tensor:
    """Return the derivative from half weights, which have size 1 along the classes."""
    others: Tensor
    others, total, index, ignored = state
    others.mul_(half if total is None else half / total).scatter_(1, index, -half)
    if ignored is not None:
        others.masked_fill_(ignored, 0.0)  # NaN among them
    if others.dtype == logits.dtype:
        return others
    return logits.copy_(others) if gradient_in == "the logits" else others.to(logits.dtype)


def _logits_of_classes(logits: Tensor, index: Tensor) -> Tensor | None:
    """Return the labels' logits if all labels are classes and all logits finite, as far as a fast look can tell."""
    if not can_be_read(logits):
        return None
    try:
        own = logits.gather(1, index)
    except RuntimeError:  # a label is no class
        return None
    sums_are_finite = math.isfinite(logits.sum(dtype=own.dtype if own.dtype == torch.float64 else torch.float32).item())
    return own if sums_are_finite else None


def _ignored(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor | None:
    """Return which examples are ignored, or None if none is; raise ExampleError for bad values if they can be read."""
    ignored = labels == ignore_index
    if not can_be_read(logits):
        return ignored
    wrong = ((labels < 0) | (labels >= logits.shape[1])) & ~ignored
    part: Wrong = "label"
    if not wrong.any():
        wrong, part = ~logits.detach().isfinite().all(1) & ~ignored, "logits"
    if wrong.any():
        raise ExampleError(int(wrong.flatten().nonzero()[0]), part)
    return ignored if ignored.any() else None


def _weighted(
    log_w: Tensor, value: Tensor, margin: Tensor, factor: Tensor | None, reduction: Reduction, is_batch: bool
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return the loss, the weights, and a scale that the weights have to be multiplied by."""
    if is_batch:
        log_w = log_w if factor is None else log_w + factor.log()
        share = torch.softmax(log_w.flatten(), 0).nan_to_num().view(log_w.shape)
        pending_scale = power_above(share.amax())
        return _reduced(share * -F.logsigmoid(margin), reduction), share / pending_scale, pending_scale
    weight = log_w.exp_()
    if factor is None:
        if reduction == "mean":
            return value.mean(), weight, 1.0 / margin.numel()
        return _reduced(value, reduction), weight, 1.0
    if reduction != "mean":
        return _reduced(torch.where(factor == 0.0, 0.0, value * factor), reduction), weight * factor, 1.0
    largest = factor.amax()
    factor = factor / torch.where(largest == 0.0, 1.0, largest)
    total = factor.sum()
    scale_of_mean = 1.0 / torch.where(total == 0.0, 1.0, total)
    pending_scale = power_above(scale_of_mean)
    losses = torch.where(factor == 0.0, 0.0, value * (factor * scale_of_mean))
    return losses.sum(), weight * (factor * (scale_of_mean / pending_scale)), pending_scale


def _reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    return losses.squeeze(1) if reduction == "none" else losses.sum()


def share_of_labels(labels: Tensor, factor: Tensor | None, ignore_index: int) -> Tensor:
    """Return the weights of the examples in a mean over the batch, in float64 if the device has it."""
    valid = labels != ignore_index
    share = valid if factor is None else torch.where(valid, factor, 0.0)
    return share.to(torch.float32 if share.device.type == "mps" else torch.float64)


def look_up(table: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log w, L) of margins: `MarginTable.__call__`.

    Args:
        table: `MarginTable.packed`.
        margin: Margins of any shape, computed with in float64; NaN stays NaN.
    """
    return _look_up_parts(_parts_of(table), margin)


def _look_up_parts(parts: _Parts, margin: Tensor) -> tuple[Tensor, Tensor]:
    if can_be_read(margin):  # calling numpy takes less time than torch, which matters for small batches
        given, coefficients = margin.numpy().astype(np.float64, copy=False), parts.coefficients.numpy()
        magnitude, reach = np.abs(given), min(parts.max_margin, MARGIN_REACH)
        farthest = magnitude.max(initial=0.0)
        if farthest < reach or (farthest < MARGIN_REACH and given.max() < reach):  # and none is NaN
            if given.size <= _CHUNK:  # whose powers stay in the cache
                both = _look_up_inside(parts.splits, coefficients, given.ravel(), magnitude.ravel())
            else:
                both = np.empty((2, given.size))
                for start in range(0, given.size, _CHUNK):
                    part = slice(start, start + _CHUNK)
                    of_part = given.ravel()[part], magnitude.ravel()[part]
                    both[:, part] = _look_up_inside(parts.splits, coefficients, *of_part)
            log_w, value = both.reshape(2, *given.shape)
        else:
            log_w, value = _look_up(parts, coefficients, given, np)
        return torch.from_numpy(log_w), torch.from_numpy(value)
    return _look_up(parts, parts.coefficients, margin.double(), torch)


def trust_of(table: Tensor) -> tuple[float, float]:
    """Return `Weighting.trust` of a table; it is cached."""
    return _parts_of(table).trust


class _Parts(NamedTuple):
    """The parts of a packed table; coefficients are (2 * (DEGREE + 1), cells)."""

    splits: int
    max_margin: float
    slopes: tuple[float, float, float, float]
    trust: tuple[float, float]
    end: float
    coefficients: Tensor


@lru_cache(maxsize=256)
def _parts_of(table: Tensor) -> _Parts:
    splits, max_margin, *slopes, power, certainty = table[:_HEADER].tolist()
    coefficients = table[_HEADER:-1].view(-1, 2 * (DEGREE + 1)).t().contiguous()
    return _Parts(int(splits), max_margin, tuple(slopes), (power, certainty), float(table[-1]), coefficients)


def _look_up_inside(splits: int, coefficients: Array, margin: Array, magnitude: Array) -> Array:
    """Return (log w, L) of numpy's margins (N,) within the table, in half the time of `_look_up`."""
    bits = (magnitude + 1.0).view(np.int64)
    first = 1023 << splits
    cell = (bits >> (52 - splits)) + np.where(margin < 0.0, (OCTAVES << splits) - first, -first)
    x = ((bits << splits) & (2**52 - 1) | _ONE).view(np.float64) * 2.0 - 3.0
    powers = np.empty((DEGREE + 1, x.size))
    powers[0], powers[1] = 1.0, x
    for known in (1, 2, 4):
        np.multiply(powers[1 : known + 1], powers[known], out=powers[known + 1 : 2 * known + 1])
    both: Array = np.einsum("kdn,dn->kn", coefficients.take(cell, 1).reshape(2, DEGREE + 1, -1), powers)
    return both


def _look_up(parts: _Parts, coefficients: Array, margin: Array, xp: ArrayModule) -> tuple[Array, Array]:
    cells, first = OCTAVES << parts.splits, 1023 << parts.splits
    bounded = xp.clip(margin, -math.inf, parts.max_margin)
    inside = xp.clip(bounded, -MARGIN_REACH, MARGIN_REACH)
    bits = (xp.abs(inside) + 1.0).view(xp.int64)
    cell = (bits >> (52 - parts.splits)) + xp.where(inside < 0.0, cells - first, -first)
    x = (((bits << parts.splits) & (2**52 - 1)) | _ONE).view(xp.float64) * 2.0 - 3.0
    rows = coefficients[:, xp.clip(cell, 0, 2 * cells - 1)]
    square = x * x
    fourth = square * square
    powers = [xp.ones_like(x), x, square, square * x, fourth]
    powers = xp.stack([*powers, *[power * fourth for power in powers[1:]]])
    log_w, value = (rows.reshape(2, DEGREE + 1, *x.shape) * powers).sum(1)
    beyond = bounded - inside
    if xp is not np or beyond.any():
        left, right, value_left, value_right = parts.slopes
        log_w = log_w + xp.where(beyond < 0.0, left * beyond, right * beyond)
        value = value + xp.where(beyond < 0.0, value_left * beyond, value_right * beyond)
    if parts.max_margin < math.inf:
        ended = margin > parts.max_margin
        if xp is not np or ended.any():
            log_w, value = xp.where(ended, -math.inf, log_w), xp.where(ended, parts.end, value)
    return log_w, value
