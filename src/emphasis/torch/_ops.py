"""The kernels as custom operators of PyTorch, for compiled graphs, CUDA graphs and exported programs.

`torch.ops.emphasis.loss_of_labels` takes the table of a weighting as a tensor, so that the graph needs no Python. Its
second output is the derivative, which is not differentiated: the backward pass multiplies it.

Compiled graphs on the CPU use `loss_of_labels_on_cpu`, whose second output is the number of a derivative that is kept
outside of the graph until `derivative_of_labels` returns it. A graph would multiply a derivative of its own by the
incoming gradient, in new memory, even if that is 1; the multiplication takes as long as the loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from emphasis.kernels.backend import Backend, ExampleError, Result
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import trust_of
from emphasis.torch import _checks
from emphasis.torch._fused import backend_on
from emphasis.weighting.options import Reduction

_library: Any = torch.library.Library("emphasis", "DEF")  # type: ignore[no-untyped-call]
_LABELS = "Tensor logits, Tensor labels, Tensor? factor, Tensor table, int ignore_index, str reduction, bool is_batch"
_TARGETS = (
    "Tensor logits, Tensor targets, Tensor? class_weight, Tensor? factor, Tensor table, Tensor? compact, "
    "str reduction, bool is_batch"
)
_library.define(f"loss_of_labels({_LABELS}, bool with_gradient) -> (Tensor, Tensor, Tensor)")
_library.define(f"loss_of_targets({_TARGETS}, bool with_gradient) -> (Tensor, Tensor, Tensor)")
_kept: dict[int, tuple[Tensor, Tensor | float]] = {}
"""Derivatives, and the factors that they have to be multiplied by, for the backward passes of compiled graphs."""
_numbers = itertools.count()


def _three(result: Result, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a result as three tensors; an absent gradient or scale is a tensor without elements."""
    loss, gradient, pending = result
    if not _has_pending_scale(like):
        scale = like.new_empty(0)
    else:
        scale = (
            pending.float()
            if isinstance(pending, Tensor)
            else torch.full((), pending, dtype=torch.float32, device=like.device)
        )
    return loss, like.new_empty(0) if gradient is None else gradient, scale


def _has_pending_scale(logits: Tensor) -> bool:
    return logits.dtype == torch.float16 or logits.device.type != "cpu"


def _result_of_labels(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    table: Tensor,
    ignore_index: int,
    reduction: Reduction,
    is_batch: bool,
    with_gradient: bool,
) -> Result:
    backend: Backend = backend_on(logits)
    rows, examples = logits.contiguous(), labels.contiguous()
    try:
        return backend.loss_of_labels(
            rows,
            examples,
            None if factor is None else factor.contiguous(),
            table,
            ignore_index,
            reduction,
            is_batch,
            "new memory" if with_gradient else "nothing",
            trust_of(table),
        )
    except ExampleError as error:
        raise _checks.example_error(error, logits, labels, ignore_index) from None


def _result_of_targets(
    logits: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    factor: Tensor | None,
    table: Tensor,
    compact: Tensor | None,
    reduction: Reduction,
    is_batch: bool,
    with_gradient: bool,
) -> Result:
    try:
        return NATIVE.loss_of_targets(
            logits.contiguous(),
            targets.contiguous(),
            class_weight,
            None if factor is None else factor.contiguous(),
            table,
            compact,
            reduction,
            is_batch,
            "new memory" if with_gradient else "nothing",
        )
    except ExampleError as error:
        raise _checks.example_error(error, logits, targets, 0) from None


