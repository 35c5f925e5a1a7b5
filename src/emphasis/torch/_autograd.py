"""The plain path of the loss: an autograd function that computes the loss and its derivative in one pass.

The arithmetic is that of docs/theory.md: margins from the logits, log-weights from the family, a normalizer, and the
direction, which is the softmax over the other classes. All that depends on the family is in `emphasis.weighting`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.compatibility.torch import transforms_are_active
from emphasis.kernels.backend import is_watched
from emphasis.kernels.batch_statistics import Likeliest, likeliest_of
from emphasis.kernels.operators import look_up
from emphasis.torch._checks import arithmetic_dtype
from emphasis.torch._options import Options
from emphasis.torch.distributed import global_max_and_sumexp, global_sum, mean_over_ranks
from emphasis.weighting._numerics import doubt_of, exponent_of, log_trust_of
from emphasis.weighting.options import SATURATION


def loss_and_gradient(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    valid: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the loss and its derivative, which can be differentiated; the normalizer is a constant.

    Args:
        logits: Floating (N, C, ...).
        labels: Classes (N, ...), int64 in [0, C), or probabilities (N, C, ...).
        factor: Weights of the examples (N, ...), or None for 1.
        valid: Whether each example counts, (N, ...) bool, or None for all.
        options: Options of the loss.
        with_gradient: Whether the derivative is computed; it is None otherwise.
    """
    dtype, logits = logits.dtype, logits.to(arithmetic_dtype(logits))
    soft = labels.is_floating_point()
    labels = labels.to(logits.dtype) if soft else labels
    factor = None if factor is None else factor.to(logits.dtype)
    # Hard labels have one margin per example, and soft labels one per class; that of the largest logit is exact.
    index = logits.argmax(1, keepdim=True) if soft else labels.unsqueeze(1)
    margin, others, log_rest = margin_and_others(logits, index, 1)
    lead = margin
    if options.weighting.trust[0]:
        lead = lead_of(logits, index, others, 1, each_class=soft)
    if soft:
        log_p = (logits - torch.logaddexp(log_rest, logits.gather(1, index))).scatter(1, index, -math.log(2.0))
        margin = (log_p - torch.log1p(-log_p.exp())).scatter(1, index, margin)
    if valid is not None:
        valid = valid.unsqueeze(1)
        margin, lead = torch.where(valid, margin, 0.0), torch.where(valid, lead, 0.0)

    log_p, log_q = F.logsigmoid(margin), F.logsigmoid(-margin)
    share = labels if soft else None  # weight of each margin in its example
    if factor is not None:
        factor = factor.unsqueeze(1)
        share = factor if share is None else share * factor
    likeliest = None
    if options.weighting.trust[0]:
        counted = torch.ones_like(margin) if share is None else share.expand(margin.shape)
        counted = counted if valid is None else torch.where(valid, counted, 0.0)
        likeliest = likeliest_of(logits.detach(), counted.detach().sum(1, keepdim=True))
    loss, weight = _weighted_terms(margin, log_p, log_q, lead, likeliest, share, valid, options, dtype)
    if soft:
        loss = loss.sum(1, keepdim=True)
    loss = loss.squeeze(1) if options.reduction == "none" else loss.sum()
    if not with_gradient:
        return loss, None

    half = 0.5 * weight
    direction = (others - log_rest).exp()
    if soft:
        # half / (1-p) of all classes but the likeliest: its 1-p may be too small to divide by, the others' is >= 1/2.
        ratio = (half * (-log_q.scatter(1, index, 0.0)).exp()).scatter(1, index, 0.0)
        spread = log_p.exp() * (ratio.sum(1, keepdim=True) - ratio)
        gradient = direction * half.gather(1, index) + spread - half
    else:
        gradient = (direction * half).scatter(1, index, -half)
    return loss, gradient if valid is None else torch.where(valid, gradient, 0.0)


