"""The kernels for class labels on GPUs, in Triton; `gpu` launches them.

They are compiled on first use for each dtype and layout, never for a hyperparameter.

Nothing is read on the host, so nothing waits for the device: what is wrong with an example (its label, a logit that is
not finite) makes its loss and derivative NaN. Where a tile holds all classes the logits are read once, else twice, the
second time from a cache.

A mean takes two launches: `count` adds up the factors, and `fused` writes the derivative divided by their sum, so that
what `scale` has to multiply it by is nearly always 1. A batch takes three: `margins` leaves log-weights, `add_up` sums
their exponentials, and `write` writes the derivative. Sums over examples are of partial sums, one for each program, in
their order: the same from call to call.
"""

# What a kernel takes is Triton's to check: only what it is compiled for is annotated.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from emphasis.kernels.triton_tiles import (
    exp_of,
    jit,
    load_others,
    log_trust_of,
    look_up,
    margin_of,
    place,
    power_above,
    read_labels,
    read_own,
    softplus_of_minus,
    store_all,
    sums_of_others,
    tl,
)

VARYING = ["examples", "ignore_index", "size", "tiles"]  # a kernel compiled anew for some of their values gains nothing


# --- what a mean divides by -------------------------------------------------------------------------------------------


@jit(do_not_specialize=VARYING)
def count(labels, factor, ignore_index, work, examples, SPAN: tl.constexpr):
    """Leave in `work` a 0, each program's largest factor of examples that count, and their sum over that one."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    start, step = program.to(tl.int64) * SPAN, programs.to(tl.int64) * SPAN
    most = tl.zeros([SPAN], tl.float64)
    total = tl.zeros([SPAN], tl.float64)
    if factor is None:
        for first in range(start, examples, step):
            example = first + tl.arange(0, SPAN)
            label = tl.load(labels + example, mask=example < examples, other=ignore_index)
            total += tl.where(label == ignore_index, 0.0, 1.0)
        most = tl.minimum(total, 1.0)
        unit = tl.max(most, 0)
    else:
        for first in range(start, examples, step):
            most = tl.maximum(most, counted(labels, factor, ignore_index, first + tl.arange(0, SPAN), examples))
        unit = tl.max(most, 0)
        over = tl.where(unit == 0.0, 1.0, unit)
        for first in range(start, examples, step):
            total += counted(labels, factor, ignore_index, first + tl.arange(0, SPAN), examples) / over
    tl.store(work + 1 + program, unit)
    tl.store(work + 1 + programs + program, tl.sum(total, 0))
    tl.store(work, 0.0, mask=program == 0)


@jit
def counted(labels, factor, ignore_index, example, examples):
    """Return the factors of examples, 0 for ignored ones."""
    there = example < examples
    label = tl.load(labels + example, mask=there, other=ignore_index)
    return tl.where(label == ignore_index, 0.0, tl.load(factor + example, mask=there, other=0.0))


@jit
def unit_and_scale(work, PARTS: tl.constexpr):
    """Return what `count` found: the largest factor, 1 for none, and one over the sum of all of them over that one."""
    part = tl.arange(0, PARTS)
    most = tl.load(work + 1 + part)
    unit = tl.max(most, 0)
    unit = tl.where(unit == 0.0, 1.0, unit)
    total = tl.sum(tl.load(work + 1 + PARTS + part) * (most / unit), 0)
    return unit, 1.0 / tl.where(total == 0.0, 1.0, total)


@jit
def add_up_losses(work, parts, scale, loss, SPAN: tl.constexpr):
    """Add up what every program has left in `parts`, times scale, if this is the last of them to come here.

    work: Its first number counts the programs that were here.
    """
    tl.debug_barrier()
    programs = tl.num_programs(0)
    if tl.atomic_add(work, 1.0, sem="acq_rel") == programs - 1:
        total = tl.zeros([SPAN], tl.float64)
        for first in range(0, programs, SPAN):
            part = first + tl.arange(0, SPAN)
            # Not from this processor's own cache, which what others wrote does not reach.
            total += tl.load(parts + part, mask=part < programs, other=0.0, cache_modifier=".cg")
        tl.store(loss, (tl.sum(total, 0) * scale).to(tl.float32))


# --- loss and derivative in one ---------------------------------------------------------------------------------------


@jit(do_not_specialize=VARYING)
def fused(
    logits,
    labels,
    factor,
    table,
    exponents,
    ignore_index,
    out,
    loss,
    work,
    pending,
    examples,
    classes,
    inner,
    TERMS: tl.constexpr,
    OCTAVES: tl.constexpr,
    REACH: tl.constexpr,
    PARTS: tl.constexpr,
    SPAN: tl.constexpr,
    EXAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    SPATIAL: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Loss and derivative. No example's logits are written before all of them have been read.

    exponents: None, or of p / p_max, by which each example's weight and loss are multiplied.
    work: None for the loss of each example. Else a 0, what `count` left in PARTS programs, if any, and room for a sum
        of each program's; the loss is the sum of all, or the mean where PARTS > 0.
    pending: None, or room for a power of two by which the derivative is still to be multiplied.
    """
    example, base, there = place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = read_labels(labels, example, there, classes, ignore_index)
    own = read_own(logits, base, label, allowed, inner)
    if WHOLE:
        others = load_others(logits, base, label, there, allowed, 0, classes, inner, CLASSES, SPATIAL, "evict_first")
        peak = tl.max(others, 1)
        share = tl.exp(others - peak[:, None])
        total = tl.sum(share, 1)
    else:
        peak, total = sums_of_others(logits, base, label, there, allowed, classes, inner, EXAMPLES, CLASSES, SPATIAL)
    margin, finite = margin_of(own, allowed, peak, total)
    log_w, value = look_up(table, margin, TERMS, OCTAVES, REACH)
    if exponents is not None:
        log_trust = log_trust_of(exponents, example, there, own, peak)
        log_w += log_trust
        value *= exp_of(log_trust)
    weight = exp_of(log_w)
    unit, scale = 1.0, 1.0
    if PARTS > 0:
        unit, scale = unit_and_scale(work, PARTS)
        weight *= scale
    if pending is not None:
        power = power_above(scale)
        weight /= power
        tl.store(pending, power, mask=tl.program_id(0) == 0)
    if factor is not None:
        example_factor = tl.load(factor + example, mask=there, other=0.0) / unit
        weight *= example_factor
        value *= example_factor
    wrong = (~ignored) & ~(allowed & finite)
    value = tl.where(wrong, float("nan"), tl.where(ignored, 0.0, value))
    if work is None:
        tl.store(loss + example, value.to(tl.float32), mask=there)
    else:
        tl.store(work + 1 + 2 * PARTS + tl.program_id(0), tl.sum(tl.where(there, value, 0.0), 0))
    if out is not None:
        half = tl.where(wrong, float("nan"), tl.where(ignored, 0.0, 0.5 * weight).to(tl.float32))
        ratio = (half / total)[:, None]
        if WHOLE:
            store_all(out, base, label, there, -half, share * ratio, 0, classes, inner, CLASSES, SPATIAL)
        else:
            chunks = tl.cdiv(classes, CLASSES)
            for chunk in range(chunks):  # backwards: what was read last is the likeliest to be in a cache
                first = (chunks - 1 - chunk) * CLASSES
                others = load_others(
                    logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_first"
                )
                share = tl.exp(others - peak[:, None]) * ratio
                store_all(out, base, label, there, -half, share, first, classes, inner, CLASSES, SPATIAL)
    if work is not None:
        add_up_losses(work, work + 1 + 2 * PARTS, scale, loss, SPAN)


