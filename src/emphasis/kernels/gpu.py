"""The kernels for GPUs, in Triton, as a `Backend`.

No value is read on the host: a label that is not allowed, or a logit that is not finite, makes the loss NaN. A small
loss takes as long as the host needs to start its kernels, so there are only a few launches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.kernels import triton_rows as kernels
from emphasis.kernels import triton_statistics
from emphasis.kernels import triton_targets as of_targets
from emphasis.kernels.backend import GradientIn, Margins, Result
from emphasis.kernels.batch_statistics import BatchStatistics, Likeliest, exponents, exponents_of_targets
from emphasis.kernels.operators import share_of_labels
from emphasis.kernels.triton_launch import start
from emphasis.kernels.triton_tiles import triton
from emphasis.weighting._potential import MARGIN_REACH
from emphasis.weighting.margin_table import (
    COMPACT_DEGREE,
    COMPACT_OCTAVES,
    COMPACT_REACH,
    COMPACT_SPLITS,
    DEGREE,
    OCTAVES,
)
from emphasis.weighting.options import Reduction

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Largest numbers of classes in registers, with room for a second program on the multiprocessor and without.
_EASILY, _AT_MOST = 8192, 32768
# Chunks of classes where rows are read twice: with the smaller one the rows of all active programs (four or five on a
# multiprocessor, or one) are cached the second time, if a row has at most so many bytes.
_CHUNK, _LARGE_CHUNK, _CACHED = 4096, 16384, 65536
_MOST_TARGETS = 1024  # the same for rows of probabilities
# Numbers at a time where nothing is summed, and number of programs that fill any device.
_SPAN, _MOST_PROGRAMS = 4096, 4096
# Examples whose factors one program sums, and number of programs that sum those of more, or of rows.
_FEW, _ADDERS = 8192, 64
_ADDERS_OF_CLASSES = 1024  # programs that sum over examples, for all chunks of classes together
_TABLE = {"TERMS": DEGREE + 1, "OCTAVES": OCTAVES, "REACH": MARGIN_REACH}
_COMPACT = {
    "CELLS": COMPACT_OCTAVES << COMPACT_SPLITS,
    "COMPACT_TERMS": COMPACT_DEGREE + 1,
    "COMPACT_SPLITS": COMPACT_SPLITS,
    "COMPACT_REACH": COMPACT_REACH,
}
_SUMS = {"SPAN": 512}  # numbers at a time where the sums of programs are added
_OPTIONS = {"enable_fp_fusion": True}  # the default of some versions of Triton, and a warning in others
_FACTORS = {"SPAN": 1024, **_OPTIONS}
_ALL_SUMS = {**_SUMS, **_OPTIONS}
_SCALE = {"SPAN": _SPAN, "num_warps": 8, **_OPTIONS}


def available(device: torch.device) -> bool:
    """Return whether the kernels run on a device: on GPUs, and everywhere in Triton's interpreter."""
    return triton is not None and (device.type == "cuda" or not isinstance(kernels.fused, triton.JITFunction))