class EmphasisFunction(torch.autograd.Function):
    """The function `loss_and_gradient` with a backward pass, forward-mode differentiation and vmap."""

    generate_vmap_rule = True

    forward = staticmethod(loss_and_gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor | None]) -> None:
        """Save the derivative for `backward`, and the logits, without a copy, for the second derivative."""
        logits, labels, factor, valid, ctx.options, _ = inputs
        _, gradient = output
        if gradient is not None:
            ctx.mark_non_differentiable(gradient)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, labels, factor, valid, gradient)
        ctx.save_for_forward(logits, labels, factor, valid, gradient)  # the same tensors, as vmap supports only one set
        ctx.per_example = output[0].dim() > 0

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the derivative times `grad_loss`."""
        logits, labels, factor, valid, gradient = ctx.saved_tensors
        if grad_loss is None:
            return None, None, None, None, None, None
        if gradient is None or torch.is_grad_enabled():  # create_graph=True: compute it again, with a graph
            gradient = loss_and_gradient(logits, labels, factor, valid, ctx.options, True)[1]
            assert gradient is not None
        if grad_loss.dim():
            grad_loss = grad_loss.unsqueeze(1)
        return (grad_loss * gradient).to(logits.dtype), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        """Return the derivative of the loss along `tangent`."""
        gradient = ctx.saved_tensors[-1]
        if tangent is None or gradient is None:
            return None, None
        product = gradient * tangent
        return product.sum(1) if ctx.per_example else product.sum(), None


def margin_and_others(logits: Tensor, index: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return u = z_y - logsumexp_{j != y} z_j, the logits with -inf in place of z_y, and that logsumexp.

    The softmax over the other classes is exp(others - logsumexp).

    Args:
        logits: Logits, with the classes along `dim`.
        index: The labels y, with size 1 along `dim`.
        dim: Dimension of the classes.
    """
    others = logits.scatter(dim, index, -math.inf)
    log_rest = torch.logsumexp(others, dim, keepdim=True)
    return logits.gather(dim, index) - log_rest, others, log_rest


def lead_of(logits: Tensor, index: Tensor, others: Tensor, dim: int, each_class: bool = False) -> Tensor:
    """Return the lead z_y - max_{j != y} z_j.

    Args:
        logits: Logits, with the classes along `dim`.
        index: The labels y, with size 1 along `dim`; the likeliest classes if `each_class`.
        others: The logits without those of `index`, from `margin_and_others`.
        dim: Dimension of the classes.
        each_class: Whether the leads of all classes are returned, of the shape of the logits, instead of those of
            `index`.
    """
    label_logit = logits.gather(dim, index)
    lead = label_logit - others.amax(dim, keepdim=True)
    return (logits - label_logit).scatter(dim, index, lead) if each_class else lead


def saturated_log_weight(log_p: Tensor, log_q: Tensor, options: Options, dtype: torch.dtype) -> Tensor:
    """Return log w of labels that the network agrees with, limited if unbounded so that sums fit into `dtype`."""
    log_w: Tensor = options.weighting.where_agreed.log_weight(log_p, log_q, torch)
    if options.unbounded:
        summed = math.log(torch.finfo(log_w.dtype).max) - SATURATION
        log_w = log_w.clamp(max=min(summed, math.log(torch.finfo(dtype).max)))
    return log_w


def log_weight_of(margin: Tensor, lead: Tensor, logits: Tensor, share: Tensor, options: Options) -> Tensor:
    """Return log w of margins as in training: saturated if unbounded, and -inf beyond the largest margin.

    Args:
        margin: Margins of the examples, (N, 1, ...), or of all classes, (N, C, ...).
        lead: Logits of the labels minus the largest other logits, of the shape of `margin`.
        logits: The logits, (N, C, ...).
        share: Weights in the batch, of the shape of `margin`.
        options: Options of the loss.
    """
    log_p = F.logsigmoid(margin)
    log_w = _log_weight(margin, log_p, F.logsigmoid(-margin), options, margin.dtype)
    if not options.weighting.trust[0]:
        return log_w
    return log_w + log_trust(log_p, lead, likeliest_of(logits, share.sum(1, keepdim=True)), share, options)


def log_trust(log_p: Tensor, lead: Tensor, likeliest: Likeliest, share: Tensor, options: Options) -> Tensor:
    """Return the log of the factor that reduces the weight of labels which the network contradicts; see `Relative`.

    Args:
        log_p: Log probabilities of the labels, of any shape; with the networks first if there are several.
        lead: Logits of the labels minus the largest other logits, of the same shape.
        likeliest: Likeliest classes of the examples; `rest` and `top` broadcast to that shape, and `sums` is (C,), or
            (networks, C) for several networks, each of which has means of its own.
        share: Weights of the examples in the batch, of the same shape.
        options: Options of the loss.
    """
    networks = likeliest.sums.dim() - 1  # 0, or 1 for the dimension of several networks
    share = share.detach()
    doubt = torch.where(share == 0.0, 0.0, share * doubt_of(log_p, lead, torch).detach())
    sums = torch.cat((doubt.flatten(networks).sum(-1, True), likeliest.sums.to(doubt.dtype)), -1)
    means = mean_over_ranks(sums, share.flatten(networks).sum(-1, True).to(sums.dtype), options.process_group)
    prior_rest = means[..., 1:].gather(-1, likeliest.top.flatten(networks)).view(likeliest.top.shape)
    doubt = means[..., 0].view(-1, *[1] * (log_p.dim() - 1)) if networks else means[0]
    exponent = exponent_of(options.weighting.trust, doubt, likeliest.rest.to(log_p.dtype), prior_rest, torch)
    result: Tensor = log_trust_of(exponent, lead, torch)
    return result


