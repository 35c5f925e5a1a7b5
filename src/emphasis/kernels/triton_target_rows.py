"""Functions of the kernels of `triton_targets` that read rows of probabilities and look up tables."""

# Triton checks the arguments of a kernel: only those that it is compiled for are annotated.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from emphasis.kernels.triton_tiles import (
    jit,
    load_others,
    log_one_plus,
    look_up,
    margin_of,
    read_own,
    sums_of_others,
    tl,
)


@jit
def load_targets(targets, class_weight, base, there, first, classes, CLASSES: tl.constexpr):
    """Return the probabilities, with 0 for invalid ones; the same times class weights; and whether each is valid."""
    column = (first + tl.arange(0, CLASSES))[None, :]
    given = tl.load(targets + base[:, None] + column, mask=there[:, None] & (column < classes), other=0.0)
    allowed = (given >= 0.0) & (given <= 1.001)
    given = tl.where(allowed, given, 0.0)
    weighted = given
    if class_weight is not None:
        weighted *= tl.load(class_weight + column, mask=column < classes, other=0.0).to(given.dtype)
    return given, weighted, allowed


@jit
def likeliest(logits, base, there, classes, EXAMPLES: tl.constexpr, CLASSES: tl.constexpr):
    """Return the class with the largest logit."""
    best = tl.full([EXAMPLES], float("-inf"), tl.float32)
    top = tl.zeros([EXAMPLES], tl.int32)
    for first in range(0, classes, CLASSES):
        column = (first + tl.arange(0, CLASSES))[None, :]
        mask = there[:, None] & (column < classes)
        z = tl.load(logits + base[:, None] + column, mask=mask, other=float("-inf")).to(tl.float32)
        highest, at = tl.max(z, 1, return_indices=True)
        top = tl.where(highest > best, first + at, top)
        best = tl.maximum(best, highest)
    return top


@jit
def read_row(logits, base, there, classes, EXAMPLES: tl.constexpr, CLASSES: tl.constexpr):
    """Return the likeliest class, peak and total of the others, its margin, and whether all logits are finite."""
    top = likeliest(logits, base, there, classes, EXAMPLES, CLASSES)
    label_logit = read_own(logits, base, top, there, 1)
    peak, total = sums_of_others(logits, base, top, there, there, classes, 1, EXAMPLES, CLASSES, False)
    margin, finite = margin_of(label_logit, there, peak, total)
    return top, peak, total, margin, finite


@jit
def ratios(compact, log_p, CELLS: tl.constexpr, COMPACT_TERMS: tl.constexpr, COMPACT_SPLITS: tl.constexpr):
    """Return log rho and the loss of float32 log p, by `MarginTable.compact`."""
    number = tl.maximum(1.0 - 2.0 * 0.6931471805599453 - 2.0 * log_p, 1.0)
    bits = number.to(tl.int32, bitcast=True)
    cell = ((bits >> (23 - COMPACT_SPLITS)) - (127 << COMPACT_SPLITS)) & (CELLS - 1)
    x = (((bits << COMPACT_SPLITS) & 0x007FFFFF) | 0x3F800000).to(tl.float32, bitcast=True) * 2.0 - 3.0
    log_rho = tl.load(compact + (COMPACT_TERMS - 1) * CELLS + cell)
    loss = tl.load(compact + (2 * COMPACT_TERMS - 1) * CELLS + cell)
    for k in tl.static_range(2, COMPACT_TERMS + 1):
        log_rho = log_rho * x + tl.load(compact + (COMPACT_TERMS - k) * CELLS + cell)
        loss = loss * x + tl.load(compact + (2 * COMPACT_TERMS - k) * CELLS + cell)
    return log_rho, loss


@jit
def ratios_exactly(table, log_p, p, TERMS: tl.constexpr, OCTAVES: tl.constexpr, REACH: tl.constexpr):
    """Return log rho and the loss by the full table."""
    log_q = log_one_plus(-tl.minimum(p, 0.5).to(tl.float64))
    log_w, loss = look_up(table, log_p.to(tl.float64) - log_q, TERMS, OCTAVES, REACH)
    return (log_w - 0.6931471805599453 - log_q).to(tl.float32), loss.to(tl.float32)


@jit
def trust_of_row(exponents, example, there, log_p, log_p_of_peak):
    """Return the power of p / p_max that multiplies rho of a row, and log(p / p_max) at the peak of the others."""
    exponent = log_p * 0.0
    if exponents is not None:
        exponent = tl.load(exponents + example, mask=there, other=0.0)
    return exponent.to(tl.float32), (log_p_of_peak.to(tl.float64) - log_p).to(tl.float32)


@jit
def others_of_row(
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
    TERMS: tl.constexpr,
    OCTAVES: tl.constexpr,
    REACH: tl.constexpr,
    CELLS: tl.constexpr,
    COMPACT_TERMS: tl.constexpr,
    COMPACT_SPLITS: tl.constexpr,
    COMPACT_REACH: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Return exp(z - peak), t, log p, log rho and the loss of the classes other than the likeliest.

    Where t is 0, log rho is -inf and the loss 0. Also return the sum of all probabilities of each row, and the number
    of invalid ones.
    """
    given, weighted, allowed = load_targets(targets, class_weight, base, there, first, classes, CLASSES)
    column = (first + tl.arange(0, CLASSES))[None, :]
    t = tl.where(column == top[:, None], 0.0, weighted)
    others = (
        load_others(logits, base, top, there, there, first, classes, 1, CLASSES, False, "evict_last") - peak[:, None]
    )
    e = tl.exp(others)
    log_p = tl.where(t == 0.0, -0.6931471805599453, others + log_p_of_peak[:, None])
    if compact is None:
        log_rho, loss = ratios_exactly(table, log_p, e * p_of_e[:, None], TERMS, OCTAVES, REACH)
    else:
        if (tl.min(tl.min(log_p, 1), 0) >= -COMPACT_REACH) & (tl.load(table + 1) >= 0.0):
            log_rho, loss = ratios(compact, log_p, CELLS, COMPACT_TERMS, COMPACT_SPLITS)
        else:
            log_rho, loss = ratios_exactly(table, log_p, e * p_of_e[:, None], TERMS, OCTAVES, REACH)
    log_trust = trust[:, None] * tl.where(t == 0.0, 0.0, others + lead_of_peak[:, None])  # others: -inf at the top
    log_rho = tl.where(t == 0.0, float("-inf"), log_rho + log_trust)
    loss = tl.where(t == 0.0, 0.0, loss * tl.exp(log_trust))
    return e, t, log_p, log_rho, loss, tl.sum(given, 1), tl.sum(tl.where(allowed, 0, 1), 1)