# --- the same in steps ------------------------------------------------------------------------------------------------


@jit(do_not_specialize=VARYING)
def margins(
    logits,
    labels,
    factor,
    table,
    exponents,
    ignore_index,
    state,
    work,
    examples,
    classes,
    inner,
    TERMS: tl.constexpr,
    OCTAVES: tl.constexpr,
    REACH: tl.constexpr,
    EXAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    SPATIAL: tl.constexpr,
):
    """The first half of `fused`.

    state: Gets all margins, all peaks, both NaN for a wrong example, and all totals.
    table: None for these alone, and then there is no work. Else `work` gets, after room for 2 numbers, what `add_up`
        needs of each program, and then the examples' log-weights.
    """
    example, base, there = place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = read_labels(labels, example, there, classes, ignore_index)
    own = read_own(logits, base, label, allowed, inner)
    peak, total = sums_of_others(logits, base, label, there, allowed, classes, inner, EXAMPLES, CLASSES, SPATIAL)
    margin, finite = margin_of(own, allowed, peak, total)
    wrong = (~ignored) & ~(allowed & finite)
    peaks = state + examples
    tl.store(state + example, tl.where(wrong, float("nan"), margin.to(tl.float32)), mask=there)
    tl.store(peaks + example, tl.where(wrong, float("nan"), peak), mask=there)
    tl.store(peaks + examples + example, total, mask=there)
    if table is not None:
        log_w, _ = look_up(table, margin, TERMS, OCTAVES, REACH)
        if exponents is not None:
            log_w += log_trust_of(exponents, example, there, own, peak)
        if factor is not None:
            log_w += log_of_factor(factor, example, there)
        log_w = tl.where(wrong, float("nan"), tl.where(ignored, float("-inf"), log_w))
        tl.store(log_weights_in(work) + example, log_w, mask=there)
        store_parts(work + 2, tl.where(there, log_w, float("-inf")), softplus_of_minus(margin))


@jit
def log_of_factor(factor, example, there):
    """Return the logarithm of the examples' factors."""
    example_factor = tl.load(factor + example, mask=there, other=1.0)
    return tl.where(example_factor == 0.0, float("-inf"), tl.log(tl.where(example_factor == 0.0, 1.0, example_factor)))


@jit
def log_weights_in(work):
    """Return where they are: after 2 numbers for all programs, and 3 for each."""
    return work + 2 + 3 * tl.num_programs(0)


