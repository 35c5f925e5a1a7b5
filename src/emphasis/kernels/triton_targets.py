"""The kernels for rows of probabilities t_k instead of labels, on GPUs. `gpu` launches them.

With rho = w / (2 (1-p)) of each class, the derivative is dz_j = p_j sum_k t_k rho_k - t_j rho_j. The likeliest class,
whose 1-p may be too small to divide by, is set apart: with q the softmax over the others and S their sum of t rho,

    dz_j = q_j ((1-p_top) S + t_top w_top / 2) - t_j rho_j,    dz_top = p_top S - t_top w_top / 2.

log rho and the loss of a class that is not the likeliest come from `MarginTable.compact`, or where that ends, or there
is none, from the whole table. Launches are those of `triton_rows`; logits and derivatives are (N, C).
"""

# Triton checks the arguments of a kernel: only those that it is compiled for are annotated.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from emphasis.kernels.triton_rows import (
    VARYING,
    add_up_losses,
    log_of_factor,
    log_weights_in,
    store_parts,
    unit_and_scale,
)
from emphasis.kernels.triton_target_rows import load_targets, others_of_row, read_row, trust_of_row
from emphasis.kernels.triton_tiles import exp_of, jit, look_up, place, power_above, softplus_of_minus, store_all, tl


@jit(do_not_specialize=VARYING)
def count_targets(
    targets, class_weight, factor, work, examples, classes, EXAMPLES: tl.constexpr, CLASSES: tl.constexpr
):
    """`count`, where an example counts as much as the sum of its probabilities times the classes' weights."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    tiles = tl.cdiv(examples, EXAMPLES)
    unit = tl.full([], 1.0, tl.float64)
    if factor is not None:
        most = tl.zeros([EXAMPLES], tl.float64)
        for tile in range(program, tiles, programs):
            example = (tile * EXAMPLES + tl.arange(0, EXAMPLES)).to(tl.int64)
            most = tl.maximum(most, tl.load(factor + example, mask=example < examples, other=0.0))
        unit = tl.max(most, 0)
    total = tl.zeros([EXAMPLES], tl.float64)
    for tile in range(program, tiles, programs):
        example = (tile * EXAMPLES + tl.arange(0, EXAMPLES)).to(tl.int64)
        there = example < examples
        sums = tl.zeros([EXAMPLES, CLASSES], tl.float32)
        for first in range(0, classes, CLASSES):
            sums += load_targets(targets, class_weight, example * classes, there, first, classes, CLASSES)[1]
        row = tl.sum(sums, 1).to(tl.float64)
        if factor is not None:
            row *= tl.load(factor + example, mask=there, other=0.0) / tl.where(unit == 0.0, 1.0, unit)
        total += row
    tl.store(work + 1 + program, unit)
    tl.store(work + 1 + programs + program, tl.sum(total, 0))
    tl.store(work, 0.0, mask=program == 0)


@jit(do_not_specialize=VARYING)
def targets_fused(
    logits,
    targets,
    class_weight,
    factor,
    table,
    compact,
    exponents,
    out,
    loss,
    work,
    pending,
    examples,
    classes,
    TERMS: tl.constexpr,
    OCTAVES: tl.constexpr,
    REACH: tl.constexpr,
    CELLS: tl.constexpr,
    COMPACT_TERMS: tl.constexpr,
    COMPACT_SPLITS: tl.constexpr,
    COMPACT_REACH: tl.constexpr,
    PARTS: tl.constexpr,
    SPAN: tl.constexpr,
    BATCH: tl.constexpr,
    EXAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Loss and derivative, with `work` and `pending` as in `fused`.

    BATCH: `work` and `pending` are what `add_up` left of the log-weights of `targets_log_weights`: weights are shares.
    """
    example, base, there = place(examples, classes, 1, EXAMPLES, False)
    top, peak, total, margin, finite = read_row(logits, base, there, classes, EXAMPLES, CLASSES)
    log_w, loss_of_top = look_up(table, margin, TERMS, OCTAVES, REACH)
    loss_of_top = loss_of_top.to(tl.float64)
    log_p = -softplus_of_minus(margin)
    log_q = log_p - margin
    q = exp_of(log_q)
    p_of_e = (q / total).to(tl.float32)
    log_p_of_peak = (log_q - tl.log(total)).to(tl.float32)
    trust, lead_of_peak = trust_of_row(exponents, example, there, log_p, log_p_of_peak)
    unit, scale = 1.0, 1.0
    if PARTS > 0:
        unit, scale = unit_and_scale(work, PARTS)
    power = 1.0
    if pending is not None:
        if BATCH:
            power = tl.load(pending)
        else:
            power = power_above(scale)
            tl.store(pending, power, mask=tl.program_id(0) == 0)
    shift = tl.zeros([EXAMPLES], tl.float64)
    example_factor = tl.full([EXAMPLES], 1.0, tl.float64)
    if BATCH:
        highest = tl.load(work)
        shift -= tl.where(highest == float("-inf"), 0.0, highest)
        scale = tl.load(work + 1)
        loss_of_top = -log_p
        if factor is not None:
            shift += log_of_factor(factor, example, there)
    elif factor is not None:
        example_factor = tl.load(factor + example, mask=there, other=0.0) / unit
    example_scale = (scale * example_factor / power).to(tl.float32)
    example_shift = shift.to(tl.float32)

    sums = tl.zeros([EXAMPLES], tl.float64)  # of t rho, of the losses, and of the probabilities
    value = tl.zeros([EXAMPLES], tl.float64)
    probability = tl.zeros([EXAMPLES], tl.float32)
    wrong = tl.zeros([EXAMPLES], tl.int32)
    for first in range(0, classes, CLASSES):
        e, t, log_p_of_class, log_rho, losses, given, odd = others_of_row(
            logits,
            targets,
            class_weight,
            table,
            compact,
            base,
            there,
            top,
            peak,
            log_p_of_peak,
            p_of_e,
            trust,
            lead_of_peak,
            first,
            classes,
            TERMS,
            OCTAVES,
            REACH,
            CELLS,
            COMPACT_TERMS,
            COMPACT_SPLITS,
            COMPACT_REACH,
            CLASSES,
        )
        terms = t * tl.exp(log_rho + example_shift[:, None]) * example_scale[:, None]
        losses = -2.0 * terms * (1.0 - e * p_of_e[:, None]) * log_p_of_class if BATCH else t * losses
        sums += tl.sum(terms, 1)
        value += tl.sum(losses, 1)
        probability += given
        wrong += odd
    t_of_top = tl.load(targets + base + top, mask=there, other=0.0).to(tl.float64)
    if class_weight is not None:
        t_of_top *= tl.load(class_weight + top)
    weight = tl.where(t_of_top > 0.0, t_of_top * exp_of(log_w + shift) * scale * example_factor / power, 0.0)
    value = (value + weight * loss_of_top) * power if BATCH else (value + t_of_top * loss_of_top) * example_factor
    is_wrong = (wrong > 0) | (tl.abs(probability - 1.0) > 0.01) | (~finite)
    value = tl.where(is_wrong, float("nan"), value)
    if BATCH or work is None:
        if loss is not None:
            tl.store(loss + example, value.to(tl.float32), mask=there)
    else:
        tl.store(work + 1 + 2 * PARTS + tl.program_id(0), tl.sum(tl.where(there, value, 0.0), 0))
    if out is not None:
        share = tl.where(is_wrong, float("nan"), ((q * sums + 0.5 * weight) / total).to(tl.float32))
        p = exp_of(log_p)
        at_top = tl.where(is_wrong, float("nan"), (p * sums - 0.5 * weight).to(tl.float32))
        for first in range(0, classes, CLASSES):
            e, t, log_p_of_class, log_rho, losses, given, odd = others_of_row(
                logits,
                targets,
                class_weight,
                table,
                compact,
                base,
                there,
                top,
                peak,
                log_p_of_peak,
                p_of_e,
                trust,
                lead_of_peak,
                first,
                classes,
                TERMS,
                OCTAVES,
                REACH,
                CELLS,
                COMPACT_TERMS,
                COMPACT_SPLITS,
                COMPACT_REACH,
                CLASSES,
            )
            terms = t * tl.exp(log_rho + example_shift[:, None]) * example_scale[:, None]
            store_all(out, base, top, there, at_top, e * share[:, None] - terms, first, classes, 1, CLASSES, False)
    if (not BATCH) and work is not None:
        add_up_losses(work, work + 1 + 2 * PARTS, scale, loss, SPAN)


