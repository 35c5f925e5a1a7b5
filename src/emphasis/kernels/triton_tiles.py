"""What the kernels for GPUs share: a tile of logits, the sums over its classes, a weighting's table.

A program takes a tile of examples x classes of logits (outer, C, inner); an example is one (outer, inner). With
inner > 1 a tile's examples are neighbours in memory, with inner = 1 its classes are.
"""

# What a kernel takes is Triton's to check: only what it is compiled for is annotated.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, implicit-reexport

from __future__ import annotations

from typing import Any

jit: Any
try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

    jit = triton.jit
except ImportError:  # `gpu.available` can be asked where there is no Triton
    triton = tl = None

    def jit(function: Any = None, **_: Any) -> Any:
        """Return the function as it is."""
        return function or jit


# --- tiles ------------------------------------------------------------------------------------------------------------


@jit
def place(examples, classes, inner, EXAMPLES: tl.constexpr, SPATIAL: tl.constexpr):
    """Return this program's examples, where each one's class 0 is, and which of them there are."""
    return place_of(tl.program_id(0), examples, classes, inner, EXAMPLES, SPATIAL)


@jit
def place_of(program, examples, classes, inner, EXAMPLES: tl.constexpr, SPATIAL: tl.constexpr):
    """Return the same of a tile's number, which need not be the program's."""
    if SPATIAL:  # within one of `outer`, so that neighbours in the tile are neighbours in memory
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
    """Return each example's label, -1 if it has none; whether its label is allowed, and whether it is ignored.

    Only where it is allowed is an example read. int32, for it is compared with every class.
    """
    label = tl.load(labels + example, mask=there, other=-1)
    ignored = label == ignore_index
    allowed = there & (label >= 0) & (label < classes) & (label != ignore_index)
    return tl.where(allowed, label, -1).to(tl.int32), allowed, ignored


@jit
def offset_of(column, inner, SPATIAL: tl.constexpr):
    """Return how far from class 0 a class is."""
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
    """Return the logits of the others: -inf at the label and where there is no class, NaN for one that is not finite.

    An example that is not read has 0 for others, so that its sums are finite: it is set apart in the end.
    """
    column = (first + tl.arange(0, CLASSES))[None, :]
    # With inner > 1 a mask that differs from neighbor to neighbor would make every load a load of one number.
    mask = (there if SPATIAL else allowed)[:, None] & (column < classes)
    at = logits + base[:, None] + offset_of(column, inner, SPATIAL)
    z = tl.load(at, mask=mask, other=0.0, eviction_policy=EVICTION).to(tl.float32)
    if SPATIAL:
        z = tl.where(allowed[:, None], z, 0.0)
    z = z * 0.0 + z  # one instruction, and it leaves a single copy of the tile in registers
    return tl.where((column == label[:, None]) | (column >= classes), float("-inf"), z)


@jit
def store_all(
    out, base, label, there, at_label, value, first, classes, inner, CLASSES: tl.constexpr, SPATIAL: tl.constexpr
):
    """Write the derivative: at_label for the label, value for the others."""
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
    """Return peak, the largest of the others, and total, the sum of exp(other - peak), in one sweep over classes.

    The total, not the peak, is NaN if a logit is: a maximum skips NaN.
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

    To be called before the sums: every warp of a program needs them, and the reductions are what keeps the first warp
    from writing the derivative over them before the last has them.
    """
    return tl.load(logits + base + tl.where(allowed, label, 0).to(tl.int64) * inner, mask=allowed, other=0.0)


@jit
def margin_of(own, allowed, peak, total):
    """Return the float64 margin, 0 for an example that is not read or not finite, and whether it is finite."""
    # Large logits cancel here, so in float64; the logarithm is a small number, and float32 enough for it.
    margin = own.to(tl.float64) - peak.to(tl.float64) - tl.log(total).to(tl.float64)
    finite = tl.abs(margin) < float("inf")
    return tl.where(allowed & finite, margin, 0.0), finite


# --- float64 where digits would be lost -------------------------------------------------------------------------------


@jit
def exp_of(x):
    """Return e^x for float64 x, to 2e-7 of itself; 0 below exp(-700)."""
    whole = tl.floor(tl.minimum(tl.maximum(x, -700.0), 700.0) * 1.4426950408889634 + 0.5)
    power = ((whole.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    value = tl.exp((x - whole * 0.6931471805599453).to(tl.float32)).to(tl.float64) * power
    return tl.where(x < -700.0, 0.0, value)


@jit
def log_one_plus(t):
    """Return log(1 + t) for float64 t from -1/2 to 1, to 2e-9 of itself."""
    x = t / (2.0 + t)
    g = x * x
    series = 1.0 / 15.0 + g * 0.0
    for k in tl.static_range(1, 8):
        series = series * g + 1.0 / (15.0 - 2.0 * k)
    return 2.0 * x * series


@jit
def softplus_of_minus(u):
    """Return log(1 + e^-u) of float64 margins, with all of float32's digits where it is small."""
    return tl.maximum(-u, 0.0) + log_one_plus(exp_of(-tl.abs(u)))


@jit
def power_above(number):
    """Return the power of two next above a positive float64 number."""
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
def log_trust_of(exponents, example, there, own, peak):
    """Return the log of what weight and loss are multiplied by where the network contradicts the label."""
    lead = own.to(tl.float64) - peak.to(tl.float64)
    below = tl.where(lead < 0.0, lead, 0.0)  # 0 for NaN: that example is set apart in the end
    return tl.load(exponents + example, mask=there, other=0.0) * below
