"""Functions that the kernels for GPUs share: tiles of logits, sums over classes, and the table of a weighting.

A program processes a tile of examples x classes of logits (outer, C, inner); each (outer, inner) is an example. With
inner > 1 the examples of a tile are adjacent in memory, and with inner = 1 its classes are.
"""

# Triton checks the arguments of a kernel: only those that it is compiled for are annotated.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, implicit-reexport

from __future__ import annotations

from typing import Any

jit: Any
try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

    jit = triton.jit
except ImportError:  # `gpu.available` can be called without Triton
    triton = tl = None

    def jit(function: Any = None, **_: Any) -> Any:
        """Return the function as it is."""
        return function or jit


# --- tiles ------------------------------------------------------------------------------------------------------------


@jit
def place(examples, classes, inner, EXAMPLES: tl.constexpr, SPATIAL: tl.constexpr):
    """Return the examples of this program, the offsets of their class 0, and whether each exists."""
    return place_of(tl.program_id(0), examples, classes, inner, EXAMPLES, SPATIAL)


@jit
def place_of(program, examples, classes, inner, EXAMPLES: tl.constexpr, SPATIAL: tl.constexpr):
    """Return the same for the tile of a given number."""
    if SPATIAL:  # within one of `outer`, so that the tile is contiguous in memory
        tiles = tl.cdiv(inner, EXAMPLES)
        outer = tl.cast(program // tiles, tl.int64)
        within = tl.cast(program % tiles, tl.int64) * EXAMPLES + tl.arange(0, EXAMPLES)
        example = outer * inner + within
        base = outer * classes * inner + within
        there = within < inner
    else:
        example = tl.cast(program, tl.int64) * EXAMPLES + tl.arange(0, EXAMPLES)
        base = example * classes
        there = example < examples
    return example, base, there


@jit
def read_labels(labels, example, there, classes, ignore_index):
    """Return the labels, -1 for bad and ignored examples; whether each label is allowed; and whether it is ignored.

    Only examples with allowed labels are read. Labels are int32, as they are compared with every class.
    """
    label = tl.load(labels + example, mask=there, other=-1)
    ignored = label == ignore_index
    allowed = there & (label >= 0) & (label < classes) & (label != ignore_index)
    return tl.where(allowed, label, -1).to(tl.int32), allowed, ignored


@jit
def offset_of(column, inner, SPATIAL: tl.constexpr):
    """Return the offset of a class from class 0."""
    return column.to(tl.int64) * inner if SPATIAL else column


@jit
def load_others(
    logits,
    base,
    label,
    there,
    allowed,
    first,
    classes,
    inner,
    CLASSES: tl.constexpr,
    SPATIAL: tl.constexpr,
    EVICTION: tl.constexpr,
):
    """Return the logits of the other classes: -inf at the label and beyond the last class, NaN for infinite ones.

    Examples that are not read have 0 for the other classes, so that their sums are finite; they are masked at the end.
    """
    column = (first + tl.arange(0, CLASSES))[None, :]
    # With inner > 1 a mask that differs between adjacent examples would prevent vectorized loads.
    mask = (there if SPATIAL else allowed)[:, None] & (column < classes)
    at = logits + base[:, None] + offset_of(column, inner, SPATIAL)
    z = tl.load(at, mask=mask, other=0.0, eviction_policy=EVICTION).to(tl.float32)
    if SPATIAL:
        z = tl.where(allowed[:, None], z, 0.0)
    z = z * 0.0 + z  # one instruction, after which there is only one copy of the tile in registers
    return tl.where((column == label[:, None]) | (column >= classes), float("-inf"), z)


@jit
def store_all(
    out, base, label, there, at_label, value, first, classes, inner, CLASSES: tl.constexpr, SPATIAL: tl.constexpr
):
    """Write the derivative: `at_label` for the label and `value` for the other classes."""
    column = (first + tl.arange(0, CLASSES))[None, :]
    value = tl.where(column == label[:, None], at_label[:, None], value).to(out.dtype.element_ty)
    tl.store(out + base[:, None] + offset_of(column, inner, SPATIAL), value, mask=there[:, None] & (column < classes))


# --- sums over classes ------------------------------------------------------------------------------------------------


@jit
def sums_of_others(
    logits,
    base,
    label,
    there,
    allowed,
    classes,
    inner,
    EXAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    SPATIAL: tl.constexpr,
):
    """Return the largest logit of the other classes and the sum of exp(other - largest), in one sweep over classes.

    If a logit is NaN, so is the sum; the maximum skips NaN.
    """
    peak = tl.full([EXAMPLES], float("-inf"), tl.float32)
    sums = tl.zeros([EXAMPLES, CLASSES], tl.float32)
    for first in range(0, classes, CLASSES):
        others = load_others(logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_last")
        higher = tl.maximum(peak, tl.max(others, 1))
        sums = sums * tl.exp(peak - higher)[:, None] + tl.exp(others - higher[:, None])
        peak = higher
    return peak, tl.sum(sums, 1)


@jit
def read_own(logits, base, label, allowed, inner):
    """Return the logits of the labels.

    Call this before the sums: every warp of a program reads these logits, and the reductions synchronize the warps
    before the first one overwrites them with the derivative.
    """
    return tl.load(logits + base + tl.where(allowed, label, 0).to(tl.int64) * inner, mask=allowed, other=0.0)


@jit
def margin_of(label_logit, allowed, peak, total):
    """Return the float64 margin, 0 for examples that are not read or not finite, and whether it is finite."""
    # Large logits cancel, which needs float64; float32 is enough for the logarithm, a small number.
    margin = label_logit.to(tl.float64) - peak.to(tl.float64) - tl.log(total).to(tl.float64)
    finite = tl.abs(margin) < float("inf")
    return tl.where(allowed & finite, margin, 0.0), finite


# --- float64 where float32 loses precision ----------------------------------------------------------------------------


@jit
def exp_of(x):
    """Return e^x for float64 x, with a relative error of 2e-7; 0 below exp(-700)."""
    whole = tl.floor(tl.minimum(tl.maximum(x, -700.0), 700.0) * 1.4426950408889634 + 0.5)
    power = ((whole.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    value = tl.exp((x - whole * 0.6931471805599453).to(tl.float32)).to(tl.float64) * power
    return tl.where(x < -700.0, 0.0, value)


@jit
def log_one_plus(t):
    """Return log(1 + t) for float64 t from -1/2 to 1, with a relative error of 2e-9."""
    x = t / (2.0 + t)
    g = x * x
    series = 1.0 / 15.0 + g * 0.0
    for k in tl.static_range(1, 8):
        series = series * g + 1.0 / (15.0 - 2.0 * k)
    return 2.0 * x * series


@jit
def softplus_of_minus(u):
    """Return log(1 + e^-u) of float64 margins, with the relative precision of float32 where it is small."""
    return tl.maximum(-u, 0.0) + log_one_plus(exp_of(-tl.abs(u)))


@jit
def power_above(number):
    """Return the smallest power of two above a positive float64 number."""
    bits = number.to(tl.int64, bitcast=True)
    return (((bits >> 52) + 1) << 52).to(tl.float64, bitcast=True)


@jit
def look_up(table, margin, TERMS: tl.constexpr, OCTAVES: tl.constexpr, REACH: tl.constexpr):
    """Return log w, -inf beyond the largest margin, and the loss of finite float64 margins: MarginTable.__call__."""
    splits = tl.load(table).to(tl.int64)
    max_margin = tl.load(table + 1)
    ended = margin > max_margin
    margin = tl.minimum(margin, max_margin)
    inside = tl.minimum(tl.maximum(margin, -REACH), REACH)
    # The cell is the leading bits of |u| + 1, and x, from -1 to 1, the others.
    bits = (tl.abs(inside) + 1.0).to(tl.int64, bitcast=True)
    cell = (bits >> (52 - splits)) - (tl.full([], 1023, tl.int64) << splits)
    cells = tl.full([], OCTAVES, tl.int64) << splits
    cell = tl.where(inside < 0.0, cell + cells, cell)
    x = (((bits << splits) & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True) * 2.0 - 3.0
    row = table + 8 + cell * (2 * TERMS)
    log_w = tl.load(row + (TERMS - 1))
    loss = tl.load(row + (2 * TERMS - 1))
    for k in tl.static_range(2, TERMS + 1):
        log_w = log_w * x + tl.load(row + (TERMS - k))
        loss = loss * x + tl.load(row + (2 * TERMS - k))
    beyond = margin - inside
    log_w += beyond * tl.where(beyond < 0.0, tl.load(table + 2), tl.load(table + 3))
    loss += beyond * tl.where(beyond < 0.0, tl.load(table + 4), tl.load(table + 5))
    end = tl.load(table + 8 + cells * (4 * TERMS))
    return tl.where(ended, float("-inf"), log_w), tl.where(ended, end, loss)


@jit
def log_trust_of(exponents, example, there, label_logit, peak):
    """Return the log of the factor of weight and loss where the network contradicts the label."""
    lead = label_logit.to(tl.float64) - peak.to(tl.float64)
    below = tl.where(lead < 0.0, lead, 0.0)  # 0 for NaN: bad examples are masked at the end
    return tl.load(exponents + example, mask=there, other=0.0) * below
