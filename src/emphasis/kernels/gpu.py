"""The kernels for GPUs, `triton_rows`, as a `Backend`: where there is Triton, on NVIDIA's GPUs and AMD's.

Nothing is read on the host: a label that is not allowed, or a logit that is not finite, makes the loss NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emphasis.kernels import triton_rows as kernels
from emphasis.kernels.backend import GradientIn, Margins, Result
from emphasis.kernels.triton_tiles import triton
from emphasis.weighting._potential import MARGIN_REACH
from emphasis.weighting.margin_table import DEGREE, OCTAVES
from emphasis.weighting.options import Reduction

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Classes that a program holds in registers with room for a second program on the processor, and with none.
_EASILY, _AT_MOST = 8192, 32768
# Where it reads twice: classes at a time, if the rows of all the programs at work (four or five on a processor, or one)
# are to be still in a cache the second time; and bytes of a row up to which that is so of the smaller chunk.
_CHUNK, _LARGE_CHUNK, _CACHED = 4096, 16384, 65536
# Numbers at a time where there is nothing to sum; programs that fill any device, and start in no time.
_SPAN, _MOST_PROGRAMS = 4096, 4096
# Examples whose factors one program adds up while a launch takes, and programs that do if there are more.
_FEW, _ADDERS = 8192, 64
_PARTIAL = {"SPAN": 512}  # numbers at a time where sums of programs are added up
_TABLE = {"TERMS": DEGREE + 1, "OCTAVES": OCTAVES, "REACH": MARGIN_REACH}
_OPTIONS = {"enable_fp_fusion": True}  # the default of some versions of Triton, and a warning in others


def available(device: torch.device) -> bool:
    """Return whether the kernels run on this device: on a GPU, or anywhere under Triton's interpreter."""
    return triton is not None and (device.type == "cuda" or not isinstance(kernels.fused, triton.JITFunction))


