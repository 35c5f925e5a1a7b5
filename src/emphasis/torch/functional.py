"""`emphasis_loss`: the loss whose derivative with respect to the logits is a weighting's."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from emphasis.compatibility.torch import is_tracing
from emphasis.errors import EmphasisValueError
from emphasis.torch import _checks
from emphasis.torch._autograd import EmphasisFunction, loss_and_gradient
from emphasis.torch._fused import Call, backend_for_labels, backend_for_rows, fused_loss
from emphasis.torch._options import Options, make_options
from emphasis.torch._weighting import as_torch_weighting
from emphasis.weighting import DEFAULT_WEIGHTING, DM, EmphasisWarning, MaxMargin, Weighting, WeightingLike
from emphasis.weighting.options import Normalization, Reduction, check_ignore_index

_warned: set[Weighting] = set()


def emphasis_loss(
    logits: Tensor,
    labels: Tensor,
    weighting: WeightingLike = DEFAULT_WEIGHTING,
    *,
    normalization: Normalization = "integral",
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    max_margin: MaxMargin = "auto",
    process_group: Any = None,
    inplace: bool = False,
) -> Tensor:
    """Return the loss whose derivative has L1 norm w(p) and cross-entropy's direction (Eq. 7 without its 0/0).

    With u = z_y - logsumexp_{j != y} z_j, p = sigmoid(u) and q the softmax over the other classes, each example's
    derivative is dz_y = -w(p)/2, dz_j = (w(p)/2) q_j. Arithmetic in float32 at least, float64 for float64.

    Args:
        logits: (N, C) or (N, C, d1, ...), floating, finite, C >= 2. Or (N,): the binary form with one logit z,
            the same as the two columns (0, z); its derivative is -+ w(p)/2.
        labels: (N,) or (N, d1, ...) integers in [0, C) or `ignore_index`. Or soft labels, floating and of the
            logits' shape, rows of probabilities t: the derivative is then sum_k t_k d_k, d_k that of hard label k
            (so CCE gives F.cross_entropy with probabilities, whose "mean" differs with class weights). For (N,)
            logits: integers or bools in {0, 1}, or probabilities of class 1.
        weighting: A weighting, its dictionary, a family's name, or any function p -> w or (p, 1-p) -> w, which must
            not change once used: its integral and loss value are computed once. `Relative()` is the recommended one.
        normalization: None: w as it is. "integral": w divided by its integral over [0, 1] (Eq. 8). "batch":
            weights divided by their sum over the batch, so that the total emphasis is one unit; finite for any
            beta. The normaliser is a constant for differentiation.
        reduction: "mean": sum over the examples divided by the sum of class_weight * sample_weight over the valid
            ones, as F.cross_entropy does. "sum". "none": one loss per example. Under "batch" the weights are the
            mean already: "mean" and "sum" are the same, and the terms of "none" add up to it.
        ignore_index: Integer label of examples to leave out.
        class_weight: (C,) >= 0, multiplies w by the label's weight (with soft labels: t_k by class k's).
        sample_weight: Shape of integer labels, (N, d1, ...); >= 0, multiplies w.
        max_margin: No derivative beyond this margin: a number, None for the bare formula, or "auto": 16.6, where
            1-p rounds to 0 in float32, if w(1) > 0, and none otherwise. Such examples count neither in the sum
            over the batch nor in the loss, but they do in the denominator of "mean".
        process_group: A torch.distributed group over which the batch is spread (`torch.distributed.group.WORLD`):
            sums run over all its ranks, and the loss is scaled for DistributedDataParallel and fully_shard, which
            average gradients over ranks. Or an `Accumulation`, over several calls too. None: this call alone, as are
            "sum" and "none" without "batch" always.
        inplace: Write the derivative into the logits' own memory, which costs no buffer at all: for a network's
            output that nobody reads afterwards. Not for leaf tensors, parts of others, or soft labels (ValueError);
            an operation before that kept the logits for its own backward pass (exp, say) raises there. One backward
            pass, no second derivative. Without gradients to compute, as under no_grad, the logits stay as they are.

    Returns:
        The loss, float32 for half types. Its value is the potential of the weighting (`Weighting.potential`, after
        normalization); under "batch", which has no potential, the weighted cross-entropy. 0, with a graph, for an
        empty batch, all labels ignored, all weights 0 or all margins beyond `max_margin`.

        Integer labels take one buffer of the logits' size, and none with `inplace`: one fused kernel for float32,
        bfloat16 and float16, on the CPU where there is a C compiler; torch operators otherwise. Works under
        torch.compile (make the weighting outside the compiled function), torch.func.vmap and grad, as do soft labels,
        with a few buffers more.
        Can be differentiated twice; class_weight, sample_weight and soft labels are constants.

    Raises:
        TypeError, ValueError: Shapes, dtypes, devices, labels, weights or options that do not fit; NaN or infinite
            logits or a user function's negative weights. The values of tensors are read on the CPU only, and not
            under torch.compile or vmap; elsewhere such logits and weights make the loss NaN or infinite.
        OverflowError: w exceeds the dtype (a large beta with normalization=None, say).

    Warns:
        EmphasisWarning: Once per weighting with w(1) > 0 under max_margin=None: its push never ends.
    """
    if torch.compiler.is_compiling():
        from emphasis.torch import _compiled  # which imports the compiler

        options = _compiled.register(weighting, normalization, reduction, max_margin, process_group)
    else:
        options = resolve(weighting, normalization, reduction, max_margin, process_group)
    return apply_options(logits, labels, options, ignore_index, class_weight, sample_weight, inplace)


def resolve(
    weighting: WeightingLike,
    normalization: Normalization,
    reduction: Reduction,
    max_margin: MaxMargin,
    process_group: Any,
) -> Options:
    """Check all that is no tensor, and return it resolved."""
    options = make_options(as_torch_weighting(weighting), normalization, reduction, max_margin, process_group)
    if max_margin is None and not options.weighting.vanishes and options.weighting not in _warned:
        _warned.add(options.weighting)
        cure = " or vanishing=True" if isinstance(options.weighting, DM) else ""
        warnings.warn(
            f"{options.weighting!r} has w(1) > 0 and max_margin=None: examples already learned keep pushing for "
            f'ever, and plain networks diverge, on clean labels too. Use max_margin="auto"{cure}',
            EmphasisWarning,
            stacklevel=3,
        )
    return options


def apply_options(
    logits: Tensor,
    labels: Tensor,
    options: Options | int,
    ignore_index: int,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    inplace: bool = False,
) -> Tensor:
    """Check the tensors, and apply a kernel; or bring them into the form of the plain autograd function, and apply it.

    options: A number under torch.compile, see `_compiled.register`.
    """
    ignore_index = check_ignore_index(ignore_index)
    if not isinstance(options, Options):
        from emphasis.torch import _compiled

        if inplace:
            raise EmphasisValueError("inplace=True is not for torch.compile; use inplace=False")
        return _compiled.loss(logits, labels, options, ignore_index, class_weight, sample_weight)
    if is_tracing() and not inplace:
        with warnings.catch_warnings():  # that the trace holds for inputs of these shapes alone, as every trace does
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            return plain_loss(logits, labels, options, ignore_index, class_weight, sample_weight)
    if isinstance(logits, Tensor) and isinstance(labels, Tensor):
        backend = backend_for_labels(logits, labels)
        if backend is not None:
            return fused_loss(
                logits, labels, class_weight, sample_weight, Call(options, ignore_index, backend, inplace)
            )
        backend = None if inplace else backend_for_rows(logits, labels, options)
        if backend is not None:
            return fused_loss(logits, labels, class_weight, sample_weight, Call(options, ignore_index, backend))
    if inplace:
        raise EmphasisValueError(
            "inplace=True needs integer labels that fit logits of shape (N, C) or (N, C, d1, ...), outside "
            "torch.compile and torch.func; use inplace=False"
        )
    return plain_loss(logits, labels, options, ignore_index, class_weight, sample_weight)


def plain_loss(
    logits: Tensor,
    labels: Tensor,
    options: Options,
    ignore_index: int,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
) -> Tensor:
    """Return the loss by differentiable torch operators, for tensors of any kind."""
    given = _checks.prepare(logits, labels, class_weight, sample_weight, ignore_index, options.only_ratios_matter)
    logits, labels, targets, class_weight, factor, valid = given
    options.check_range(logits.dtype)
    _checks.check_factor(factor, logits, options)
    if targets is not None:
        targets = _checks.weighted_targets(targets, class_weight)
    else:
        targets = labels if valid is None else torch.where(valid, labels, 0)
    if is_tracing():
        return _traced(logits, targets, factor, valid, options)
    loss: Tensor = EmphasisFunction.apply(  # type: ignore[no-untyped-call]
        logits, targets, factor, valid, options, torch.is_grad_enabled()
    )[0]
    return loss


def _traced(logits: Tensor, labels: Tensor, factor: Tensor | None, valid: Tensor | None, options: Options) -> Tensor:
    """Return the loss and its derivative in operators that autograd differentiates, all that a trace can hold."""
    loss, gradient = loss_and_gradient(logits, labels, factor, valid, options, True)
    assert gradient is not None
    linear = gradient.detach() * (logits - logits.detach())
    return loss.detach() + (linear.sum(1) if options.reduction == "none" else linear.sum())
