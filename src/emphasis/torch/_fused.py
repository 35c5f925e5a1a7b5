"""The fast path of the loss: kernels that overwrite the softmax with the derivative and need only one buffer.

The plain path in `_autograd` is used under torch.func, torch.jit.trace and forward-mode differentiation, and for the
second derivative. Both compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from emphasis.compatibility.torch import has_batch_dimension, in_forward_mode, transforms_are_active, view_base
from emphasis.errors import EmphasisRuntimeError, EmphasisValueError
from emphasis.kernels.backend import Backend, ExampleError, GradientIn, Result, TargetsBackend, is_watched
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import OPERATORS, power_above, share_of_labels
from emphasis.torch import _checks
from emphasis.torch._autograd import example_terms, loss_and_gradient
from emphasis.torch._options import Options

_PLAIN = (Tensor, torch.nn.Parameter)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Call(NamedTuple):
    """The arguments of a loss that are not tensors."""

    options: Options
    ignore_index: int
    backend: Backend
    inplace: bool = False


def backend_for_labels(logits: Tensor, labels: Tensor) -> Backend | None:
    """Return the kernels for these class labels, or None if the plain path is needed."""
    if not _is_concrete(logits, labels) or labels.dtype not in _INTEGERS:
        return None
    shape = logits.shape
    if len(shape) < 2:
        return None
    per_example = shape[:1] if len(shape) == 2 else shape[:1] + shape[2:]
    if labels.shape != per_example or shape[1] < 2 or not shape.numel():
        return None
    return backend_on(logits)


def backend_for_rows(logits: Tensor, labels: Tensor, options: Options) -> Backend | None:
    """Return the kernels for soft labels or for labels of one logit, or None if the plain path is needed."""
    if not _is_concrete(logits, labels) or labels.shape != logits.shape or not logits.numel():
        return None
    if logits.dim() == 1:
        hard = labels.dtype in _INTEGERS or labels.dtype == torch.bool
        if options.normalization == "batch" or not (hard or labels.is_floating_point()):
            return None
    elif not labels.is_floating_point() or logits.shape[1] < 2:
        return None
    backend = backend_on(logits)
    if labels.requires_grad or backend is OPERATORS or (logits.dim() == 1 and backend is not NATIVE):
        return None
    return None if options.tables_for(logits.device, logits.dtype) is None else backend


def _is_concrete(logits: Tensor, labels: Tensor) -> bool:
    """Return whether the memory of the tensors holds their values and operations on them are not recorded."""
    return (
        type(labels) is Tensor
        and type(logits) in _PLAIN
        and logits.dtype in _DTYPES
        and labels.device == logits.device
        and logits.layout is torch.strided
        and labels.layout is torch.strided
        and not logits.is_neg()
        and not labels.is_neg()
        and not logits.is_meta
        and not transforms_are_active()
        and not is_watched()
        and (not in_forward_mode() or forward_ad.unpack_dual(logits).tangent is None)  # type: ignore[no-untyped-call]
    )


def backend_on(tensor: Tensor) -> Backend:
    """Return the kernels for the device and dtype of a tensor."""
    if tensor.is_cpu:
        return NATIVE if NATIVE.takes(tensor.dtype) else OPERATORS
    if tensor.is_cuda:
        return _backend_on_gpu(tensor.dtype, tensor.device)
    return OPERATORS


@lru_cache(maxsize=64)
def _backend_on_gpu(dtype: torch.dtype, device: torch.device) -> Backend:
    from emphasis.kernels import gpu  # imports Triton

    return gpu.GPU if gpu.GPU.takes(dtype) and gpu.available(device) else OPERATORS


def fused_loss(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None, sample_weight: Tensor | None, call: Call
) -> Tensor:
    """Return the loss of tensors for which `backend_for_labels` or `backend_for_rows` has found kernels.

    Raises:
        TypeError, ValueError, OverflowError: See `emphasis_loss`.
    """
    options = call.options
    soft = labels.is_floating_point()
    if soft:
        labels = labels.to(_checks.arithmetic_dtype(logits))
    elif labels.dtype != torch.int64:
        labels = labels.long()
    factor = None
    if class_weight is not None or sample_weight is not None:
        if soft or logits.dim() == 1:
            classes = logits.shape[1] if logits.dim() > 1 else 2
            per_example = logits.shape[:1] + logits.shape[2:]
            ratios = options.only_ratios_matter
            class_weight = _checks.check_weight("class_weight", class_weight, torch.Size((classes,)), logits, ratios)
            factor = _checks.check_weight("sample_weight", sample_weight, per_example, logits, ratios)
            if logits.is_cpu:
                _checks.check_factor(_largest_factor(class_weight, factor), logits, options)
        else:
            factor = _checks.factor_of(
                labels, class_weight, sample_weight, logits.shape[1], logits, options.only_ratios_matter
            )
            _checks.check_factor(factor, logits, options)
            class_weight = None
    try:
        if not (logits.requires_grad and torch.is_grad_enabled()):
            return compute(logits, labels, class_weight, factor, call, "nothing").loss
        if call.inplace:
            check_inplace(logits)
        loss: Tensor = _apply(logits, labels, class_weight, factor, call)
    except ExampleError as error:
        raise _checks.example_error(error, logits, labels, call.ignore_index) from None
    return loss


def _largest_factor(class_weight: Tensor | None, factor: Tensor | None) -> Tensor:
    """Return an upper bound, (1,), of the factors of examples and classes."""
    largest = [weight.amax() for weight in (class_weight, factor) if weight is not None and weight.numel()]
    return torch.stack(largest).prod().unsqueeze(0) if largest else torch.ones(1)


def check_inplace(logits: Tensor) -> None:
    """Check that the memory of the logits may be overwritten; raise ValueError otherwise."""
    base = view_base(logits)
    if logits.is_leaf or (base is not None and base.is_leaf and base.requires_grad):
        raise EmphasisValueError(
            "inplace=True overwrites the logits, and these are a leaf tensor that requires grad, whose values are the "
            "parameters; pass a network's output, or inplace=False"
        )
    if base is not None and base.numel() != logits.numel():
        raise EmphasisValueError(
            f"inplace=True overwrites the logits, and these are a part, of shape {tuple(logits.shape)}, of a tensor of "
            f"shape {tuple(base.shape)} that may be in use; pass all of it, logits.contiguous(), or inplace=False"
        )
    if not logits.is_contiguous() and _order(logits) is None:
        raise EmphasisValueError(
            "inplace=True needs logits that fill their memory; pass logits.contiguous(), or inplace=False"
        )


def _order(tensor: Tensor) -> list[int] | None:
    """Return the order of dimensions in which a tensor is contiguous, or None if there is none."""
    strides, shape = tensor.stride(), tensor.shape
    order = sorted(range(len(shape)), key=lambda d: (-strides[d], shape[d] != 1))
    return order if tensor.permute(order).is_contiguous() else None


def compute(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None,
    factor: Tensor | None,
    call: Call,
    gradient_in: GradientIn,
) -> Result:
    """Return the loss and its derivative, of the shape of the logits, for logits of any layout.

    The kernels take contiguous (outer, C, inner). Logits that are contiguous in another order of their dimensions are
    permuted to that order, together with the labels; all others are copied.
    """
    if logits.is_contiguous() and (logits.dim() < 3 or not labels.is_floating_point()):
        return compute_rows(
            logits,
            labels if labels.is_contiguous() else labels.contiguous(),
            class_weight,
            factor if factor is None or factor.is_contiguous() else factor.contiguous(),
            call,
            gradient_in,
        )
    soft = labels.is_floating_point() and logits.dim() > 1
    order = _order(logits)
    if order is None or (soft and order[-1] != 1):  # the classes of probabilities must be adjacent in memory
        order = [d for d in range(logits.dim()) if d != 1] + [1] if soft else list(range(logits.dim()))
        gradient_in = "new memory" if gradient_in == "the logits" else gradient_in
    ordered = logits.permute(order).contiguous()
    class_dim = order.index(1) if logits.dim() > 1 else 1
    shape = ordered.shape
    rows = ordered.view(shape[:class_dim].numel(), *shape[class_dim:]) if logits.dim() > 1 else ordered
    of_examples = [d if d == 0 else d - 1 for d in order if d != 1]

    def follow(tensor: Tensor, per_class: bool) -> Tensor:
        permuted = tensor.permute(order if per_class else of_examples).contiguous()
        return permuted.view(rows.shape if per_class else rows.shape[:1] + rows.shape[2:])

    labels, factor = follow(labels, soft), None if factor is None else follow(factor, False)
    try:
        loss, gradient, pending_scale = compute_rows(rows, labels, class_weight, factor, call, gradient_in)
    except ExampleError as error:
        examples = torch.arange(logits.numel() // (logits.shape[1] if logits.dim() > 1 else 1))
        examples = examples.view([logits.shape[d] for d in range(logits.dim()) if d != 1]).permute(of_examples)
        raise ExampleError(int(examples.flatten()[error.example]), error.what) from None
    if call.options.reduction == "none":
        loss = loss.view([shape[k] for k, d in enumerate(order) if d != 1]).permute(_inverse(of_examples))
    if gradient is not None:
        gradient = gradient.view(shape).permute(_inverse(order))
    return Result(loss, gradient, pending_scale)


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def compute_rows(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None,
    factor: Tensor | None,
    call: Call,
    gradient_in: GradientIn,
) -> Result:
    """Return the loss and its derivative for contiguous tensors, as `Backend` takes them."""
    options, ignore_index, backend = call.options, call.ignore_index, call.backend
    tables = options.tables_for(logits.device, logits.dtype)
    is_batch, reduction = options.normalization == "batch", options.reduction
    if tables is None:
        valid = labels != ignore_index
        likeliest = None
        if options.weighting.trust[0]:
            share = share_of_labels(labels, factor, ignore_index)
            likeliest = backend.batch_statistics(logits, labels, share, ignore_index).likeliest
        margin, lead, state = backend.margins(logits, labels, ignore_index, gradient_in)
        loss, weight = example_terms(margin, lead, likeliest, factor, valid, options, logits.dtype)
        loss = (loss if reduction == "none" else loss.sum()).to(margin.dtype)
        if gradient_in == "nothing":
            return Result(loss, None, 1.0)
        half, pending_scale = half_weight(weight, logits.dtype, is_batch or reduction == "mean")
        half = half.to(margin.dtype)
        return Result(loss, backend.derivative(logits, labels, half, state, ignore_index, gradient_in), pending_scale)
    table = tables.packed
    trust = options.weighting.trust
    if logits.dim() == 1:
        return NATIVE.loss_of_one_logit(
            logits, labels, class_weight, factor, table, tables.near, ignore_index, reduction, gradient_in
        )
    if labels.is_floating_point():
        # `backend_for_rows` has chosen it; to ask a protocol takes as long as the loss of a small batch.
        return cast("TargetsBackend", backend).loss_of_targets(
            logits, labels, class_weight, factor, table, tables.compact, reduction, is_batch, gradient_in, trust
        )
    return backend.loss_of_labels(logits, labels, factor, table, ignore_index, reduction, is_batch, gradient_in, trust)


def half_weight(weight: Tensor, dtype: torch.dtype, is_share: bool) -> tuple[Tensor, Tensor | float]:
    """Return half the weights and a scale that they have to be multiplied by.

    In float16, shares of a batch underflow before a gradient scaler has multiplied them; the scale keeps them in range.
    """
    if dtype != torch.float16 or not is_share:
        return 0.5 * weight, 1.0
    pending_scale = power_above(weight.amax())
    return weight * (0.5 / pending_scale), pending_scale


class _FusedFunction(torch.autograd.Function):
    """The loss by kernels, as a function of (logits, labels, class_weight, factor, call)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, class_weight: Tensor | None, factor: Tensor | None, call: Call
    ) -> Tensor:
        """Compute the loss and its derivative; save the logits, without a copy, for a second call of `backward`."""
        ctx.call = call
        ctx.has_classes = logits.dim() > 1
        where: GradientIn = "the logits" if call.inplace else "new memory"
        # A derivative in the memory of the logits must not be the logits themselves, which have a history.
        given = logits.detach() if call.inplace else logits
        loss, ctx.gradient, ctx.pending_scale = compute(given, labels, class_weight, factor, call, where)
        if call.inplace:
            # An operation that saved the logits for its backward pass must detect that they have changed.
            torch.autograd.graph.increment_version(logits)
        else:
            ctx.save_for_backward(logits, labels, class_weight, factor)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the derivative times `grad_loss`, in the memory of the derivative."""
        call: Call = ctx.call
        gradient, ctx.gradient = ctx.gradient, None
        pending_scale = ctx.pending_scale
        if grad_loss.dim() and ctx.has_classes:
            grad_loss = grad_loss.unsqueeze(1)
        if torch.is_grad_enabled():  # create_graph=True
            return _differentiable(ctx, grad_loss), None, None, None, None
        if gradient is None:  # a second call
            logits, labels, class_weight, factor = _saved(ctx)
            _, gradient, pending_scale = compute(logits, labels, class_weight, factor, call, "new memory")
        if has_batch_dimension(grad_loss):  # several gradients at once (is_grads_batched): the memory cannot be reused
            ctx.gradient = gradient
            return (gradient * (grad_loss * pending_scale)).to(gradient.dtype), None, None, None, None
        return call.backend.scale(gradient, grad_loss, pending_scale), None, None, None, None


def _saved(ctx: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the arguments of the loss; raise EmphasisRuntimeError after an in-place loss, which overwrote them."""
    saved: tuple[Tensor, Tensor, Tensor | None, Tensor | None] = ctx.saved_tensors
    if not saved:
        raise EmphasisRuntimeError(
            "with inplace=True there is one backward pass, and no second derivative: the logits are gone; "
            "use inplace=False"
        )
    return saved


def _differentiable(ctx: Any, grad_loss: Tensor) -> Tensor:
    """Return the derivative times `grad_loss`, computed again by differentiable operations."""
    logits, labels, class_weight, factor = _saved(ctx)
    options, ignore_index, *_ = ctx.call
    columns, valid = logits, None
    if not ctx.has_classes:
        columns, labels = _checks.two_columns(logits, labels)
    if labels.is_floating_point():
        labels = _checks.weighted_targets(labels, class_weight)
    else:
        valid = labels != ignore_index
        labels = torch.where(valid, labels, 0)
        if class_weight is not None:
            factor = class_weight[labels] if factor is None else factor * class_weight[labels]
    gradient = loss_and_gradient(columns, labels, factor, valid, options, True)[1]
    assert gradient is not None
    return (grad_loss * (gradient if ctx.has_classes else gradient[:, 1])).to(logits.dtype)


# Function.apply looks for wrappers of torch.func, which `_is_concrete` has excluded; it takes a tenth of a small batch.
_apply: Callable[..., Any] = super(torch.autograd.Function, _FusedFunction).apply