class GpuBackend:
    """Kernels in Triton. Arithmetic is in float32, and what is done once per example in float64."""

    name = "gpu"

    def __init__(self, wrap: Callable[[Any], Any] | None = None) -> None:
        """Args: wrap: What makes a kernel one that can be traced."""
        self._wrap = wrap

    def takes(self, dtype: torch.dtype) -> bool:
        """Return whether there are kernels for logits of this dtype."""
        return dtype in _DTYPES

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
        gradient = _gradient(logits, gradient_in)
        loss = logits.new_empty(labels.shape if reduction == "none" else (), dtype=torch.float32)
        defers = logits.dtype == torch.float16 and gradient is not None and (is_batch or reduction == "mean")
        pending = logits.new_empty((), dtype=torch.float64) if defers else None
        if is_batch:
            self._batch(logits, labels, factor, table, ignore_index, gradient, loss, pending)
        else:
            self._table(logits, labels, factor, table, ignore_index, gradient, loss, pending, reduction)
        return Result(loss, gradient, 1.0 if pending is None else pending)

    def _table(
        self,
        logits: Tensor,
        labels: Tensor,
        factor: Tensor | None,
        table: Tensor,
        ignore_index: int,
        gradient: Tensor | None,
        loss: Tensor,
        pending: Tensor | None,
        reduction: Reduction,
    ) -> None:
        """Compute loss and derivative where each weight stands for itself."""
        (tiles, chunks), sizes, tile = _layout(logits, once=False)
        examples, parts, work = sizes[0], 0, None
        if reduction == "sum":
            work = logits.new_zeros(1 + tiles, dtype=torch.float64)
        elif reduction == "mean":
            parts = 1 if examples <= _FEW else _ADDERS
            work = logits.new_empty(1 + 2 * parts + tiles, dtype=torch.float64)
            self._launch(kernels.count, (parts,), labels, factor, ignore_index, work, examples, SPAN=1024, **_OPTIONS)
        arguments = logits, labels, factor, table, ignore_index, gradient, loss, work, pending, *sizes
        self._launch(kernels.fused, (tiles,), *arguments, PARTS=parts, WHOLE=chunks == 1, **_PARTIAL, **_TABLE, **tile)

    def _batch(
        self,
        logits: Tensor,
        labels: Tensor,
        factor: Tensor | None,
        table: Tensor,
        ignore_index: int,
        gradient: Tensor | None,
        loss: Tensor,
        pending: Tensor | None,
    ) -> None:
        """Compute loss and derivative where weights are shares of the batch's sum."""
        (tiles, chunks), sizes, tile = _layout(logits, once=True)
        state = logits.new_empty((3, *labels.shape), dtype=torch.float32)
        work = logits.new_empty(2 + 3 * tiles + sizes[0], dtype=torch.float64)
        whole, parts, log_weights = work, work[2:], work[2 + 3 * tiles :]
        arguments: tuple[Any, ...] = logits, labels, factor, table, ignore_index, state, log_weights, parts, *sizes
        self._launch(kernels.margins, (tiles,), *arguments, **_TABLE, **tile)
        of_all, of_each = (loss, None) if loss.dim() == 0 else (None, loss)
        self._launch(kernels.add_up, (1,), parts, whole, of_all, pending, tiles, **_PARTIAL, **_OPTIONS)
        if gradient is None and of_each is None:
            return
        arguments = logits, labels, log_weights, whole, state, ignore_index, gradient, of_each, pending, *sizes
        self._launch(kernels.write, (tiles, 1 if gradient is None else chunks), *arguments, **tile)

    def margins(self, logits: Tensor, labels: Tensor, ignore_index: int, gradient_in: GradientIn) -> Margins:  # noqa: ARG002
        """Return each example's margin: as `Backend`."""
        (tiles, _), sizes, tile = _layout(logits, once=True)
        state = logits.new_empty((3, *labels.shape), dtype=torch.float32)
        arguments = logits, labels, None, None, ignore_index, state, None, None, *sizes
        self._launch(kernels.margins, (tiles,), *arguments, **_TABLE, **tile)
        return Margins(state[0], state)

    def derivative(
        self, logits: Tensor, labels: Tensor, half: Tensor, state: Any, ignore_index: int, gradient_in: GradientIn
    ) -> Tensor:
        """Return the derivative from half weights: as `Backend`."""
        grid, sizes, tile = _layout(logits, once=True)
        gradient = _gradient(logits, gradient_in)
        assert gradient is not None
        arguments = logits, labels, half.contiguous(), None, state, ignore_index, gradient, None, None, *sizes
        self._launch(kernels.write, grid, *arguments, **tile)
        return gradient

    def scale(self, gradient: Tensor, factor: Tensor, pending_scale: Tensor | float) -> Tensor:
        """Return gradient * factor * pending_scale in place: as `Backend`; a launch without memory traffic if that is 1."""
        pending = pending_scale if isinstance(pending_scale, Tensor) else None
        if any(factor.stride()):
            return gradient.mul_(factor if pending is None else factor * pending)
        size = gradient.numel()
        programs = min(-(-size // _SPAN), _MOST_PROGRAMS)
        self._launch(
            kernels.scale, (programs,), gradient, factor, pending, size, SPAN=_SPAN, num_warps=8, **_OPTIONS
        )
        return gradient

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        """Start a kernel where the first tensor is."""
        tensor: Tensor = arguments[0]
        wrapped = kernel if self._wrap is None else self._wrap(kernel)
        if wrapped is not kernel or not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
            wrapped[grid](*arguments, **options)
        else:
            with torch.cuda.device(tensor.device):
                kernel[grid](*arguments, **options)


GPU = GpuBackend()


def _gradient(logits: Tensor, gradient_in: GradientIn) -> Tensor | None:
    """Return memory for a derivative, which the kernels fill whole."""
    if gradient_in == "nothing":
        return None
    return logits if gradient_in == "the logits" else torch.empty_like(logits, memory_format=torch.contiguous_format)


def _power_from(number: int) -> int:
    """Return the power of two that is not below a positive number."""
    return 1 << (int(number) - 1).bit_length()


def _layout(logits: Tensor, once: bool) -> tuple[tuple[int, int], tuple[int, int, int], dict[str, Any]]:
    """Return how many tiles there are of examples and of classes, the sizes a kernel is told, and the tile.

    Args:
        logits: (outer, C, ...).
        once: The kernel need not come back to the logits.
    """
    outer, classes = logits.shape[:2]
    inner = logits.shape[2:].numel()
    power = _power_from(classes)
    row = classes * logits.element_size()
    # 16 or 32 numbers for each thread.
    if inner > 1:
        columns = min(power, 32)
        tile, warps = min(2048 // columns, 256, _power_from(inner)), 2
    elif power <= _EASILY or (not once and power <= _AT_MOST and row > _CACHED):
        # Every thread of a row does what there is to do for an example, so a thread has few examples.
        columns, tile = power, max(1, min(512 // power, 128 if power <= 32 else 4))
        warps = 4 if power <= 32 else 32 if power > _EASILY else max(1, min(8, power // 512))
    else:
        columns, tile = _CHUNK if once or row <= _CACHED else _LARGE_CHUNK, 1
        warps = columns // 512
    tiles = outer * -(-inner // tile) if inner > 1 else -(-outer // tile)
    structure = {"EXAMPLES": tile, "CLASSES": columns, "SPATIAL": inner > 1, "num_warps": warps, **_OPTIONS}
    return (tiles, -(-classes // columns)), (outer * inner, classes, inner), structure
