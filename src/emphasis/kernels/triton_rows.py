"""The kernels for class labels on GPUs, in Triton; `gpu` launches them.

They are compiled on first use for each dtype and layout, but not for each hyperparameter.

No value is read on the host, so nothing waits for the device: a bad label, or a logit that is not finite, makes the
loss and derivative of its example NaN. If a tile contains all classes the logits are read once, otherwise twice, the
second time from a cache.

A mean takes two launches: `count` sums the factors, and `fused` writes the derivative divided by their sum, so that
`scale` nearly always has to multiply it by 1. A batch takes three: `margins` writes log-weights, `add_up` sums their
exponentials, and `write` writes the derivative. Partial sums of the programs are added in a fixed order, so that
results do not change from call to call.
"""

# Triton checks the arguments of a kernel: only those that it is compiled for are annotated.
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

VARYING = ["examples", "ignore_index", "size", "tiles"]  # specializing kernels for their values has no benefit


# --- the denominator of a mean ----------------------------------------------------------------------------------------


@jit(do_not_specialize=VARYING)
def count(labels, factor, ignore_index, work, examples, SPAN: tl.constexpr):
    """Write a 0, the largest factor of examples that count of each program, and their sum divided by it to `work`."""
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
    """Return the factors of examples; 0 for ignored ones."""
    there = example < examples
    label = tl.load(labels + example, mask=there, other=ignore_index)
    return tl.where(label == ignore_index, 0.0, tl.load(factor + example, mask=there, other=0.0))


@jit
def unit_and_scale(work, PARTS: tl.constexpr):
    """Return the results of `count`: the largest factor, 1 if there is none, and 1 / (sum of factors / largest)."""
    part = tl.arange(0, PARTS)
    most = tl.load(work + 1 + part)
    unit = tl.max(most, 0)
    unit = tl.where(unit == 0.0, 1.0, unit)
    total = tl.sum(tl.load(work + 1 + PARTS + part) * (most / unit), 0)
    return unit, 1.0 / tl.where(total == 0.0, 1.0, total)


@jit
def add_up_losses(work, parts, scale, loss, SPAN: tl.constexpr):
    """Add up the `parts` of all programs, times `scale`, if this is the last program to finish.

    The first number of `work` counts the programs that have finished.
    """
    tl.debug_barrier()
    programs = tl.num_programs(0)
    if tl.atomic_add(work, 1.0, sem="acq_rel") == programs - 1:
        total = tl.zeros([SPAN], tl.float64)
        for first in range(0, programs, SPAN):
            part = first + tl.arange(0, SPAN)
            # Bypass the cache of this multiprocessor, which does not have what others wrote.
            total += tl.load(parts + part, mask=part < programs, other=0.0, cache_modifier=".cg")
        tl.store(loss, (tl.sum(total, 0) * scale).to(tl.float32))


# --- loss and derivative in one go ------------------------------------------------------------------------------------


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
    """Compute loss and derivative. The logits of an example are overwritten only after all of them have been read.

    exponents: Exponents of p / p_max, by which weights and losses are multiplied, or None. work: None for the losses of
    the examples. Otherwise a 0, the results of PARTS programs of `count`, if any, and memory for a sum of each program;
    the loss is their sum, or the mean if PARTS > 0. pending: None, or memory for a power of two that the derivative has
    to be multiplied by.
    """
    example, base, there = place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = read_labels(labels, example, there, classes, ignore_index)
    label_logit = read_own(logits, base, label, allowed, inner)
    if WHOLE:
        others = load_others(logits, base, label, there, allowed, 0, classes, inner, CLASSES, SPATIAL, "evict_first")
        peak = tl.max(others, 1)
        share = tl.exp(others - peak[:, None])
        total = tl.sum(share, 1)
    else:
        peak, total = sums_of_others(logits, base, label, there, allowed, classes, inner, EXAMPLES, CLASSES, SPATIAL)
    margin, finite = margin_of(label_logit, allowed, peak, total)
    log_w, value = look_up(table, margin, TERMS, OCTAVES, REACH)
    if exponents is not None:
        log_trust = log_trust_of(exponents, example, there, label_logit, peak)
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
            for chunk in range(chunks):  # backwards, as the last chunk read is the most likely to be cached
                first = (chunks - 1 - chunk) * CLASSES
                others = load_others(
                    logits, base, label, there, allowed, first, classes, inner, CLASSES, SPATIAL, "evict_first"
                )
                share = tl.exp(others - peak[:, None]) * ratio
                store_all(out, base, label, there, -half, share, first, classes, inner, CLASSES, SPATIAL)
    if work is not None:
        add_up_losses(work, work + 1 + 2 * PARTS, scale, loss, SPAN)


