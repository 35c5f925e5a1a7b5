"""The computation of `linear_emphasis_loss`: logits of chunks of tokens, their derivatives, and the gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from emphasis.compatibility.torch import has_batch_dimension
from emphasis.errors import EmphasisRuntimeError
from emphasis.kernels.backend import Backend, ExampleError, GradientIn, can_be_read
from emphasis.kernels.batch_statistics import Likeliest
from emphasis.kernels.operators import power_above, share_of_labels
from emphasis.torch import _checks
from emphasis.torch._autograd import denominator, example_terms, saturated_log_weight
from emphasis.torch._fused import backend_on
from emphasis.torch._options import Options, per_example_options

_NEGLIGIBLE = 0.125  # times the dtype's eps is the share of all weights that may be left out; rounding has more effect
_MOVED = 2**18  # numbers moved or added at a time, which limits the memory needed
_PARTS = 8  # largest number of parts


@dataclass(frozen=True)
class _Problem:
    """The arguments of the loss.

    Attributes:
        hidden: Hidden states of all tokens, (N, H).
        weight: Weight of the layer, (V, H).
        bias: Bias of the layer, (V,), or None.
        index: Indices of the tokens that are used, (M,).
        labels: Labels of these tokens, (M,).
        factor: Weights of these tokens, (M,), or None for 1.
        options: Options of the loss.
        ignore_index: Label of tokens that are ignored.
        chunk_size: Number of tokens in a chunk.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    index: Tensor
    labels: Tensor
    factor: Tensor | None
    options: Options
    ignore_index: int
    chunk_size: int

    @property
    def backend(self) -> Backend:
        """The kernels that compute the loss."""
        return backend_on(self.hidden)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the arithmetic."""
        return _checks.arithmetic_dtype(self.hidden)

    @property
    def valid(self) -> Tensor:
        """Whether each used token has a label, (M,) bool."""
        return self.labels != self.ignore_index


class LinearFunction(torch.autograd.Function):
    """The loss as a function of the fields of `_Problem` and of whether gradients are needed."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Compute the loss and, unless the reduction is "none", the gradients in the same sweep."""
        *tensors, ctx.settings, with_gradients = inputs
        ctx.save_for_backward(*tensors)
        ctx.wanted = tuple(needed and with_gradients for needed in ctx.needs_input_grad[:3])
        problem = _Problem(*tensors, *ctx.settings)
        ctx.gradients = ctx.weight = None
        if problem.options.reduction == "none":
            loss, ctx.weight = _losses_and_weights(problem)
        else:
            loss, ctx.gradients = _loss_and_gradients(problem, ctx.wanted)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients times `grad_loss`."""
        problem = _Problem(*ctx.saved_tensors, *ctx.settings)
        gradients, ctx.gradients = ctx.gradients, None
        if ctx.weight is not None:
            if _is_several(grad_loss):
                raise EmphasisRuntimeError(
                    'linear_emphasis_loss with reduction="none" computes one gradient at a time; for several at once '
                    "(is_grads_batched, vectorize) use emphasis_loss of the layer's logits"
                )
            gradients = _gradients_of_weights(problem, ctx.wanted, ctx.weight * grad_loss[problem.index])
            grad_loss = grad_loss.new_ones(())
        elif gradients is None:  # a second call
            gradients = _loss_and_gradients(problem, ctx.wanted)[1]
        return (*gradients.times(grad_loss, problem.hidden.dtype), None, None, None, None, None)


def _loss_and_gradients(problem: _Problem, wanted: tuple[bool, ...]) -> tuple[Tensor, _Gradients]:
    """Return the reduced loss and the gradients, in one sweep, or in two if weights depend on the whole batch."""
    if problem.options.weighting.trust[0]:
        losses, weight = _losses_and_weights(problem)
        return losses.sum(), _gradients_of_weights(problem, wanted, weight) if any(wanted) else _Gradients(
            problem, wanted
        )
    return (_batch_weights if problem.options.normalization == "batch" else _independent_weights)(problem, wanted)


def _independent_weights(problem: _Problem, wanted: tuple[bool, ...]) -> tuple[Tensor, _Gradients]:
    """Return loss and gradients where the weight of a token does not depend on the others."""
    options, ignore_index, backend = problem.options, problem.ignore_index, problem.backend
    gradients = _Gradients(problem, wanted)
    exact = torch.float32 if problem.hidden.device.type == "mps" else torch.float64
    share = problem.valid.to(exact) if problem.factor is None else torch.where(problem.valid, problem.factor, 0.0)
    if options.reduction == "mean":
        share = share / denominator(share, options)
    if len(share):  # small shares would leave the range of float16; a power of two does not cause rounding
        gradients.unit = power_above(share.amax())
    factor = share / gradients.unit
    each = per_example_options(options)
    tables = each.tables_for(problem.hidden.device, problem.hidden.dtype)
    losses = torch.zeros(len(share), dtype=problem.dtype, device=share.device)
    gradient_in: GradientIn = "the logits" if any(wanted) else "nothing"

    def derive(logits: Tensor, part: slice) -> Tensor | None:
        labels, part_factor = problem.labels[part], factor[part]
        if tables is not None:
            result = backend.loss_of_labels(
                logits, labels, part_factor, tables.packed, ignore_index, "none", False, gradient_in
            )
            losses[part] = result.loss
            return result.gradient
        margin, lead, state = backend.margins(logits, labels, ignore_index, "the logits")
        losses[part], weight = example_terms(margin, lead, None, part_factor, problem.valid[part], each, logits.dtype)
        if not any(wanted):
            return None
        half = (0.5 * weight).to(margin.dtype)
        return backend.derivative(logits, labels, half, state, ignore_index, "the logits")

    _sweep(problem, derive, gradients)
    return (losses.sum() * gradients.unit).to(problem.dtype), gradients


def _batch_weights(problem: _Problem, wanted: tuple[bool, ...]) -> tuple[Tensor, _Gradients]:
    """Return loss and gradients where weights are shares of their sum, by which derivatives are divided at the end.

    Until then the weights are in units of the largest one so far; a larger one rescales the sums.
    """
    options, ignore_index, backend = problem.options, problem.ignore_index, problem.backend
    gradients = _Gradients(problem, wanted)
    options.check_range(problem.hidden.dtype)
    margins = torch.zeros(len(problem.labels), dtype=problem.dtype, device=problem.hidden.device)
    valid, log_unit = problem.valid, margins.new_tensor(-math.inf)

    def derive(logits: Tensor, part: slice) -> Tensor | None:
        nonlocal log_unit
        labels = problem.labels[part]
        margin, _, state = backend.margins(logits, labels, ignore_index, "the logits")
        margins[part] = margin
        if not any(wanted):
            return None
        log_share = saturated_log_weight(F.logsigmoid(margin), F.logsigmoid(-margin), options, logits.dtype)
        if problem.factor is not None:
            log_share = log_share + problem.factor[part].to(margin.dtype).log()
        log_share = torch.where(valid[part] & ~(margin > options.max_margin), log_share, -math.inf)
        largest = torch.maximum(log_unit, log_share.amax())
        gradients.multiply(torch.where(largest == log_unit, 1.0, (log_unit - largest).exp()))
        log_unit = largest
        half = 0.5 * (log_share - torch.where(largest == -math.inf, 0.0, largest)).exp()
        return backend.derivative(logits, labels, half, state, ignore_index, "the logits")

    _sweep(problem, derive, gradients)
    loss, weight = example_terms(margins, margins, None, problem.factor, valid, options, problem.hidden.dtype)
    if len(weight):
        gradients.unit = weight.amax()  # exp(log_unit), after normalization
    return loss.sum(), gradients


def _losses_and_weights(problem: _Problem) -> tuple[Tensor, Tensor]:
    """Return the losses of all N tokens, and the weights of the M used ones."""
    options = problem.options
    options.check_range(problem.hidden.dtype)
    margins = torch.zeros(len(problem.labels), dtype=problem.dtype, device=problem.hidden.device)
    leads = torch.zeros_like(margins)
    ignore_index, backend = problem.ignore_index, problem.backend
    likeliest = None
    if options.weighting.trust[0]:
        sums = torch.zeros(len(problem.weight), dtype=torch.float64, device=margins.device)
        likeliest = Likeliest(torch.zeros_like(problem.labels), torch.zeros_like(margins), sums)

    def derive(logits: Tensor, part: slice) -> None:
        labels = problem.labels[part]
        if likeliest is None:
            margins[part], leads[part], _ = backend.margins(logits, labels, ignore_index, "the logits")
            return
        share = share_of_labels(labels, None if problem.factor is None else problem.factor[part], ignore_index)
        margins[part], leads[part], chunk = backend.batch_statistics(logits, labels, share, ignore_index)
        likeliest.top[part], likeliest.rest[part] = chunk.top, chunk.rest
        likeliest.sums.add_(chunk.sums)

    _sweep(problem, derive, None)
    valid = problem.valid
    losses, weight = example_terms(margins, leads, likeliest, problem.factor, valid, options, problem.hidden.dtype)
    return losses.new_zeros(len(problem.hidden)).index_copy_(0, problem.index, losses), weight


def _gradients_of_weights(problem: _Problem, wanted: tuple[bool, ...], weight: Tensor) -> _Gradients:
    """Return the gradients for given weights of tokens, (M,), of any sign; the logits are computed again."""
    backend, ignore_index = problem.backend, problem.ignore_index
    if can_be_read(weight):
        norm = _norms(problem.hidden)[problem.index]
        left_out = _Rest(problem.hidden.dtype).take(weight.abs(), norm)
        taken = torch.ones(len(weight), dtype=torch.bool).index_fill_(0, left_out, False)
        problem = replace(problem, index=problem.index[taken], labels=problem.labels[taken])
        weight = weight[taken]
    gradients = _Gradients(problem, wanted, leaves_out=False)
    if len(weight):
        gradients.unit = power_above(weight.abs().amax())
    half = (0.5 * weight / gradients.unit).to(problem.dtype)

    def derive(logits: Tensor, part: slice) -> Tensor:
        labels = problem.labels[part]
        state = backend.margins(logits, labels, ignore_index, "the logits").state
        return backend.derivative(logits, labels, half[part], state, ignore_index, "the logits")

    _sweep(problem, derive, gradients)
    return gradients


def _sweep(problem: _Problem, derive: Callable[[Tensor, slice], Tensor | None], gradients: _Gradients | None) -> None:
    """Compute the logits chunk by chunk, convert them to derivatives, and add these to the gradients.

    Args:
        problem: The arguments of the loss.
        derive: Function of the logits of a chunk and its slice that returns the derivatives, in the same memory, or
            None if they are not needed.
        gradients: Gradients that the derivatives are added to, or None.
    """
    hidden, weight, bias = problem.hidden, problem.weight, problem.bias
    total = len(problem.labels)
    buffer = hidden.new_empty(min(problem.chunk_size, total), len(weight))
    for start in range(0, total, problem.chunk_size):
        part = slice(start, min(start + problem.chunk_size, total))
        rows = hidden.index_select(0, problem.index[part])
        logits = buffer[: len(rows)]
        if bias is None:
            torch.mm(rows, weight.t(), out=logits)
        else:
            torch.addmm(bias, rows, weight.t(), out=logits)
        try:
            derivative = derive(logits, part)
        except ExampleError as error:
            raise ExampleError(int(problem.index[start + error.example]), error.what) from None
        if derivative is not None and gradients is not None:
            gradients.add(problem, derivative, rows, part)


class _Gradients:
    """Gradients of hidden, weight and bias, in units of `unit`; None for those that are not needed."""

    def __init__(self, problem: _Problem, wanted: tuple[bool, ...], leaves_out: bool = True) -> None:
        hidden, weight, bias = problem.hidden, problem.weight, problem.bias
        self.unit: Tensor | float = 1.0
        self.hidden = torch.zeros_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=problem.dtype) if wanted[1] else None
        self.bias = None if bias is None or not wanted[2] else torch.zeros_like(bias, dtype=problem.dtype)
        self._rest = _Rest(hidden.dtype) if leaves_out and can_be_read(hidden) else None

    def add(self, problem: _Problem, derivative: Tensor, rows: Tensor, part: slice) -> None:
        """Add the products of a chunk's derivatives and hidden states, without negligible tokens."""
        index = problem.index[part]
        if self._rest is not None:
            labels = problem.labels[part].clamp(0, len(problem.weight) - 1)  # rows of ignored tokens are 0
            half = derivative.gather(1, labels.unsqueeze(1)).squeeze(1).double().abs()
            left_out = self._rest.take(2.0 * half, _norms(rows))
            derivative, kept = _without(derivative, left_out)
            rows, index = rows[kept], index[kept]
        if self.hidden is not None:
            self.hidden.index_copy_(0, index, derivative @ problem.weight)
        if self.weight is not None and self.weight.dtype == rows.dtype:
            self.weight.addmm_(derivative.t(), rows)
        elif self.weight is not None:  # float32 sums of float16 or bfloat16, some classes at a time to save memory
            classes = max(_MOVED // rows.shape[1], math.ceil(len(self.weight) / _PARTS))
            for sums, columns in zip(
                torch.split(self.weight, classes), torch.split(derivative, classes, 1), strict=True
            ):
                sums.add_(columns.t() @ rows)
        if self.bias is not None:
            self.bias.add_(derivative.sum(0, dtype=self.bias.dtype))

    def multiply(self, by: Tensor) -> None:
        """Multiply the gradients."""
        if can_be_read(by) and by == 1.0:
            return
        for sums in (self.hidden, self.weight, self.bias):
            if sums is not None:
                sums.mul_(by)
        if self._rest is not None:
            self._rest.multiply(by)

    def times(self, upstream: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """Return the gradients times `upstream` in a dtype, in their own memory if it has that dtype."""
        by = upstream * self.unit
        every = (self.hidden, self.weight, self.bias)
        if _is_several(by):
            return tuple(None if g is None else (g * by).to(dtype) for g in every)
        self.multiply(by)
        return tuple(None if g is None else g.to(dtype) for g in every)


class _Rest:
    """The tokens with weights so small that they are left out of the products for the gradients.

    Over all tokens i passed to `take`, with weight w_i, the L1 norm of the derivative d_i of the logits, and hidden
    state h_i, those left out have

        sum w_i <= e * (sum of all w_i)    and    sum w_i |h_i| <= e * (sum of all w_i |h_i|),

    with e an eighth of the dtype's eps. As the Frobenius norm of d_i h_i^T is at most w_i |h_i|, that bounds what is
    left out of the gradients of weight and bias; the norm of d_i W, at most w_i max |W_j|, bounds that of hidden.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._share = _NEGLIGIBLE * torch.finfo(dtype).eps
        self._all = torch.zeros(2, 1, dtype=torch.float64)
        self._left_out = torch.zeros(2, 1, dtype=torch.float64)

    def take(self, weight: Tensor, norm: Tensor) -> Tensor:
        """Return the indices of the tokens, given by weights and norms of hidden states, that are left out."""
        mass = torch.stack((weight.double(), weight * norm))
        self._all += mass.sum(1, keepdim=True)
        order = weight.argsort()
        sums = self._left_out + mass[:, order].cumsum(1)
        count = int((sums <= self._share * self._all).all(0).sum())
        if count:
            self._left_out = sums[:, count - 1 : count]
        return order[:count]

    def multiply(self, by: Tensor) -> None:
        """Multiply the weights passed to `take`."""
        self._all *= by
        self._left_out *= by


def _without(derivative: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the other rows, in the same memory and another order, and their original indices."""
    indices = torch.arange(len(derivative))
    stays = torch.ones(len(derivative), dtype=torch.bool).index_fill_(0, left_out, False)
    kept = len(derivative) - len(left_out)
    holes, movers = (~stays[:kept]).nonzero().squeeze(1), stays[kept:].nonzero().squeeze(1) + kept
    few = max(1, _MOVED // derivative.shape[1])
    for empty, full in zip(torch.split(holes, few), torch.split(movers, few), strict=True):
        derivative[empty] = derivative[full]
    indices[holes] = movers
    return derivative[:kept], indices[:kept]


def _is_several(tensor: Tensor) -> bool:
    """Return whether a tensor holds those of several backward passes at once (is_grads_batched)."""
    return has_batch_dimension(tensor)


def _norms(hidden: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(hidden, dim=1, dtype=torch.float64)
    return norms