class GpuBackend:
    """The kernels in Triton. They compute in float32, and in float64 what is computed once per example."""

    name = "gpu"

    def __init__(
        self,
        start: Callable[[Any, tuple[int, ...], tuple[Any, ...], Mapping[str, Any]], None],
        empty_number: Callable[[torch.dtype, torch.device], Tensor],
    ) -> None:
        """Create a backend.

        Args:
            start: Function (kernel, grid, arguments, options) that starts a kernel.
            empty_number: Function (dtype, device) that returns an empty scalar tensor.
        """
        self._start, self._empty_number = start, empty_number

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
        trust: tuple[float, float] = (0.0, 0.0),
    ) -> Result:
        """Return the loss of class labels and its derivative: as `Backend`."""
        device, examples = logits.device, labels.numel()
        gradient = _gradient(logits, gradient_in)
        loss, pending = self._loss_and_pending(logits, labels.shape, gradient, reduction, is_batch)
        (tiles, chunks), sizes, tile = _layout(logits, once=is_batch)
        exponent = self._exponents(trust, logits, labels, factor, ignore_index) if trust[0] else None
        given = logits, labels, factor, table, exponent, ignore_index
        if is_batch:  # states of examples; and 2 numbers, 3 for each program and 1 for each example
            state = torch.empty((3, examples), dtype=torch.float32, device=device)
            work = torch.empty(2 + 3 * tiles + examples, dtype=torch.float64, device=device)
            self._start(kernels.margins, (tiles,), (*given, state, work, *sizes), {**tile, **_TABLE})
            whole, each = (None, loss) if reduction == "none" else (loss, None)
            self._start(kernels.add_up, (1,), (work, whole, pending, tiles), _ALL_SUMS)
            if gradient is not None or each is not None:
                arguments = logits, labels, None, work, state, ignore_index, gradient, each, pending, *sizes
                self._start(kernels.write, (tiles, 1 if gradient is None else chunks), arguments, tile)
        else:
            parts, sums = 0, None
            if reduction == "sum":
                sums = torch.zeros(1 + tiles, dtype=torch.float64, device=device)
            elif reduction == "mean":
                parts = 1 if examples <= _FEW else _ADDERS
                sums = torch.empty(1 + 2 * parts + tiles, dtype=torch.float64, device=device)
                self._start(kernels.count, (parts,), (labels, factor, ignore_index, sums, examples), _FACTORS)
            options = {**tile, **_TABLE, **_SUMS, "PARTS": parts, "WHOLE": chunks == 1}
            self._start(kernels.fused, (tiles,), (*given, gradient, loss, sums, pending, *sizes), options)
        return Result(loss, gradient, 1.0 if pending is None else pending)

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
        trust: tuple[float, float] = (0.0, 0.0),
    ) -> Result:
        """Return the loss of rows of probabilities and its derivative: as `TargetsBackend`."""
        device, (examples, classes) = logits.device, logits.shape
        gradient = _gradient(logits, gradient_in)
        loss, pending = self._loss_and_pending(logits, (examples,), gradient, reduction, is_batch)
        tile = _tile_of_targets(int(classes))
        tiles = -(-examples // tile["EXAMPLES"])
        exponent = exponents_of_targets(trust, logits, targets, class_weight, factor) if trust[0] else None
        given = logits, targets, class_weight, factor, table, compact, exponent
        sizes, parts = (examples, classes), 0
        work: Tensor | None = None
        each: Tensor | None = loss
        if is_batch:
            work = torch.empty(2 + 3 * tiles + examples, dtype=torch.float64, device=device)
            whole, each = (None, loss) if reduction == "none" else (loss, None)
            options = {**tile, **_TABLE, **_COMPACT}
            self._start(of_targets.targets_log_weights, (tiles,), (*given, work, *sizes), options)
            self._start(kernels.add_up, (1,), (work, whole, pending, tiles), _ALL_SUMS)
            if gradient is None and each is None:
                return Result(loss, None, 1.0)
        elif reduction == "sum":
            work = torch.zeros(1 + tiles, dtype=torch.float64, device=device)
        elif reduction == "mean":
            parts = _ADDERS
            work = torch.empty(1 + 2 * parts + tiles, dtype=torch.float64, device=device)
            arguments = targets, class_weight, factor, work, *sizes
            self._start(of_targets.count_targets, (parts,), arguments, tile)
        options = {**tile, **_TABLE, **_COMPACT, **_SUMS, "PARTS": parts, "BATCH": is_batch}
        self._start(of_targets.targets_fused, (tiles,), (*given, gradient, each, work, pending, *sizes), options)
        return Result(loss, gradient, 1.0 if pending is None else pending)

    def batch_statistics(self, logits: Tensor, labels: Tensor, share: Tensor, ignore_index: int) -> BatchStatistics:
        """Return the statistics for weightings that depend on the batch: as `Backend`."""
        device, classes = logits.device, logits.shape[1]
        (tiles, _), sizes, tile = _layout(logits, once=True)
        state = torch.empty((6, *labels.shape), dtype=torch.float32, device=device)
        top = torch.empty(labels.shape, dtype=torch.int64, device=device)
        self._start(triton_statistics.likeliest, (tiles,), (logits, labels, ignore_index, state, top, *sizes), tile)
        tile = _tile_of_sums(int(classes), sizes[2])
        tiles = _tiles(logits, sizes, tile["EXAMPLES"])
        chunks = -(-classes // tile["CLASSES"])
        programs = min(tiles, max(1, _ADDERS_OF_CLASSES // chunks))
        parts = torch.empty((programs, classes), dtype=torch.float64, device=device)
        share = share.contiguous()
        unit = share.amax()
        arguments = logits, labels, share, unit, ignore_index, state, top, parts, *sizes, tiles
        self._start(triton_statistics.add_classes, (programs, chunks), arguments, tile)
        margin, lead, _, _, _, rest = state.unbind(0)
        return BatchStatistics(margin, lead, Likeliest(top, rest, parts.sum(0) * unit))

    def _exponents(
        self, trust: tuple[float, float], logits: Tensor, labels: Tensor, factor: Tensor | None, ignore_index: int
    ) -> Tensor:
        """Return the exponents of p / p_max for class labels, of their shape, in float64."""
        share = share_of_labels(labels, factor, ignore_index)
        margin, lead, likeliest = self.batch_statistics(logits, labels, share, ignore_index)
        return exponents(trust, F.logsigmoid(margin.double()), lead.double(), share, likeliest).contiguous()

    def _loss_and_pending(
        self,
        logits: Tensor,
        shape: tuple[int, ...],
        gradient: Tensor | None,
        reduction: Reduction,
        is_batch: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return memory for a loss, and for the pending scale if float16 needs one."""
        loss = (
            torch.empty(shape, dtype=torch.float32, device=logits.device)
            if reduction == "none"
            else self._empty_number(torch.float32, logits.device)
        )
        defers = logits.dtype == torch.float16 and gradient is not None and (is_batch or reduction == "mean")
        return loss, self._empty_number(torch.float64, logits.device) if defers else None

    def margins(self, logits: Tensor, labels: Tensor, ignore_index: int, gradient_in: GradientIn) -> Margins:  # noqa: ARG002
        """Return the margins: as `Backend`."""
        (tiles, _), sizes, tile = _layout(logits, once=True)
        state = torch.empty((3, *labels.shape), dtype=torch.float32, device=logits.device)
        arguments = logits, labels, None, None, None, ignore_index, state, None, *sizes
        self._start(kernels.margins, (tiles,), arguments, {**tile, **_TABLE})
        return Margins(state[0], state[0] + state[2].log(), state)

    def derivative(
        self, logits: Tensor, labels: Tensor, half: Tensor, state: Any, ignore_index: int, gradient_in: GradientIn
    ) -> Tensor:
        """Return the derivative from half weights: as `Backend`."""
        gradient = _gradient(logits, gradient_in)
        assert gradient is not None
        grid, sizes, tile = _layout(logits, once=True)
        arguments = logits, labels, half.contiguous(), None, state, ignore_index, gradient, None, None, *sizes
        self._start(kernels.write, grid, arguments, tile)
        return gradient

    def scale(self, gradient: Tensor, factor: Tensor, pending_scale: Tensor | float) -> Tensor:
        """Return gradient * factor * pending_scale in place: as `Backend`.

        For a single number, expanded or not, this is one launch, which does not access the gradient if the number is 1.
        """
        pending = pending_scale if isinstance(pending_scale, Tensor) else None
        if any(factor.stride()):
            return gradient.mul_(factor if pending is None else factor * pending)
        size = gradient.numel()
        grid = (min(-(-size // _SPAN), _MOST_PROGRAMS),)
        self._start(kernels.scale, grid, (gradient, factor, pending, size), _SCALE)
        return gradient


GPU = GpuBackend(start, lambda dtype, device: torch.empty((), dtype=dtype, device=device))


def _gradient(logits: Tensor, gradient_in: GradientIn) -> Tensor | None:
    """Return memory for a derivative, all of which the kernels write."""
    if gradient_in == "nothing":
        return None
    return logits if gradient_in == "the logits" else torch.empty_like(logits, memory_format=torch.contiguous_format)


# --- tiles ------------------------------------------------------------------------------------------------------------


def _layout(logits: Tensor, once: bool) -> tuple[tuple[int, int], tuple[int, int, int], Mapping[str, Any]]:
    """Return the numbers of tiles of examples and of classes, the sizes to pass to a kernel, and the tile.

    Args:
        logits: Logits (outer, C, ...).
        once: Whether the kernel reads the logits only once.
    """
    outer, classes, *rest = logits.shape
    classes, inner = int(classes), 1
    for size in rest:
        inner *= int(size)
    tile = _tile(classes, inner, logits.element_size(), once)
    examples, columns = tile["EXAMPLES"], tile["CLASSES"]
    sizes = outer * inner, classes, inner
    return (_tiles(logits, sizes, examples), -(-classes // columns)), sizes, tile


def _tiles(logits: Tensor, sizes: tuple[int, int, int], examples: int) -> int:
    """Return the number of tiles with a given number of examples."""
    inner = sizes[2]
    tiles: int = logits.shape[0] * -(-inner // examples) if inner > 1 else -(-logits.shape[0] // examples)
    return tiles


@lru_cache(maxsize=1024)
def _tile(classes: int, inner: int, itemsize: int, once: bool) -> dict[str, Any]:
    power = _power_from(classes)
    row = classes * itemsize
    # 16 or 32 numbers for each thread.
    if inner > 1:
        columns = min(power, 32)
        examples, warps = min(2048 // columns, 256, _power_from(inner)), 2
    elif power <= _EASILY or (not once and power <= _AT_MOST and row > _CACHED):
        # Every thread of a row repeats the computation for its examples, so a thread has few examples.
        columns, examples = power, max(1, min(512 // power, 128 if power <= 32 else 4))
        warps = 4 if power <= 32 else 32 if power > _EASILY else max(1, min(8, power // 512))
    else:
        columns, examples = _CHUNK if once or row <= _CACHED else _LARGE_CHUNK, 1
        warps = columns // 512
    return {"EXAMPLES": examples, "CLASSES": columns, "SPATIAL": inner > 1, "num_warps": warps, **_OPTIONS}


@lru_cache(maxsize=1024)
def _tile_of_sums(classes: int, inner: int) -> dict[str, Any]:
    """Return the tile for sums over examples: 32 numbers for each thread, some of them adjacent in memory."""
    columns = min(_power_from(classes), 32 if inner > 1 else 128)
    examples = min(4096 // columns, 128, _power_from(inner) if inner > 1 else 128)
    return {"EXAMPLES": examples, "CLASSES": columns, "SPATIAL": inner > 1, "num_warps": 4, **_OPTIONS}


@lru_cache(maxsize=1024)
def _tile_of_targets(classes: int) -> dict[str, Any]:
    """Return the tile for rows of probabilities: 2 numbers for each thread, as each needs a table look-up."""
    columns = min(_power_from(classes), _MOST_TARGETS)
    examples = max(1, 512 // columns)
    return {"EXAMPLES": examples, "CLASSES": columns, "num_warps": examples * columns // 64, **_OPTIONS}


def _power_from(number: int) -> int:
    """Return the smallest power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()
