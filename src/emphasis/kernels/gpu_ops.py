"""The kernels for GPUs as operators that the compiler traces: a compiled graph contains their launches.

`torch.ops.emphasis.loss_of_labels_on_gpu` and `loss_of_targets_on_gpu` return the loss, the derivative and a scale that
the derivative has to be multiplied by. Outside of a compiler they call `GPU`. An exported program contains them by
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from emphasis.kernels.backend import Result
from emphasis.kernels.gpu import GpuBackend
from emphasis.kernels.triton_launch import start
from emphasis.kernels.triton_rows import add_up, count, fused, margins, write
from emphasis.kernels.triton_statistics import add_classes, likeliest
from emphasis.kernels.triton_targets import count_targets, targets_fused, targets_log_weights


def _backend(*traced: Any) -> GpuBackend:
    """Return a backend that starts kernels, or records their launches while they are traced.

    Args:
        traced: Results of `wrap_triton`, which the operator itself calls: the cache of compiled graphs looks there for
            kernels, the source of which is part of its key.
    """
    wrapped = {id(getattr(kernel, "kernel", kernel)): kernel for kernel in traced}

    def begin(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        launcher = wrapped[id(kernel)]
        if launcher is kernel:
            start(kernel, grid, arguments, options)
        else:
            launcher[grid](*arguments, **{name: value for name, value in options.items() if name != "enable_fp_fusion"})

    # A tensor without dimensions would be initialized by one more kernel.
    return GpuBackend(begin, lambda dtype, device: torch.empty(1, dtype=dtype, device=device).view(()))


def _three(result: Result, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a result as three tensors; an absent gradient or scale is a tensor without elements."""
    loss, gradient, pending = result
    return (
        loss,
        logits.new_empty(0) if gradient is None else gradient,
        pending if isinstance(pending, Tensor) else logits.new_empty(0),
    )


def _of_no_example(logits: Tensor, reduction: str, with_gradient: bool) -> Result:
    """Return the result for no example, for which no kernel is started."""
    shape = logits.shape[:1] + logits.shape[2:] if reduction == "none" else ()
    return Result(
        logits.new_zeros(shape, dtype=torch.float32), torch.empty_like(logits) if with_gradient else None, 1.0
    )


@triton_op("emphasis::loss_of_labels_on_gpu", mutates_args=())
def loss_of_labels_on_gpu(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    table: Tensor,
    ignore_index: int,
    reduction: str,
    is_batch: bool,
    with_gradient: bool,
    q: float = 0.0,
    doubt: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of class labels, its derivative and the scale: as `Backend.loss_of_labels`, for any strides."""
    if logits.numel() == 0:
        return _three(_of_no_example(logits, reduction, with_gradient), logits)
    backend = _backend(
        wrap_triton(count),
        wrap_triton(fused),
        wrap_triton(margins),
        wrap_triton(add_up),
        wrap_triton(write),
        wrap_triton(likeliest),
        wrap_triton(add_classes),
    )
    result = backend.loss_of_labels(
        logits.contiguous(),
        labels.contiguous(),
        None if factor is None else factor.contiguous(),
        table,
        ignore_index,
        reduction,  # type: ignore[arg-type]
        is_batch,
        "new memory" if with_gradient else "nothing",
        (q, doubt),
    )
    return _three(result, logits)


@triton_op("emphasis::loss_of_targets_on_gpu", mutates_args=())
def loss_of_targets_on_gpu(
    logits: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    factor: Tensor | None,
    table: Tensor,
    compact: Tensor | None,
    reduction: str,
    is_batch: bool,
    with_gradient: bool,
    q: float = 0.0,
    doubt: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of probabilities and the rest: as `TargetsBackend.loss_of_targets`, for any strides."""
    if logits.numel() == 0:
        return _three(_of_no_example(logits, reduction, with_gradient), logits)
    backend = _backend(
        wrap_triton(count_targets), wrap_triton(targets_fused), wrap_triton(targets_log_weights), wrap_triton(add_up)
    )
    result = backend.loss_of_targets(
        logits.contiguous(),
        targets.contiguous(),
        class_weight,
        None if factor is None else factor.contiguous(),
        table,
        compact,
        reduction,  # type: ignore[arg-type]
        is_batch,
        "new memory" if with_gradient else "nothing",
        (q, doubt),
    )
    return _three(result, logits)