def _loss_of_labels(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _three(_result_of_labels(logits, *arguments), logits)


def _loss_of_targets(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _three(_result_of_targets(logits, *arguments), logits)


def _shapes(logits: Tensor, reduction: str, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = _checks.arithmetic_dtype(logits)
    shape = logits.shape[:1] + logits.shape[2:] if reduction == "none" else ()
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format) if with_gradient else logits.new_empty(0)
    scale = logits.new_empty((), dtype=torch.float32) if _has_pending_scale(logits) else logits.new_empty(0)
    return logits.new_empty(shape, dtype=dtype), gradient, scale


def _fake_labels(
    logits: Tensor,
    labels: Tensor,  # noqa: ARG001
    factor: Tensor | None,  # noqa: ARG001
    table: Tensor,  # noqa: ARG001
    ignore_index: int,  # noqa: ARG001
    reduction: str,
    is_batch: bool,  # noqa: ARG001
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _shapes(logits, reduction, with_gradient)


def _fake_targets(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, reduction, _, with_gradient = arguments
    return _shapes(logits, reduction, with_gradient)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, gradient, pending_scale = output
    ctx.mark_non_differentiable(gradient, pending_scale)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gradient, pending_scale)
    ctx.inputs = len(inputs)


def _backward(ctx: Any, grad_loss: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    gradient, pending_scale = ctx.saved_tensors
    if grad_loss.dim():
        grad_loss = grad_loss.unsqueeze(1)
    factor = grad_loss * pending_scale if pending_scale.numel() else grad_loss
    return ((gradient * factor).to(gradient.dtype), *[None] * (ctx.inputs - 1))


@lru_cache(maxsize=1)
def register_on_gpu() -> None:
    """Register the backward pass for the operators for GPUs, which need Triton."""
    from emphasis.kernels import gpu_ops

    for operator in (gpu_ops.loss_of_labels_on_gpu, gpu_ops.loss_of_targets_on_gpu):
        operator.register_autograd(_backward, setup_context=_keep)


# --- on the CPU, with derivatives outside of the graph ----------------------------------------------------------------


def _define_on_cpu(name: str, inputs: str, compute: Callable[..., Result], options: int) -> None:
    """Define `loss_of_NAME_on_cpu` and `derivative_of_NAME`.

    Args:
        name: "labels" or "targets".
        inputs: Arguments of both operators in the language of schemas, the logits first.
        compute: Function of these arguments and `with_gradient` that returns the loss.
        options: Number of the last arguments, which are not tensors; the first of these from the end are the reduction
            and `is_batch`.
    """

    def loss(*arguments: Any) -> tuple[Tensor, Tensor]:
        *given, with_gradient = arguments
        value, gradient, pending_scale = compute(*given, with_gradient)
        number = next(_numbers)
        token = torch.tensor([number])
        if gradient is not None:
            _kept[number] = gradient, pending_scale
            # Without a backward pass the derivative is freed together with its number.
            finalize(token, _kept.pop, number, None).atexit = False
        return value, token

    def derivative(token: Tensor, grad_loss: Tensor, *given: Any) -> Tensor:
        kept = _kept.pop(int(token), None)
        if kept is None:  # a second backward pass, or one of two that the compiler has merged
            _, gradient, pending_scale = compute(*given, True)
            assert gradient is not None
        else:
            gradient, pending_scale = kept
        factor = grad_loss.unsqueeze(1) if grad_loss.dim() else grad_loss
        return backend_on(gradient).scale(gradient, factor, pending_scale)

    def shapes_of_loss(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        *_, reduction, _, _ = arguments
        return _shapes(logits, reduction, False)[0], torch.empty(1, dtype=torch.int64)

    def shape_of_derivative(token: Tensor, grad_loss: Tensor, logits: Tensor, *_: Any) -> Tensor:  # noqa: ARG001
        return torch.empty_like(logits, memory_format=torch.contiguous_format)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        given = inputs[:-1]
        ctx.save_for_backward(output[1], *given[:-options])
        ctx.options = given[-options:]

    def backward(ctx: Any, grad_loss: Tensor, _: None) -> tuple[Tensor | None, ...]:
        token, *tensors = ctx.saved_tensors
        operator = getattr(torch.ops.emphasis, f"derivative_of_{name}")
        return operator(token, grad_loss, *tensors, *ctx.options), *[None] * (len(tensors) + options)

    of_loss, of_derivative = f"loss_of_{name}_on_cpu", f"derivative_of_{name}"
    _library.define(f"{of_loss}({inputs}, bool with_gradient) -> (Tensor, Tensor)")
    _library.define(f"{of_derivative}(Tensor token, Tensor grad_loss, {inputs}) -> Tensor")
    _library.impl(of_loss, loss, "CPU")
    _library.impl(of_derivative, derivative, "CPU")
    torch.library.register_fake(f"emphasis::{of_loss}", shapes_of_loss, lib=_library)
    torch.library.register_fake(f"emphasis::{of_derivative}", shape_of_derivative, lib=_library)
    torch.library.register_autograd(f"emphasis::{of_loss}", backward, setup_context=keep, lib=_library)


_define_on_cpu("labels", _LABELS, _result_of_labels, 3)
_define_on_cpu("targets", _TARGETS, _result_of_targets, 2)

for _device in ("CPU", "CUDA"):
    _library.impl("loss_of_labels", _loss_of_labels, _device)
_library.impl("loss_of_targets", _loss_of_targets, "CPU")
torch.library.register_fake("emphasis::loss_of_labels", _fake_labels, lib=_library)
torch.library.register_fake("emphasis::loss_of_targets", _fake_targets, lib=_library)
torch.library.register_autograd("emphasis::loss_of_labels", _backward, setup_context=_keep, lib=_library)
torch.library.register_autograd("emphasis::loss_of_targets", _backward, setup_context=_keep, lib=_library)