def _log_weight(margin: Tensor, log_p: Tensor, log_q: Tensor, options: Options, dtype: torch.dtype) -> Tensor:
    """Return `saturated_log_weight`, and -inf beyond the largest margin."""
    log_w = saturated_log_weight(log_p, log_q, options, dtype)
    if options.max_margin < math.inf:
        log_w = torch.where(margin > options.max_margin, -math.inf, log_w)
    return log_w


def _weighted_terms(
    margin: Tensor,
    log_p: Tensor,
    log_q: Tensor,
    lead: Tensor,
    likeliest: Likeliest | None,
    share: Tensor | None,
    valid: Tensor | None,
    options: Options,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the terms of the loss and the L1 norms of their derivatives, after normalization and reduction.

    `share` and `valid` are of the shape of the margins or broadcastable to it; see `example_terms`.
    """
    log_w = _log_weight(margin, log_p, log_q, options, dtype)
    if likeliest is None:
        weight, unit = _normalized(log_w, share, valid, options)
        return _loss(margin, log_p, weight, unit, options), weight
    counted = torch.ones_like(log_p) if share is None else share.expand(log_p.shape)
    counted = counted if valid is None else torch.where(valid, counted, 0.0)
    trust = log_trust(log_p, lead, likeliest, counted, options)
    weight, unit = _normalized(log_w + trust, share, valid, options)
    if options.normalization != "batch":
        unit = unit * trust.detach().exp()
    return _loss(margin, log_p, weight, unit, options), weight


def example_terms(
    margin: Tensor,
    lead: Tensor,
    likeliest: Likeliest | None,
    factor: Tensor | None,
    valid: Tensor | None,
    options: Options,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the losses of the examples and the L1 norms of their derivatives, after normalization and reduction.

    Args:
        margin: Margins of the examples, of any shape, which is that of the other tensors too.
        lead: Logits of the labels minus the largest other logits.
        likeliest: Likeliest classes, for weightings that depend on the batch; None otherwise.
        factor: Weights of the examples, or None for 1.
        valid: Examples that count, or None for all.
        options: Options of the loss.
        dtype: Dtype of the derivative.
    """
    factor = None if factor is None else factor.to(margin.dtype)
    return _weighted_terms(
        margin, F.logsigmoid(margin), F.logsigmoid(-margin), lead, likeliest, factor, valid, options, dtype
    )


def _normalized(log_w: Tensor, share: Tensor | None, valid: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
    """Return the L1 norm of each derivative after normalization, and the factor of each loss.

    The factor is the share, divided by `denominator` for a mean. The norm is w times the factor, or the share of the
    batch's total emphasis.
    """
    if valid is not None:
        valid = valid.expand(log_w.shape)
    if options.normalization == "batch":
        log_share = log_w if share is None else log_w + share.log()
        if valid is not None:
            log_share = torch.where(valid, log_share, -math.inf)
        peak, total = global_max_and_sumexp(log_share.detach(), options.process_group)
        weight = (log_share - peak).exp() / total
        return weight, weight
    unit = torch.ones_like(log_w) if share is None else share.expand(log_w.shape)
    if valid is not None:
        unit = torch.where(valid, unit, 0.0)
    if options.reduction == "mean":
        unit = unit / denominator(unit, options)
    return (log_w - options.log_normalizer).exp() * unit, unit


def denominator(unit: Tensor, options: Options) -> Tensor:
    """Return the denominator of a mean, the sum of the units over the whole batch; 1 if that is 0."""
    total = global_sum(unit.sum(), options.process_group)
    return torch.where(total.isinf(), math.nan, total)  # a sum of weights that overflows must not make the loss 0


def _loss(margin: Tensor, log_p: Tensor, weight: Tensor, unit: Tensor, options: Options) -> Tensor:
    """Return the loss of each margin times its unit; the weighted cross-entropy for shares of a batch."""
    if options.normalization == "batch":
        return torch.where(weight > 0.0, -log_p * weight, torch.where(weight.isnan(), weight, 0.0))
    value = _value(margin.detach(), options).to(margin.dtype)
    if options.unbounded:
        largest = torch.finfo(value.dtype).max * math.exp(-SATURATION)
        value = value.clamp(-largest, largest)
    return torch.where(unit == 0.0, 0.0, value * unit)


def _value(margin: Tensor, options: Options) -> Tensor:
    """Return L(margin), which is not differentiated."""
    tables = options.tables_for(margin.device, margin.dtype)
    if margin.device.type != "mps":  # which has no float64
        margin = margin.double()
    if tables is not None and not (is_watched() or transforms_are_active()):
        return look_up(tables.packed, margin)[1]

    def asarray(array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=margin.dtype, device=margin.device)

    value: Tensor = options.weighting.where_agreed.loss(
        margin, torch, asarray, options.max_margin, options.log_normalizer
    )
    return value
