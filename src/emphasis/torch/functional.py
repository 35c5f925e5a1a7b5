"""`emphasis_loss`: the loss whose derivative with respect to the logits is that of a weighting."""

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
    """Return the loss whose derivative has L1 norm w(p) and the direction of cross-entropy's (Eq. 7 without its 0/0).

    With u = z_y - logsumexp_{j != y} z_j, p = sigmoid(u) and q the softmax over the other classes, the derivative of an
    example is dz_y = -w(p)/2, dz_j = (w(p)/2) q_j. It is computed in float64 for float64 logits and in float32
    otherwise.

    Args:
        logits: Finite floating tensor of shape (N, C) or (N, C, d1, ...), C >= 2. Shape (N,) is the binary form with
            one logit z, which is equivalent to the two columns (0, z) and has the derivative -+ w(p)/2.
        labels: Integers in [0, C) or `ignore_index`, of shape (N,) or (N, d1, ...). Or soft labels, a floating tensor
            of the shape of the logits with probabilities t over the classes; the derivative is then sum_k t_k d_k, with
            d_k that of the hard label k. (CCE then gives F.cross_entropy with probabilities, except that the "mean" of
            the latter with class weights is different.) For logits (N,): integers or bools in {0, 1}, or probabilities
            of class 1.
        weighting: A weighting, its dictionary, the name of a family, or a function p -> w or (p, 1-p) -> w. A function
            must not change after its first use, as its integral and loss value are computed once.
        normalization: Normalization of w, none if None. With "integral" it is divided by its integral over [0, 1] (Eq.
            8). With "batch" the weights are divided by their sum over the batch, so that the total emphasis is 1, which
            is finite for any beta. The normalizer is a constant for differentiation.
        reduction: "mean" divides the sum over examples by the sum of class_weight * sample_weight over the valid ones,
            as F.cross_entropy does; the others are "sum" and "none", which returns a loss for each example. Under
            "batch" the weights are those of a mean: "mean" and "sum" are the same, and the terms of "none" sum to it.
        ignore_index: Integer label of examples that are ignored.
        class_weight: Factors of w by class, >= 0, of shape (C,). With soft labels t_k is multiplied by that of class k.
        sample_weight: Factors of w by example, >= 0, of the shape of integer labels.
        max_margin: Margin beyond which the derivative is 0: a number, None for no limit, or "auto" for 16.6, where 1-p
            rounds to 0 in float32, if w(1) > 0 and no limit otherwise. Examples beyond it are not counted in the sum
            over the batch or in the loss, but in the denominator of "mean".
        process_group: Group of torch.distributed over which the batch is distributed, such as
            `torch.distributed.group.WORLD`: sums are taken over its ranks, and the loss is scaled for
            DistributedDataParallel and fully_shard, which average gradients over ranks. Or an `Accumulation`, for sums
            over several calls. Without it, and for "sum" and "none" without "batch", this call is used by itself.
        inplace: Whether the derivative is written into the memory of the logits, which needs no buffer. For outputs of
            a network that are not read afterwards; not for leaf tensors, parts of other tensors, or soft labels
            (ValueError). An operation that saved the logits for its own backward pass, such as exp, raises an error
            there. There is one backward pass and no second derivative. If no gradient is needed, as under no_grad, the
            logits do not change.

    Returns:
        The loss; float32 for float16 and bfloat16. Its value is the potential of the weighting (`Weighting.potential`)
        after normalization, or the weighted cross-entropy under "batch", which has no potential. It is 0, with a graph,
        for an empty batch, and if all labels are ignored, all weights are 0 or all margins are beyond `max_margin`.

        Integer labels need one buffer of the size of the logits, and none with `inplace`. There is a fused kernel for
        float32, bfloat16 and float16 on GPUs, and on CPUs with a C compiler; otherwise torch operators are used.
        Integer and soft labels work under torch.compile (create the weighting outside of the compiled function) and
        torch.func.vmap and grad, with a few more buffers. The loss can be differentiated twice; class_weight,
        sample_weight and soft labels are constants.

    Raises:
        TypeError, ValueError: A shape, dtype, device, label, weight or option is not allowed, logits are NaN or
            infinite, or weights of a function are negative. Values of tensors are read on the CPU only, and not under
            torch.compile or vmap; elsewhere such logits and weights make the loss NaN or infinite.
        OverflowError: w exceeds the range of the dtype, such as with a large beta and normalization=None.

    Warns:
        EmphasisWarning: Once for each weighting with w(1) > 0 that is used with max_margin=None: its derivative does
            not end.

    Examples:
        >>> import torch
        >>> from emphasis import DM
        >>> from emphasis.torch import emphasis_loss
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], requires_grad=True)
        >>> labels = torch.tensor([0, 0])
        >>> loss = emphasis_loss(logits, labels)
        >>> loss.backward()
        >>> emphasis_loss(logits, labels, DM(lam=0.5, beta=8), reduction="none").shape
        torch.Size([2])
        >>> cross_entropy = emphasis_loss(logits, labels, "CCE")
        >>> torch.testing.assert_close(cross_entropy, torch.nn.functional.cross_entropy(logits, labels))
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
    """Check the arguments that are not tensors and return them resolved; see `emphasis_loss`."""
    options = make_options(as_torch_weighting(weighting), normalization, reduction, max_margin, process_group)
    if max_margin is None and not options.weighting.vanishes and options.weighting not in _warned:
        _warned.add(options.weighting)
        cure = " or vanishing=True" if isinstance(options.weighting, DM) else ""
        warnings.warn(
            f"{options.weighting!r} has w(1) > 0 and max_margin=None: the derivative of learned examples "
            f'does not vanish, and plain networks diverge, with clean labels too. Use max_margin="auto"{cure}',
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
    """Check the tensors and compute the loss with a kernel, or with the plain autograd function.

    `options` is an id under torch.compile, see `_compiled.register`.
    """
    ignore_index = check_ignore_index(ignore_index)
    if not isinstance(options, Options):
        from emphasis.torch import _compiled

        if inplace:
            raise EmphasisValueError("inplace=True is not supported under torch.compile; use inplace=False")
        return _compiled.loss(logits, labels, options, ignore_index, class_weight, sample_weight)
    if is_tracing() and not inplace:
        with warnings.catch_warnings():  # traces are for inputs of these shapes
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
    """Return the loss by differentiable torch operators, for tensors of any type."""
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
    """Return the loss by operators that autograd differentiates, which are all that a trace can contain."""
    loss, gradient = loss_and_gradient(logits, labels, factor, valid, options, True)
    assert gradient is not None
    linear = gradient.detach() * (logits - logits.detach())
    return loss.detach() + (linear.sum(1) if options.reduction == "none" else linear.sum())
