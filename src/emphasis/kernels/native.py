"""The kernels for the CPU, in rows.c and its headers, which are called with the addresses of tensors."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from emphasis.kernels.backend import ExampleError, GradientIn, Margins, Result, Wrong
from emphasis.kernels.batch_statistics import BatchStatistics, Likeliest
from emphasis.kernels.library import library
from emphasis.weighting.options import Reduction

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_REDUCTIONS = {"mean": 1, "sum": 0, "none": -1}
_WRONG: dict[int, Wrong] = {1: "label", 2: "logits", 5: "probabilities"}
_SCALARS = [torch.zeros((), dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)]
_threads = torch.get_num_threads


class NativeBackend:
    """The kernels in C. They compute in float64 for float64 logits and in float32 otherwise."""

    name = "native"

    def takes(self, dtype: torch.dtype) -> bool:
        """Return whether there are kernels for logits of this dtype."""
        return dtype in _DTYPES and _supports(dtype)

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
        trust: tuple[float, float] = (0.0, 0.0),  # noqa: ARG002
    ) -> Result:
        """Return the loss of class labels and its derivative: as `Backend`."""
        outer, classes = logits.shape[:2]
        examples = labels.numel()
        gradient = _gradient(logits, gradient_in)
        loss = _loss(logits, labels.shape, reduction)
        scale, where = ctypes.c_double(), ctypes.c_int64()
        status = _kernels().emphasis_labels(
            _address(logits, logits.dtype, examples * classes),
            None if gradient is None else gradient.data_ptr(),
            _address(labels, torch.int64, examples),
            None if factor is None else _address(factor, torch.float64, examples),
            _address(table, torch.float64, table.numel()),
            loss.data_ptr(),
            ctypes.byref(scale),
            ctypes.byref(where),
            outer,
            classes,
            examples // outer,
            ignore_index,
            _DTYPES[logits.dtype],
            _REDUCTIONS[reduction],
            is_batch,
            logits.dtype == torch.float16,
            _threads(),
        )
        if status:
            _raise(status, where.value)
        return Result(loss, gradient, scale.value)

    def loss_of_targets(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weight: Tensor | None,
        factor: Tensor | None,
        table: Tensor,
        compact: Tensor | None,
        reduction: Reduction,
        is_batch: bool,
        gradient_in: GradientIn,
        trust: tuple[float, float] = (0.0, 0.0),  # noqa: ARG002
    ) -> Result:
        """Return the loss of rows of probabilities and its derivative: as `TargetsBackend`."""
        rows, classes = logits.shape
        gradient = _gradient(logits, gradient_in)
        loss = _loss(logits, (rows,), reduction)
        scale, where = ctypes.c_double(), ctypes.c_int64()
        status = _kernels().emphasis_targets(
            _address(logits, logits.dtype, rows * classes),
            None if gradient is None else gradient.data_ptr(),
            _address(targets, loss.dtype, rows * classes),
            None if class_weight is None else _address(class_weight, torch.float64, classes),
            None if factor is None else _address(factor, torch.float64, rows),
            _address(table, torch.float64, table.numel()),
            None if compact is None else _address(compact, torch.float32, compact.numel()),
            loss.data_ptr(),
            ctypes.byref(scale),
            ctypes.byref(where),
            rows,
            classes,
            _DTYPES[logits.dtype],
            _REDUCTIONS[reduction],
            is_batch,
            logits.dtype == torch.float16,
            _threads(),
        )
        if status:
            _raise(status, where.value)
        return Result(loss, gradient, scale.value)

    def loss_of_one_logit(
        self,
        logits: Tensor,
        labels: Tensor,
        class_weight: Tensor | None,
        factor: Tensor | None,
        table: Tensor,
        near: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        gradient_in: GradientIn,
    ) -> Result:
        """Return the loss of one logit for two classes, and its derivative.

        Args:
            logits: Contiguous logits, (N,).
            labels: Labels (N,), int64 in {0, 1} or `ignore_index`; or probabilities of class 1, float64 for float64
                logits and float32 otherwise.
            class_weight: Factors by class, (2,) float64 >= 0, or None for 1.
            factor: Weights of the examples, (N,) float64 >= 0, or None for 1.
            table: `MarginTable.packed`.
            near: `MarginTable.near`, or None.
            ignore_index: Label of examples that are ignored.
            reduction: "mean" divides by the sum of factors times class weights.
            gradient_in: "new memory" or "nothing".

        Raises:
            ExampleError: A label or probability is not allowed, or a logit is not finite.
        """
        examples = logits.numel()
        gradient = _gradient(logits, gradient_in)
        loss = _loss(logits, labels.shape, reduction)
        scale, where = ctypes.c_double(), ctypes.c_int64()
        is_hard = labels.dtype == torch.int64
        status = _kernels().emphasis_binary(
            _address(logits, logits.dtype, examples),
            None if gradient is None else gradient.data_ptr(),
            _address(labels, torch.int64, examples) if is_hard else None,
            None if is_hard else _address(labels, loss.dtype, examples),
            None if class_weight is None else _address(class_weight, torch.float64, 2),
            None if factor is None else _address(factor, torch.float64, examples),
            _address(table, torch.float64, table.numel()),
            None if near is None else _address(near, torch.float32, near.numel()),
            loss.data_ptr(),
            ctypes.byref(scale),
            ctypes.byref(where),
            examples,
            ignore_index,
            _DTYPES[logits.dtype],
            _REDUCTIONS[reduction],
            logits.dtype == torch.float16,
            _threads(),
        )
        if status:
            _raise(status, where.value)
        return Result(loss, gradient, scale.value)

    def margins(self, logits: Tensor, labels: Tensor, ignore_index: int, gradient_in: GradientIn) -> Margins:  # noqa: ARG002
        """Return the margins: as `Backend`."""
        margin, peak, total = _margins(logits, labels, ignore_index, None)
        return Margins(margin, margin + total.log(), (peak, total))

    def batch_statistics(self, logits: Tensor, labels: Tensor, share: Tensor, ignore_index: int) -> BatchStatistics:
        """Return the statistics for weightings that depend on the batch: as `Backend`."""
        top = torch.empty(labels.shape, dtype=torch.int32)
        rest = torch.empty(labels.shape, dtype=torch.float64)
        sums = torch.empty(logits.shape[1], dtype=torch.float64)
        margin, _, total = _margins(logits, labels, ignore_index, (share.contiguous(), top, rest, sums))
        return BatchStatistics(margin, margin + total.log(), Likeliest(top.clamp_(min=0).long(), rest, sums))

    def derivative(
        self, logits: Tensor, labels: Tensor, half: Tensor, state: Any, ignore_index: int, gradient_in: GradientIn
    ) -> Tensor:
        """Return the derivative from half weights: as `Backend`."""
        outer, classes = logits.shape[:2]
        examples = labels.numel()
        peak, total = state
        gradient = _gradient(logits, gradient_in)
        assert gradient is not None
        status = _kernels().emphasis_write(
            _address(logits, logits.dtype, examples * classes),
            gradient.data_ptr(),
            _address(labels, torch.int64, examples),
            _address(half.contiguous(), peak.dtype, examples),
            _address(peak, peak.dtype, examples),
            _address(total, peak.dtype, examples),
            outer,
            classes,
            examples // outer,
            ignore_index,
            _DTYPES[logits.dtype],
            _threads(),
        )
        if status:
            _raise(status, 0)
        return gradient

    def scale(self, gradient: Tensor, factor: Tensor, pending_scale: Tensor | float) -> Tensor:
        """Return gradient * factor * pending_scale in place: as `Backend`."""
        if factor.dim() == 0:
            number = factor.item() * pending_scale
            return gradient if number == 1.0 else gradient.mul_(number)
        return gradient.mul_(factor * pending_scale if pending_scale != 1.0 else factor)


NATIVE = NativeBackend()


@lru_cache(maxsize=len(_DTYPES))
def _supports(dtype: torch.dtype) -> bool:
    kernels = library()
    return kernels is not None and bool(kernels.emphasis_supports(_DTYPES[dtype]))


def _kernels() -> ctypes.CDLL:
    kernels = library()
    assert kernels is not None
    return kernels


def _margins(
    logits: Tensor, labels: Tensor, ignore_index: int, statistics: tuple[Tensor, Tensor, Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the margins, the largest of the other logits, and the sums of exp(other logit - largest).

    `statistics` is None, or the weights of the examples and tensors into which the kernel writes their likeliest class,
    1 - p_max, and the sums over classes.
    """
    outer, classes = logits.shape[:2]
    examples = labels.numel()
    margin, peak, total = (_loss(logits, labels.shape, "none") for _ in range(3))
    where = ctypes.c_int64()
    share, top, rest, sums = (None, None, None, None) if statistics is None else statistics
    status = _kernels().emphasis_margins(
        _address(logits, logits.dtype, examples * classes),
        _address(labels, torch.int64, examples),
        None if share is None else _address(share, torch.float64, examples),
        margin.data_ptr(),
        peak.data_ptr(),
        total.data_ptr(),
        None if top is None else _address(top, torch.int32, examples),
        None if rest is None else _address(rest, torch.float64, examples),
        None if sums is None else _address(sums, torch.float64, classes),
        ctypes.byref(where),
        outer,
        classes,
        examples // outer,
        ignore_index,
        _DTYPES[logits.dtype],
        _threads(),
    )
    if status:
        _raise(status, where.value)
    return margin, peak, total