@jit
def store_parts(parts, log_w, value):
    """Leave the largest log-weight of this program's examples, their sum of weights over that one, and that of losses.

    value: The loss of each for a weight of 1.
    """
    most = tl.max(tl.where(log_w == log_w, log_w, float("-inf")), 0)  # NaN goes to the sum
    weight = weight_over(log_w, most)
    at, programs = parts + tl.program_id(0), tl.num_programs(0)
    tl.store(at, most)
    tl.store(at + programs, tl.sum(weight, 0))
    tl.store(at + 2 * programs, tl.sum(tl.where(weight > 0.0, weight * value, 0.0), 0))


@jit
def weight_over(log_w, most):
    """Return exp(log_w - most), 0 for -inf."""
    return tl.where(log_w == float("-inf"), 0.0, exp_of(log_w - tl.where(most == float("-inf"), 0.0, most)))


@jit(do_not_specialize=VARYING)
def add_up(work, loss, pending, tiles, SPAN: tl.constexpr):
    """Add up what as many programs of `margins` left in `work` as there are tiles: one program.

    work: Gets first the largest log-weight of all, and one over the sum of all weights over that one, 0 if none counts.
    loss: None, or room for the loss of all.
    pending: None, or room for a power of two, the next above the largest share.
    """
    parts = work + 2
    most = tl.full([SPAN], float("-inf"), tl.float64)
    for first in range(0, tiles, SPAN):
        part = first + tl.arange(0, SPAN)
        most = tl.maximum(most, tl.load(parts + part, mask=part < tiles, other=float("-inf")))
    peak = tl.max(most, 0)
    weights = tl.zeros([SPAN], tl.float64)
    losses = tl.zeros([SPAN], tl.float64)
    for first in range(0, tiles, SPAN):
        part = first + tl.arange(0, SPAN)
        there = part < tiles
        weight = weight_over(tl.load(parts + part, mask=there, other=float("-inf")), peak)
        weights += weight * tl.load(parts + tiles + part, mask=there, other=0.0)
        losses += weight * tl.load(parts + 2 * tiles + part, mask=there, other=0.0)
    total = tl.sum(weights, 0)
    share = tl.where(total == 0.0, 0.0, 1.0 / tl.where(total == 0.0, 1.0, total))
    tl.store(work, peak)
    tl.store(work + 1, share)
    if loss is not None:
        tl.store(loss, (tl.sum(losses, 0) * share).to(tl.float32))
    if pending is not None:
        tl.store(pending, power_above(tl.where(total == 0.0, 1.0, share)))


@jit(do_not_specialize=VARYING)
def write(
    logits,
    labels,
    halves,
    work,
    state,
    ignore_index,
    out,
    loss,
    pending,
    examples,
    classes,
    inner,
    EXAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    SPATIAL: tl.constexpr,
):
    """The second half of `fused`, one chunk of classes a program.

    halves: Half the weights. Or None with `work`, whose log-weights `add_up` has seen: weights are shares of their sum
        then, and `loss` gets each example's, unless None; out may be None, too.
    """
    example, base, there = place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = read_labels(labels, example, there, classes, ignore_index)
    peaks = state + examples
    peak = tl.load(peaks + example, mask=there, other=0.0)
    if work is None:
        half = tl.load(halves + example, mask=there, other=0.0)
    else:
        log_w = tl.load(log_weights_in(work) + example, mask=there, other=float("-inf"))
        share = weight_over(log_w, tl.load(work)) * tl.load(work + 1)
        if loss is not None:
            margin = tl.load(state + example, mask=there, other=0.0).to(tl.float64)
            value = tl.where(share == 0.0, 0.0, share * softplus_of_minus(margin)).to(tl.float32)
            if tl.program_id(1) == 0:
                tl.store(loss + example, value, mask=there)
        if pending is not None:
            share /= tl.load(pending)
        half = (0.5 * share).to(tl.float32)
    if out is not None:
        half = tl.where(peak == peak, half, float("nan"))  # NaN is what `margins` left of a wrong example
        half = tl.where(ignored, 0.0, half)
        ratio = (half / tl.load(peaks + examples + example, mask=there, other=1.0))[:, None]
        first = tl.program_id(1) * CLASSES
        others = load_others(
            logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_first"
        )
        class_share = tl.exp(others - peak[:, None]) * ratio
        store_all(out, base, label, there, -half, class_share, first, classes, inner, CLASSES, SPATIAL)


@jit(do_not_specialize=VARYING)
def scale(gradient, factor, pending, size, SPAN: tl.constexpr):
    """Multiply everything by one number, which is nearly always 1: then nothing but that number is read."""
    number = tl.load(factor).to(tl.float32)
    if pending is not None:
        number = (number * tl.load(pending)).to(tl.float32)
    if number != 1.0:
        start = tl.program_id(0).to(tl.int64) * SPAN
        for first in range(start, size, tl.num_programs(0).to(tl.int64) * SPAN):
            at = first + tl.arange(0, SPAN)
            value = tl.load(gradient + at, mask=at < size, other=0.0).to(tl.float32) * number
            tl.store(gradient + at, value.to(gradient.dtype.element_ty), mask=at < size)
