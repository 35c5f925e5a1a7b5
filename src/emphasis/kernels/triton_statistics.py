"""Triton kernels for the statistics of a batch, for weightings that depend on it; `gpu` launches them.

`likeliest` computes statistics of each example, and `add_classes` sums 1 - p of each class over the examples. Partial
sums of the programs are added in a fixed order, so that results do not change from call to call.
"""

# Triton checks the arguments of a kernel: only those that it is compiled for are annotated.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from emphasis.kernels.triton_rows import VARYING
from emphasis.kernels.triton_tiles import (
    exp_of,
    jit,
    load_others,
    margin_of,
    place,
    place_of,
    read_labels,
    read_own,
    softplus_of_minus,
    tl,
)


@jit(do_not_specialize=VARYING)
def likeliest(
    logits,
    labels,
    ignore_index,
    state,
    top,
    examples,
    classes,
    inner,
    EXAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    SPATIAL: tl.constexpr,
):
    """Write the likeliest class of each example to `top` and its statistics to `state`.

    `state` has six rows: margins, NaN for bad examples; logits of the labels minus the largest other logits; the
    largest other logits; factors by which exp(other - largest) is a probability; probabilities of the labels; and 1 -
    p_max.
    """
    example, base, there = place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = read_labels(labels, example, there, classes, ignore_index)
    label_logit = read_own(logits, base, label, allowed, inner)
    peak = tl.full([EXAMPLES], float("-inf"), tl.float32)
    best = tl.zeros([EXAMPLES], tl.int32)
    sums = tl.zeros([EXAMPLES, CLASSES], tl.float32)
    for first in range(0, classes, CLASSES):
        others = load_others(logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_last")
        highest, at = tl.max(others, 1, return_indices=True)
        best = tl.where(highest > peak, first + at, best)
        higher = tl.maximum(peak, highest)
        sums = sums * tl.exp(peak - higher)[:, None] + tl.exp(others - higher[:, None])
        peak = higher
    total = tl.sum(sums, 1)
    margin, finite = margin_of(label_logit, allowed, peak, total)
    lead = label_logit.to(tl.float64) - peak.to(tl.float64)
    contradicted = allowed & (lead < 0.0)
    best = tl.where(contradicted, best, tl.where(allowed, label, 0))
    rests = tl.zeros([EXAMPLES, CLASSES], tl.float32)  # the sum without its largest term, which is 1
    for first in range(0, classes, CLASSES):
        others = load_others(logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_last")
        column = (first + tl.arange(0, CLASSES))[None, :]
        rests += tl.where(column == best[:, None], 0.0, tl.exp(others - peak[:, None]))
    own_share = exp_of(tl.minimum(lead, 0.0))
    one_minus_p = exp_of(-softplus_of_minus(-margin))
    rest = tl.where(contradicted, (tl.sum(rests, 1) + own_share) / (total + own_share), one_minus_p)
    wrong = (~ignored) & ~(allowed & finite)
    tl.store(state + example, tl.where(wrong, float("nan"), margin.to(tl.float32)), mask=there)
    tl.store(state + examples + example, tl.where(allowed & finite, lead, 0.0).to(tl.float32), mask=there)
    tl.store(state + 2 * examples + example, peak, mask=there)
    tl.store(state + 3 * examples + example, (one_minus_p / total).to(tl.float32), mask=there)
    tl.store(state + 4 * examples + example, exp_of(-softplus_of_minus(margin)).to(tl.float32), mask=there)
    tl.store(state + 5 * examples + example, rest.to(tl.float32), mask=there)
    tl.store(top + example, best.to(tl.int64), mask=there)


@jit(do_not_specialize=VARYING)
def add_classes(
    logits,
    labels,
    share,
    unit,
    ignore_index,
    state,
    top,
    parts,
    examples,
    classes,
    inner,
    tiles,
    EXAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    SPATIAL: tl.constexpr,
):
    """Write the sums over examples of share (1 - p) / unit to `parts`, one row for each program of the first axis.

    `state` and `top` are those of `likeliest` for the same examples.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    first = tl.program_id(1) * CLASSES
    column = first + tl.arange(0, CLASSES)
    over = tl.load(unit)
    over = tl.where(over > 0.0, over, 1.0)
    sums = tl.zeros([CLASSES], tl.float64)
    for tile in range(program, tiles, programs):
        example, base, there = place_of(tile, examples, classes, inner, EXAMPLES, SPATIAL)
        label, allowed, _ = read_labels(labels, example, there, classes, ignore_index)
        weight = (tl.load(share + example, mask=there, other=0.0) / over).to(tl.float32)
        peak = tl.load(state + 2 * examples + example, mask=there, other=0.0)
        by = tl.load(state + 3 * examples + example, mask=there, other=0.0)
        p = tl.load(state + 4 * examples + example, mask=there, other=0.0)
        rest = tl.load(state + 5 * examples + example, mask=there, other=0.0)
        best = tl.load(top + example, mask=there, other=-1)
        others = load_others(
            logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_first"
        )
        of_class = tl.exp(others - peak[:, None]) * by[:, None]
        of_class = tl.where(column[None, :] == label[:, None], p[:, None], of_class)
        of_rest = tl.where(column[None, :] == best[:, None], rest[:, None], 1.0 - of_class)
        counted = (allowed & (weight != 0.0))[:, None]
        sums += tl.sum(tl.where(counted, weight[:, None] * of_rest, 0.0), 0).to(tl.float64)
    tl.store(parts + program.to(tl.int64) * classes + column, sums, mask=column < classes)