# --- the same in two halves--------------------------------------------------------------------------------------------


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
    """Compute the first half of `fused`.

    state: Memory for margins and peaks, both NaN for bad examples, and totals.
    table: None if only these are computed. Otherwise `work` gets, after two numbers, the input of `add_up` from each
        program, and then the log-weights of the examples.
    """
    example, base, there = place(examples, classes, inner, EXAMPLES, SPATIAL)
    label, allowed, ignored = read_labels(labels, example, there, classes, ignore_index)
    label_logit = read_own(logits, base, label, allowed, inner)
    peak, total = sums_of_others(logits, base, label, there, allowed, classes, inner, EXAMPLES, CLASSES, SPATIAL)
    margin, finite = margin_of(label_logit, allowed, peak, total)
    wrong = (~ignored) & ~(allowed & finite)
    peaks = state + examples
    tl.store(state + example, tl.where(wrong, float("nan"), margin.to(tl.float32)), mask=there)
    tl.store(peaks + example, tl.where(wrong, float("nan"), peak), mask=there)
    tl.store(peaks + examples + example, total, mask=there)
    if table is not None:
        log_w, _ = look_up(table, margin, TERMS, OCTAVES, REACH)
        if exponents is not None:
            log_w += log_trust_of(exponents, example, there, label_logit, peak)
        if factor is not None:
            log_w += log_of_factor(factor, example, there)
        log_w = tl.where(wrong, float("nan"), tl.where(ignored, float("-inf"), log_w))
        tl.store(log_weights_in(work) + example, log_w, mask=there)
        store_parts(work + 2, tl.where(there, log_w, float("-inf")), softplus_of_minus(margin))


@jit
def log_of_factor(factor, example, there):
    """Return the logarithms of the factors of examples."""
    example_factor = tl.load(factor + example, mask=there, other=1.0)
    return tl.where(example_factor == 0.0, float("-inf"), tl.log(tl.where(example_factor == 0.0, 1.0, example_factor)))


@jit
def log_weights_in(work):
    """Return the address of the log-weights: after 2 numbers, and 3 for each program."""
    return work + 2 + 3 * tl.num_programs(0)


@jit
def store_parts(parts, log_w, value):
    """Write the largest log-weight of this program, and the sums of weights and of losses divided by that weight.

    `value` is the loss of each example for a weight of 1.
    """
    most = tl.max(tl.where(log_w == log_w, log_w, float("-inf")), 0)  # NaN goes to the sum
    weight = weight_over(log_w, most)
    at, programs = parts + tl.program_id(0), tl.num_programs(0)
    tl.store(at, most)
    tl.store(at + programs, tl.sum(weight, 0))
    tl.store(at + 2 * programs, tl.sum(tl.where(weight > 0.0, weight * value, 0.0), 0))


@jit
def weight_over(log_w, most):
    """Return exp(log_w - most); 0 for -inf."""
    return tl.where(log_w == float("-inf"), 0.0, exp_of(log_w - tl.where(most == float("-inf"), 0.0, most)))


@jit(do_not_specialize=VARYING)
def add_up(work, loss, pending, tiles, SPAN: tl.constexpr):
    """Add up the results of `margins` of all tiles, in one program.

    work: The first two numbers become the largest log-weight, and 1 / (sum of weights / largest weight), or 0 if no
        example counts.
    loss: None, or memory for the total loss.
    pending: None, or memory for the smallest power of two above the largest share.
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
    """Compute the second half of `fused`, one chunk of classes in each program.

    halves: Half the weights. With None the weights are the shares given by the log-weights of `work`, which `add_up`
    has summed; `loss`, if not None, gets the losses of the examples, and `out` may be None.
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
        half = tl.where(peak == peak, half, float("nan"))  # `margins` has written NaN for bad examples
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
    """Multiply a gradient by one number, which is nearly always 1; the gradient is then not read."""
    number = tl.load(factor).to(tl.float32)
    if pending is not None:
        number = (number * tl.load(pending)).to(tl.float32)
    if number != 1.0:
        start = tl.program_id(0).to(tl.int64) * SPAN
        for first in range(start, size, tl.num_programs(0).to(tl.int64) * SPAN):
            at = first + tl.arange(0, SPAN)
            value = tl.load(gradient + at, mask=at < size, other=0.0).to(tl.float32) * number
            tl.store(gradient + at, value.to(gradient.dtype.element_ty), mask=at < size)
