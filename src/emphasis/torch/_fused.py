"""The fast path of the loss: kernels that leave the derivative where the softmax was, one buffer in all.

Taken for integer labels outside torch.compile and torch.func; the plain path in `_autograd` does all else, and the
second derivative. Both compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from emphasis.errors import EmphasisRuntimeError, EmphasisValueError
from emphasis.kernels import ExampleError, native, operators
from emphasis.torch import _checks
from emphasis.torch._autograd import loss_and_gradient, weigh_examples
from emphasis.torch._options import Options

_PLAIN = (Tensor, torch.nn.Parameter)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def kernels_for(logits: Tensor, labels: Tensor) -> ModuleType | None:
    """Return the module whose kernels take these tensors, None if the plain path must."""
    if type(labels) is not Tensor or type(logits) not in _PLAIN or labels.dtype not in _INTEGERS:
        return None
    if not logits.is_floating_point():
        return None
    shape = logits.shape
    if len(shape) < 2:
        return None
    per_example = shape[:1] if len(shape) == 2 else shape[:1] + shape[2:]
    if labels.shape != per_example or shape[1] < 2 or not shape.numel() or labels.device != logits.device:
        return None
    if torch._C._are_functorch_transforms_active():
        return None
    return kernels_on(logits)


def kernels_on(tensor: Tensor) -> ModuleType:
    """Return the module whose kernels run on this device and in this dtype."""
    if tensor.is_cpu:
        return native if tensor.dtype in native.DTYPES and native.available() else operators
    if tensor.is_cuda:
        return _kernels_of_gpu(tensor.dtype, tensor.device)
    return operators


@lru_cache(maxsize=64)
def _kernels_of_gpu(dtype: torch.dtype, device: torch.device) -> ModuleType:
    from emphasis.kernels import gpu  # imports Triton

    return gpu if dtype in gpu.DTYPES and gpu.available(device) else operators


def fused_loss(
    logits: Tensor,
    labels: Tensor,
    options: Options,
    ignore_index: int,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    inplace: bool,
    kernels: ModuleType,
) -> Tensor:
    """Return the loss of tensors that `kernels_for` has found kernels for.

    Raises:
        TypeError, ValueError, OverflowError: As `emphasis_loss`.
    """
    if labels.dtype != torch.int64:
        labels = labels.long()
    factor = None
    if class_weight is not None or sample_weight is not None:
        factor = _checks.factor_of(labels, class_weight, sample_weight, logits.shape[1], logits)
    if kernels is operators:
        _checks.check_classes(labels, logits.shape[1], ignore_index)
        _checks.check_finite(logits, labels != ignore_index)
    try:
        if not (logits.requires_grad and torch.is_grad_enabled()):
            return _compute(logits, labels, factor, options, ignore_index, None, kernels)[0]
        if inplace:
            check_inplace(logits)
        loss: Tensor = _apply(logits, labels, factor, (options, ignore_index, inplace, kernels))
    except ExampleError as error:
        raise _checks.example_error(error, logits, labels, ignore_index) from None
    return loss


def check_inplace(logits: Tensor) -> None:
    """Raise ValueError if writing the derivative into the logits would destroy what somebody needs."""
    base = logits._base
    if logits.is_leaf or (base is not None and base.is_leaf and base.requires_grad):
        raise EmphasisValueError(
            "inplace=True overwrites the logits, and these are a leaf tensor that requires grad, whose values are the "
            "parameters; pass a network's output, or inplace=False"
        )
    if base is not None and base.numel() != logits.numel():
        raise EmphasisValueError(
            f"inplace=True overwrites the logits, and these are a part, of shape {tuple(logits.shape)}, of a tensor of "
            f"shape {tuple(base.shape)} that others may read; pass the whole, or logits.contiguous(), or inplace=False"
        )
    if _rows(logits) is None:
        raise EmphasisValueError(
            "inplace=True needs logits that are contiguous; pass logits.contiguous(), or inplace=False"
        )


def _rows(logits: Tensor) -> Tensor | None:
    """Return a contiguous view, (outer, C, ...) with one example for each (outer, ...); None if there is none."""
    if logits.is_contiguous():
        return logits
    last = logits.movedim(1, -1)
    return last.view(-1, logits.shape[1]) if last.is_contiguous() else None


def _compute(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    options: Options,
    ignore_index: int,
    out: Tensor | None,
    kernels: ModuleType,
) -> tuple[Tensor, Tensor | float]:
    """Return the loss, write the derivative to `out`, and return what that is still to be multiplied by."""
    rows = _rows(logits)
    if rows is None:
        rows = logits.contiguous()
    target = None if out is None else _rows(out)
    flat = labels if labels.is_contiguous() else labels.contiguous()
    if rows is not logits and rows.shape[:1] + rows.shape[2:] != labels.shape:  # channels last
        flat = flat.view(-1)
        factor = None if factor is None else factor.reshape(-1)
    defer = out is not None and out.dtype == torch.float16
    of_batch = options.normalization == "batch"
    table = None if kernels is operators or (of_batch and kernels is not native) else options.table
    if table is not None and of_batch:
        loss, still = native.loss_and_derivative(
            rows, flat, factor, table, ignore_index, target, options.reduction, defer, of_batch
        )
    elif table is not None:
        loss, still = kernels.loss_and_derivative(
            rows, flat, factor, table, ignore_index, target, options.reduction, defer
        )
    else:
        options.check_range(_checks.arithmetic_dtype(logits))
        valid = flat != ignore_index
        margin, state = kernels.margins(rows, flat, ignore_index, target)
        loss, weight = weigh_examples(margin, factor, valid, options)
        loss = loss if options.reduction == "none" else loss.sum()
        still = 1.0
        if target is not None:
            still = options.deferred(target.dtype, margin.numel())
            kernels.write_derivative(rows, flat, weight * (0.5 / still), state, ignore_index, target)
    return loss.view(labels.shape) if options.reduction == "none" else loss, still


class _FusedFunction(torch.autograd.Function):
    """(logits, labels, factor, (options, ignore_index, inplace, kernels)) -> loss."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        factor: Tensor | None,
        settings: tuple[Options, int, bool, ModuleType],
    ) -> Tensor:
        """Compute loss and derivative; the logits are kept, without a copy, for a second call of `backward`."""
        options, ignore_index, inplace, kernels = ctx.settings = settings
        ctx.gradient = logits.detach() if inplace else torch.empty_like(logits)
        loss, ctx.still = _compute(logits, labels, factor, options, ignore_index, ctx.gradient, kernels)
        if inplace:
            # An operation that kept the logits for its own backward pass must find out that they are gone.
            torch.autograd.graph.increment_version(logits)
        else:
            ctx.save_for_backward(logits, labels, factor)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return grad_loss times the derivative, in the derivative's own memory."""
        gradient, ctx.gradient = ctx.gradient, None
        if grad_loss.dim():
            grad_loss = grad_loss.unsqueeze(1)
        if torch.is_grad_enabled():  # create_graph=True
            return _differentiable(ctx, grad_loss), None, None, None
        options, ignore_index, _, kernels = ctx.settings
        still = ctx.still
        if gradient is None:  # a second call
            logits, labels, factor = _saved(ctx)
            gradient = torch.empty_like(logits)
            _, still = _compute(logits, labels, factor, options, ignore_index, gradient, kernels)
        return kernels.scale(gradient, grad_loss, still), None, None, None


def _saved(ctx: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logits, labels and factor, which are no more after an in-place loss."""
    saved: tuple[Tensor, Tensor, Tensor | None] = ctx.saved_tensors
    if not saved:
        raise EmphasisRuntimeError(
            "with inplace=True there is one backward pass, and no second derivative: the logits are gone; "
            "use inplace=False"
        )
    return saved


def _differentiable(ctx: Any, grad_loss: Tensor) -> Tensor:
    """Return grad_loss times the derivative, made again by operations that have a derivative."""
    logits, labels, factor = _saved(ctx)
    options, ignore_index, *_ = ctx.settings
    valid = labels != ignore_index
    gradient = loss_and_gradient(logits, torch.where(valid, labels, 0), factor, valid, options, True)[1]
    assert gradient is not None
    return (grad_loss * gradient).to(logits.dtype)


# Function.apply first looks for torch.func's wrappers, of which `kernels_for` has found none: a tenth of a small batch.
_apply: Callable[..., Any] = super(torch.autograd.Function, _FusedFunction).apply
