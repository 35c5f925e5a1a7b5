"""The kernels for GPUs, in Triton: compiled on first use for each dtype and layout, never for a hyperparameter.

Nothing is read on the host, so nothing waits for the device: what is wrong with an example (its label, a logit that is
not finite) makes its loss and derivative NaN. logits are (outer, C, inner), an example is one (outer, inner).

A program takes a tile of examples x classes. Where a tile holds all classes the logits are read once, else twice, the
second time from a cache. With inner > 1 a tile's examples are neighbours in memory, with inner = 1 its classes are.
"""

# What a kernel takes is Triton's to check: only what it is compiled for is annotated.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from emphasis.weighting._potential import MARGIN_REACH
from emphasis.weighting.margin_table import DEGREE, MarginTable

_jit: Any
try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

    _jit = triton.jit
except ImportError:  # `available` can be asked where there is no Triton
    triton = None

    def _jit(function: Any = None, **_: Any) -> Any:
        return function or _jit


State = tuple[Tensor, Tensor]

# Classes that a program holds in registers with room for a second program on the processor, and with none.
_EASILY, _AT_MOST = 8192, 32768
# Where it reads twice: classes at a time, if the rows of all the programs at work (four or five on a processor, or one)
# are to be still in a cache the second time; and bytes of a row up to which that is so of the smaller chunk.
_CHUNK, _LARGE_CHUNK, _CACHED = 4096, 16384, 65536
# Numbers at a time where there is nothing to sum; programs that fill any device, and start in no time.
_SPAN, _MOST_PROGRAMS = 4096, 4096
_TABLE = {"TERMS": DEGREE + 1, "REACH": MarginTable.REACH, "MARGIN_REACH": MARGIN_REACH}
_OPTIONS = {"enable_fp_fusion": True}  # the default of some versions of Triton, and a warning in others
_VARYING = ["examples", "ignore_index", "size"]  # a kernel compiled anew for some of their values gains nothing


def available(device: torch.device) -> bool:
    """Return whether the kernels run on this device: on a GPU, or anywhere under Triton's interpreter."""
    return triton is not None and (device.type == "cuda" or not isinstance(_fused, triton.JITFunction))


# --- what a tile is ---------------------------------------------------------------------------------------------------


