"""The kernels as custom operators of PyTorch, for compiled graphs, CUDA graphs and exported programs.

`torch.ops.emphasis.loss_of_labels` takes the table of a weighting as a tensor, so that the graph needs no Python. Its
second output is the derivative, which is not differentiated: the backward pass multiplies it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from emphasis.kernels.backend import Backend, ExampleError, Result
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import trust_of
from emphasis.torch import _checks
from emphasis.torch._fused import backend_on
from emphasis.weighting.options import Reduction

_library: Any = torch.library.Library("emphasis", "DEF")  # type: ignore[no-untyped-call]
_library.define(
    "loss_of_labels(Tensor logits, Tensor labels, Tensor? factor, Tensor table, int ignore_index, str reduction, "
    "bool is_batch, bool with_gradient) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "loss_of_targets(Tensor logits, Tensor targets, Tensor? class_weight, Tensor? factor, Tensor table, "
    "Tensor? compact, str reduction, bool is_batch, bool with_gradient) -> (Tensor, Tensor, Tensor)"
)


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


def _loss_of_labels(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    table: Tensor,
    ignore_index: int,
    reduction: Reduction,
    is_batch: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    backend: Backend = backend_on(logits)
    rows, examples = logits.contiguous(), labels.contiguous()
    try:
        result = backend.loss_of_labels(
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
    return _three(result, logits)


def _loss_of_targets(
    logits: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    factor: Tensor | None,
    table: Tensor,
    compact: Tensor | None,
    reduction: Reduction,
    is_batch: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    try:
        result = NATIVE.loss_of_targets(
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
    return _three(result, logits)


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


for _device in ("CPU", "CUDA"):
    _library.impl("loss_of_labels", _loss_of_labels, _device)
_library.impl("loss_of_targets", _loss_of_targets, "CPU")
torch.library.register_fake("emphasis::loss_of_labels", _fake_labels, lib=_library)
torch.library.register_fake("emphasis::loss_of_targets", _fake_targets, lib=_library)
torch.library.register_autograd("emphasis::loss_of_labels", _backward, setup_context=_keep, lib=_library)
torch.library.register_autograd("emphasis::loss_of_targets", _backward, setup_context=_keep, lib=_library)