@jit(do_not_specialize=VARYING)
def targets_log_weights(
    logits,
    targets,
    class_weight,
    factor,
    table,
    compact,
    exponents,
    work,
    examples,
    classes,
    TERMS: tl.constexpr,
    OCTAVES: tl.constexpr,
    REACH: tl.constexpr,
    CELLS: tl.constexpr,
    COMPACT_TERMS: tl.constexpr,
    COMPACT_SPLITS: tl.constexpr,
    COMPACT_REACH: tl.constexpr,
    EXAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Leave in `work`, as `margins` does, the log of each row's sum of t w, and what `add_up` needs."""
    example, base, there = place(examples, classes, 1, EXAMPLES, False)
    top, peak, total, margin, finite = read_row(logits, base, there, classes, EXAMPLES, CLASSES)
    log_w, _loss_of_top = look_up(table, margin, TERMS, OCTAVES, REACH)
    log_p = -softplus_of_minus(margin)
    log_q = log_p - margin
    p_of_e = (exp_of(log_q) / total).to(tl.float32)
    log_p_of_peak = (log_q - tl.log(total)).to(tl.float32)
    trust, lead_of_peak = trust_of_row(exponents, example, there, log_p, log_p_of_peak)
    t_of_top = tl.load(targets + base + top, mask=there, other=0.0).to(tl.float64)
    if class_weight is not None:
        t_of_top *= tl.load(class_weight + top)
    most = tl.where(t_of_top > 0.0, log_w, float("-inf")).to(tl.float32)
    weights = tl.zeros([EXAMPLES], tl.float32)
    losses = tl.zeros([EXAMPLES], tl.float32)
    probability = tl.zeros([EXAMPLES], tl.float32)
    wrong = tl.zeros([EXAMPLES], tl.int32)
    for first in range(0, classes, CLASSES):
        e, t, log_p_of_class, log_rho, _losses, given, odd = others_of_row(
            logits,
            targets,
            class_weight,
            table,
            compact,
            base,
            there,
            top,
            peak,
            log_p_of_peak,
            p_of_e,
            trust,
            lead_of_peak,
            first,
            classes,
            TERMS,
            OCTAVES,
            REACH,
            CELLS,
            COMPACT_TERMS,
            COMPACT_SPLITS,
            COMPACT_REACH,
            CLASSES,
        )
        higher = tl.maximum(most, tl.max(log_rho, 1))
        finite_peak = tl.where(higher == float("-inf"), 0.0, higher)
        terms = 2.0 * t * (1.0 - e * p_of_e[:, None]) * tl.exp(log_rho - finite_peak[:, None])
        lower = tl.exp(most - finite_peak)
        weights = weights * lower + tl.sum(terms, 1)
        losses = losses * lower - tl.sum(terms * log_p_of_class, 1)
        most = higher
        probability += given
        wrong += odd
    finite_peak = tl.where(most == float("-inf"), 0.0, most).to(tl.float64)
    of_top = tl.where(t_of_top > 0.0, t_of_top * exp_of(log_w - finite_peak), 0.0)
    weight = weights + of_top
    value = (losses - of_top * log_p) / tl.where(weight == 0.0, 1.0, weight)
    log_weight = tl.where(weight == 0.0, float("-inf"), finite_peak + tl.log(tl.where(weight == 0.0, 1.0, weight)))
    if factor is not None:
        log_weight += log_of_factor(factor, example, there)
    is_wrong = (wrong > 0) | (tl.abs(probability - 1.0) > 0.01) | (~finite)
    log_weight = tl.where(is_wrong & there, float("nan"), tl.where(there, log_weight, float("-inf")))
    tl.store(log_weights_in(work) + example, log_weight, mask=there)
    store_parts(work + 2, log_weight, value)