@_jit
def _place(examples, classes, inner, EXAMPLES: tl.constexpr, SPATIAL: tl.constexpr):
    """Return this program's examples, where each one's class 0 is, and which of them there are."""
    program = tl.program_id(0)
    if SPATIAL:  # within one of `outer`, so that neighbours in the tile are neighbours in memory
        tiles = tl.cdiv(inner, EXAMPLES)
        outer = (program // tiles).to(tl.int64)
        within = (program % tiles).to(tl.int64) * EXAMPLES + tl.arange(0, EXAMPLES)
        example = outer * inner + within
        base = outer * classes * inner + within
        there = within < inner
    else:
        example = program.to(tl.int64) * EXAMPLES + tl.arange(0, EXAMPLES)
        base = example * classes
        there = example < examples
    return example, base, there


@_jit
def _labels(labels, example, there, classes, ignore_index):
    """Return each example's label, -1 if it has none; whether its label is allowed, and whether it is ignored.

    Only where it is allowed is an example read. int32, for it is compared with every class.
    """
    label = tl.load(labels + example, mask=there, other=-1)
    ignored = label == ignore_index
    allowed = there & (label >= 0) & (label < classes) & (label != ignore_index)
    return tl.where(allowed, label, -1).to(tl.int32), allowed, ignored


@_jit
def _offset(column, inner, SPATIAL: tl.constexpr):
    """Return how far from class 0 a class is."""
    return column.to(tl.int64) * inner if SPATIAL else column


@_jit
def _load(
    logits, base, label, there, allowed, first, classes, inner,
    CLASSES: tl.constexpr, SPATIAL: tl.constexpr, EVICTION: tl.constexpr,
):  # fmt: skip
    """Return the logits of the others: -inf at the label and where there is no class, NaN for one that is not finite.

    An example that is not read has 0 for others, so that its sums are finite: it is set apart in the end.
    """
    column = (first + tl.arange(0, CLASSES))[None, :]
    # With inner > 1 a mask that differs from neighbour to neighbour would make every load a load of one number.
    mask = (there if SPATIAL else allowed)[:, None] & (column < classes)
    place = logits + base[:, None] + _offset(column, inner, SPATIAL)
    z = tl.load(place, mask=mask, other=0.0, eviction_policy=EVICTION).to(tl.float32)
    if SPATIAL:
        z = tl.where(allowed[:, None], z, 0.0)
    z = z * 0.0 + z  # one instruction, and it leaves a single copy of the tile in registers
    return tl.where((column == label[:, None]) | (column >= classes), float("-inf"), z)


@_jit
def _store(out, base, label, there, half, share, first, classes, inner, CLASSES: tl.constexpr, SPATIAL: tl.constexpr):
    """Write the derivative: -half at the label, its share of half elsewhere."""
    column = (first + tl.arange(0, CLASSES))[None, :]
    value = tl.where(column == label[:, None], -half[:, None], share).to(out.dtype.element_ty)
    tl.store(out + base[:, None] + _offset(column, inner, SPATIAL), value, mask=there[:, None] & (column < classes))


# --- per example ------------------------------------------------------------------------------------------------------


@_jit
def _sums(
    logits, base, label, there, allowed, classes, inner,
    EXAMPLES: tl.constexpr, CLASSES: tl.constexpr, SPATIAL: tl.constexpr,
):  # fmt: skip
    """Return peak, the largest of the others, and total, the sum of exp(other - peak), in one sweep over classes.

    The total, not the peak, is NaN if a logit is: a maximum skips NaN.
    """
    peak = tl.full([EXAMPLES], float("-inf"), tl.float32)
    sums = tl.zeros([EXAMPLES, CLASSES], tl.float32)
    for first in range(0, classes, CLASSES):
        others = _load(logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_last")
        higher = tl.maximum(peak, tl.max(others, 1))
        sums = sums * tl.exp(peak - higher)[:, None] + tl.exp(others - higher[:, None])
        peak = higher
    return peak, tl.sum(sums, 1)


@_jit
def _own(logits, base, label, allowed, inner):
    """Return the logits of the labels.

    To be called before the sums: every warp of a program needs them, and the reductions are what keeps the first warp
    from writing the derivative over them before the last has them.
    """
    return tl.load(logits + base + tl.where(allowed, label, 0).to(tl.int64) * inner, mask=allowed, other=0.0)


@_jit
def _margin(own, allowed, peak, total):
    """Return the float64 margin, 0 for an example that is not read or not finite, and whether it is finite."""
    # Large logits cancel here, so in float64; the logarithm is a small number, and float32 enough for it.
    margin = own.to(tl.float64) - peak.to(tl.float64) - tl.log(total).to(tl.float64)
    finite = tl.abs(margin) < float("inf")
    return tl.where(allowed & finite, margin, 0.0), finite


@_jit
def _arcsinh(u):
    """Return arcsinh(u), |u| <= 2e4, to 1e-9.

    float64 matters (t is multiplied by up to |u| in log w), and what it costs does too: every thread of a program does
    this, at a fraction of float32's speed. So float32 guesses, each with one Newton step, in place of sqrt, / and log.
    """
    size = tl.abs(u)
    square = size * size + 1.0
    guess = tl.rsqrt(square.to(tl.float32)).to(tl.float64)
    root = square * guess
    root += 0.5 * guess * (square - root * root)
    # log(size + root): exponent apart from mantissa, and the series of log((1+f) / (1-f)) for that.
    bits = (size + root).to(tl.int64, bitcast=True)
    exponent = ((bits >> 52) - 1023).to(tl.int32)
    mantissa = ((bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    high = mantissa > 1.4142135623730951
    mantissa = tl.where(high, 0.5 * mantissa, mantissa)
    exponent = tl.where(high, exponent + 1, exponent)
    guess = (1.0 / (mantissa + 1.0).to(tl.float32)).to(tl.float64)
    f = (mantissa - 1.0) * guess
    f += guess * ((mantissa - 1.0) - f * (mantissa + 1.0))
    g = f * f
    series = 1.0 + g * (1.0 / 3 + g * (1.0 / 5 + g * (1.0 / 7 + g * (1.0 / 9))))
    t = exponent.to(tl.float64) * 0.6931471805599453 + 2.0 * f * series
    return tl.where(u < 0.0, -t, t)


@_jit
def _exp(x):
    """Return e^x for float64 x, to 2e-7 of itself; 0 below exp(-700)."""
    whole = tl.floor(tl.minimum(tl.maximum(x, -700.0), 700.0) * 1.4426950408889634 + 0.5)
    power = ((whole.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    value = tl.exp((x - whole * 0.6931471805599453).to(tl.float32)).to(tl.float64) * power
    return tl.where(x < -700.0, 0.0, value)


@_jit
def _look_up(table, margin, TERMS: tl.constexpr, REACH: tl.constexpr, MARGIN_REACH: tl.constexpr):
    """Return the weight and the loss of finite float64 margins: MarginTable.__call__."""
    cells = tl.load(table).to(tl.int32)
    max_margin = tl.load(table + 1)
    ended = margin > max_margin
    margin = tl.minimum(margin, max_margin)
    inside = tl.minimum(tl.maximum(margin, -MARGIN_REACH), MARGIN_REACH)
    position = (_arcsinh(inside) + REACH) * (cells.to(tl.float64) * (0.5 / REACH))
    cell = tl.minimum(tl.maximum(position.to(tl.int32), 0), cells - 1)
    x = 2.0 * (position - cell.to(tl.float64)) - 1.0
    row = table + 6 + cell * (2 * TERMS)
    log_w = tl.load(row + (TERMS - 1))
    loss = tl.load(row + (2 * TERMS - 1))
    for k in tl.static_range(2, TERMS + 1):
        log_w = log_w * x + tl.load(row + (TERMS - k))
        loss = loss * x + tl.load(row + (2 * TERMS - k))
    beyond = margin - inside
    log_w += beyond * tl.where(beyond < 0.0, tl.load(table + 2), tl.load(table + 3))
    loss += beyond * tl.where(beyond < 0.0, tl.load(table + 4), tl.load(table + 5))
    end = tl.load(table + 6 + cells * (2 * TERMS))
    return tl.where(ended, 0.0, _exp(log_w)), tl.where(ended, end, loss)


# --- kernels ----------------------------------------------------------------------------------------------------------


@_jit(do_not_specialize=_VARYING)
def _fused(
    logits, labels, factor, scale, table, ignore_index, out, loss, examples, classes, inner,
    TERMS: tl.constexpr, REACH: tl.constexpr, MARGIN_REACH: tl.constexpr,
    EXAMPLES: tl.constexpr, CLASSES: tl.constexpr, SPATIAL: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Loss and derivative. No example's logits are written before all of them have been read."""
    example, base, there = _place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = _labels(labels, example, there, classes, ignore_index)
    own = _own(logits, base, label, allowed, inner)
    if WHOLE:
        others = _load(logits, base, label, there, allowed, 0, classes, inner, CLASSES, SPATIAL, "evict_first")
        peak = tl.max(others, 1)
        share = tl.exp(others - peak[:, None])
        total = tl.sum(share, 1)
    else:
        peak, total = _sums(logits, base, label, there, allowed, classes, inner, EXAMPLES, CLASSES, SPATIAL)
    margin, finite = _margin(own, allowed, peak, total)
    weight, value = _look_up(table, margin, TERMS, REACH, MARGIN_REACH)
    if factor is not None:
        of_each = tl.load(factor + example, mask=there, other=0.0).to(tl.float64)
        weight *= of_each
        value *= of_each
    if scale is not None:
        of_all = tl.load(scale).to(tl.float64)
        weight *= of_all
        value *= of_all
    wrong = (~ignored) & ~(allowed & finite)
    value = tl.where(wrong, float("nan"), tl.where(ignored, 0.0, value).to(tl.float32))
    tl.store(loss + example, value, mask=there)
    if out is not None:
        half = tl.where(wrong, float("nan"), tl.where(ignored, 0.0, 0.5 * weight).to(tl.float32))
        ratio = (half / total)[:, None]
        if WHOLE:
            _store(out, base, label, there, half, share * ratio, 0, classes, inner, CLASSES, SPATIAL)
        else:
            chunks = tl.cdiv(classes, CLASSES)
            for chunk in range(chunks):  # backwards: what was read last is the likeliest to be in a cache
                first = (chunks - 1 - chunk) * CLASSES
                others = _load(
                    logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_first"
                )
                share = tl.exp(others - peak[:, None]) * ratio
                _store(out, base, label, there, half, share, first, classes, inner, CLASSES, SPATIAL)


@_jit(do_not_specialize=_VARYING)
def _margins(
    logits, labels, ignore_index, margins, peaks, totals, examples, classes, inner,
    EXAMPLES: tl.constexpr, CLASSES: tl.constexpr, SPATIAL: tl.constexpr,
):  # fmt: skip
    """The first half of `_fused`."""
    example, base, there = _place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = _labels(labels, example, there, classes, ignore_index)
    own = _own(logits, base, label, allowed, inner)
    peak, total = _sums(logits, base, label, there, allowed, classes, inner, EXAMPLES, CLASSES, SPATIAL)
    margin, finite = _margin(own, allowed, peak, total)
    wrong = (~ignored) & ~(allowed & finite)
    tl.store(margins + example, tl.where(wrong, float("nan"), margin.to(tl.float32)), mask=there)
    tl.store(peaks + example, tl.where(wrong, float("nan"), peak), mask=there)
    tl.store(totals + example, total, mask=there)


@_jit(do_not_specialize=_VARYING)
def _write(
    logits, labels, halves, peaks, totals, ignore_index, out, examples, classes, inner,
    EXAMPLES: tl.constexpr, CLASSES: tl.constexpr, SPATIAL: tl.constexpr,
):  # fmt: skip
    """The second half of `_fused`, one chunk of classes a program."""
    example, base, there = _place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = _labels(labels, example, there, classes, ignore_index)
    peak = tl.load(peaks + example, mask=there, other=0.0)
    half = tl.load(halves + example, mask=there, other=0.0)
    half = tl.where(peak == peak, half, float("nan"))  # NaN is what `_margins` left of a wrong example
    half = tl.where(ignored, 0.0, half)
    ratio = (half / tl.load(totals + example, mask=there, other=1.0))[:, None]
    first = tl.program_id(1) * CLASSES
    others = _load(logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_first")
    share = tl.exp(others - peak[:, None]) * ratio
    _store(out, base, label, there, half, share, first, classes, inner, CLASSES, SPATIAL)


@_jit(do_not_specialize=_VARYING)
def _scale(gradient, factor, size, SPAN: tl.constexpr):
    """Multiply everything by one number, which is nearly always 1: then nothing but that number is read."""
    number = tl.load(factor).to(tl.float32)
    if number != 1.0:
        start = tl.program_id(0).to(tl.int64) * SPAN
        for first in range(start, size, tl.num_programs(0).to(tl.int64) * SPAN):
            place = first + tl.arange(0, SPAN)
            value = tl.load(gradient + place, mask=place < size, other=0.0).to(tl.float32) * number
            tl.store(gradient + place, value.to(gradient.dtype.element_ty), mask=place < size)


# --- launches ---------------------------------------------------------------------------------------------------------


def _layout(logits: Tensor, once: bool) -> tuple[tuple[int, int], tuple[int, int, int], dict[str, Any]]:
    """Return how many tiles there are of examples and of classes, the sizes a kernel is told, and the tile.

    Args:
        logits: (outer, C, inner).
        once: The kernel need not come back to the logits.
    """
    outer, classes, inner = logits.shape
    power = triton.next_power_of_2(classes)
    row = classes * logits.element_size()
    # 16 or 32 numbers for each thread.
    if inner > 1:
        columns = min(power, 32)
        tile, warps = min(2048 // columns, 256, triton.next_power_of_2(inner)), 2
    elif power <= _EASILY or (not once and power <= _AT_MOST and row > _CACHED):
        # Every thread of a row does what there is to do for an example, so a thread has few examples.
        columns, tile = power, max(1, min(512 // power, 128 if power <= 32 else 4))
        warps = 4 if power <= 32 else 32 if power > _EASILY else max(1, min(8, power // 512))
    else:
        columns, tile = _CHUNK if once or row <= _CACHED else _LARGE_CHUNK, 1
        warps = columns // 512
    tiles = outer * triton.cdiv(inner, tile) if inner > 1 else triton.cdiv(outer, tile)
    structure = {"EXAMPLES": tile, "CLASSES": columns, "SPATIAL": inner > 1, "num_warps": warps, **_OPTIONS}
    return (tiles, triton.cdiv(classes, columns)), (outer * inner, classes, inner), structure


def _device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which kernels start where the tensor is."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def loss_and_derivative(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    scale: Tensor | None,
    table: Tensor,
    ignore_index: int,
    out: Tensor | None,
) -> Tensor:
    """Return each example's loss, scale * factor * L(u), and write its derivative to `out`.

    Args:
        logits: (outer, C, inner), contiguous: float32, bfloat16 or float16.
        labels: (outer, inner) int64. Neither in [0, C) nor `ignore_index`: loss and derivative are NaN, as they are
            where a logit is not finite.
        factor: (outer, inner) float32 weights of the examples, or None for 1.
        scale: () float32, on the device, or None for 1.
        table: `MarginTable.packed`, float64, on the device.
        ignore_index: Label of examples without loss and derivative, which are not read either.
        out: Like the logits; may be the logits; None for the loss alone.

    Returns:
        (outer, inner) float32.
    """
    (tiles, chunks), sizes, tile = _layout(logits, once=False)
    loss = torch.empty(labels.shape, dtype=torch.float32, device=logits.device)
    labels = labels.contiguous()
    factor = None if factor is None else factor.contiguous()
    tile |= {"WHOLE": chunks == 1, **_TABLE}
    with _device(logits):
        _fused[(tiles,)](logits, labels, factor, scale, table, ignore_index, out, loss, *sizes, **tile)
    return loss


def margins(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, State]:
    """Return each example's margin (0 for ignored ones, NaN for wrong ones), and what `write_derivative` needs.

    Args:
        logits: As in `loss_and_derivative`, like all the others.
        labels: (outer, inner) int64.
        ignore_index: Label of examples that do not count.
    """
    (tiles, _), sizes, tile = _layout(logits, once=True)
    margin, peak, total = (torch.empty(labels.shape, dtype=torch.float32, device=logits.device) for _ in range(3))
    with _device(logits):
        _margins[(tiles,)](logits, labels.contiguous(), ignore_index, margin, peak, total, *sizes, **tile)
    return margin, (peak, total)


def write_derivative(
    logits: Tensor, labels: Tensor, half: Tensor, state: State, ignore_index: int, out: Tensor
) -> None:
    """Write dz_y = -half, dz_j = half * q_j to `out`, which may be the logits; 0 for ignored, NaN for wrong examples.

    Args:
        logits: As given to `margins`, like labels and ignore_index.
        labels: (outer, inner) int64.
        half: (outer, inner) float32, half the weights.
        state: What `margins` returned.
        ignore_index: Label of examples that do not count.
        out: Like the logits.
    """
    grid, sizes, tile = _layout(logits, once=True)
    labels, half = labels.contiguous(), half.contiguous()
    with _device(logits):
        _write[grid](logits, labels, half, *state, ignore_index, out, *sizes, **tile)


def scale_in_place(gradient: Tensor, factor: Tensor) -> None:
    """Multiply the gradient, (outer, C, inner) and contiguous, by () or (outer, inner) float32.

    One number equal to 1, also one expanded to every example, costs a launch and no memory traffic.
    """
    if any(factor.stride()):
        gradient.mul_(factor.unsqueeze(1))
        return
    size = gradient.numel()
    with _device(gradient):
        programs = min(triton.cdiv(size, _SPAN), _MOST_PROGRAMS)
        _scale[(programs,)](gradient, factor, size, SPAN=_SPAN, num_warps=8, **_OPTIONS)