def _gradient(logits: Tensor, gradient_in: GradientIn) -> Tensor | None:
    """Return memory for a derivative, all of which the kernels write."""
    if gradient_in == "nothing":
        return None
    return logits if gradient_in == "the logits" else torch.empty_like(logits)  # which is contiguous, as they are


def _loss(logits: Tensor, shape: torch.Size | tuple[int, ...], reduction: Reduction) -> Tensor:
    """Return memory for losses in the dtype of the arithmetic, independent of the default dtype."""
    scalar = _SCALARS[logits.dtype == torch.float64]
    return scalar.new_empty(shape) if reduction == "none" else torch.empty_like(scalar)


def _address(tensor: Tensor, dtype: torch.dtype, count: int) -> int:
    """Return the address of a tensor after checking what the C code does not check."""
    if tensor.dtype != dtype or tensor.numel() != count or not tensor.is_cpu or not tensor.is_contiguous():
        raise AssertionError(
            f"a kernel needs {count} contiguous numbers of {dtype} on the CPU, got {tuple(tensor.shape)} with strides "
            f"{tensor.stride()} of {tensor.dtype} on {tensor.device}"
        )
    return tensor.data_ptr()


def _raise(status: int, where: int) -> None:
    if status in _WRONG:
        raise ExampleError(where, _WRONG[status])
    raise MemoryError(f"the loss kernel failed with status {status}: no memory, or a dtype it was not built for")
