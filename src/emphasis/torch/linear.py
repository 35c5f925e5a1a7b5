"""`linear_emphasis_loss`: the last linear layer and the loss in one, for logits that are too large for memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from emphasis.compatibility.torch import is_tracing, transforms_are_active
from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.kernels.backend import ExampleError, can_be_read, is_watched
from emphasis.torch import _checks
from emphasis.torch._linear import LinearFunction
from emphasis.torch.functional import apply_options, resolve
from emphasis.weighting import DEFAULT_WEIGHTING, MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization, Reduction, check_ignore_index

# Smaller chunks of tokens take longer, as each matrix product reads the whole weight.
_TOKENS = 512  # tokens in a chunk
_SHARE = 8  # with few tokens a chunk has an eighth of them
_SMALLEST = 2**22  # but at least this number of logits, which need little memory


def linear_emphasis_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    weighting: WeightingLike = DEFAULT_WEIGHTING,
    *,
    bias: Tensor | None = None,
    normalization: Normalization = "integral",
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    max_margin: MaxMargin = "auto",
    process_group: Any = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Return `emphasis_loss(hidden @ weight.T + bias, labels, weighting, ...)` without storing all logits.

    Chunk by chunk of the tokens, logits are overwritten with derivatives, which are then used for the gradients. This
    takes the same three matrix products as without chunks. Gradients of hidden, weight and bias are computed in the
    forward pass, so that the additional memory is one chunk and the gradients themselves.

    On the CPU, tokens that are ignored or have weight 0 are left out of all products, and tokens with negligible
    derivatives out of the two products for the gradients: together they have at most an eighth of the dtype's eps
    (1.5e-8 in float32, 1e-3 in bfloat16) of the sum of all w and of all w |h|, which is less than the effect of
    rounding. The gradient of the hidden state of such a token is 0. On other devices finding these tokens would make
    the host wait for the device, so all tokens are used; if many are ignored, pass only the others:
    hidden[labels != -100].

    With `MAE()` and normalization=None this is "dynamic fine-tuning" (DFT), the loss of which is p.detach() *
    cross-entropy of each token: both have the derivative p (1-p) (e_y - q), up to sign, with w = 2 p (1-p) (Eq. 6).

    Args:
        hidden: Last hidden states, of shape (..., H), such as (B, T, H). Shift them if the model predicts the next
            token: hidden[:, :-1] for labels tokens[:, 1:].
        weight: Weight of the last layer, of shape (V, H) and the dtype of `hidden`.
        labels: Integers in [0, V) or `ignore_index`, of shape hidden.shape[:-1].
        weighting: See `emphasis_loss`.
        bias: Bias of the last layer, of shape (V,), or None.
        normalization: See `emphasis_loss`.
        reduction: See `emphasis_loss`. "none" computes the logits again in the backward pass, as the gradients depend
            on those of the losses.
        ignore_index: Label of tokens that are ignored, such as padding and prompts.
        class_weight: Factors of w by class, >= 0, of shape (V,).
        sample_weight: Factors of w by token, >= 0, of the shape of the labels.
        max_margin: See `emphasis_loss`.
        process_group: See `emphasis_loss`; the mean is over the tokens of all ranks.
        chunk_size: Number of tokens in a chunk. Defaults to 512, or to an eighth of the tokens if that is less; to more
            if a chunk would have fewer than 2**22 logits (16 MiB in float32).

    Returns:
        The loss; float32 for float16 and bfloat16. The first backward pass uses the gradients of the forward pass, and
        a second one computes them again. The loss cannot be differentiated twice. torch.compile breaks the graph here.
        Under torch.func, forward-mode differentiation and tracing, all logits are computed at once.

    Raises:
        TypeError, ValueError, OverflowError: See `emphasis_loss`; or shapes or dtypes do not match. The hidden states
            of tokens that are ignored are not checked.

    Examples:
        >>> import torch
        >>> from emphasis.torch import emphasis_loss, linear_emphasis_loss
        >>> features, weight, labels = torch.randn(6, 4), torch.randn(3, 4), torch.arange(6) % 3
        >>> loss = linear_emphasis_loss(features, weight, labels)
        >>> torch.testing.assert_close(loss, emphasis_loss(features @ weight.T, labels))
    """
    settings = (weighting, normalization, reduction, max_margin, process_group)
    arguments = hidden, weight, bias, labels, class_weight, sample_weight, settings, ignore_index, chunk_size
    if torch.compiler.is_compiling():
        from emphasis.torch import _compiled  # which imports the compiler

        loss: Tensor = _compiled.linear(*arguments)
        return loss
    return uncompiled(*arguments)


def uncompiled(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    settings: tuple[WeightingLike, Normalization, Reduction, MaxMargin, Any],
    ignore_index: int,
    chunk_size: int | None,
) -> Tensor:
    """Check the arguments and apply the autograd function; see `linear_emphasis_loss`."""
    loss: Tensor
    options = resolve(*settings)
    ignore_index = check_ignore_index(ignore_index)
    if not is_tracing():  # comparing shapes in a trace, which is for one shape, warns
        _check(hidden, weight, bias, labels, sample_weight, chunk_size)
    sample_weight = None if sample_weight is None else sample_weight.reshape(-1)
    if _is_transformed(hidden, weight, bias):
        logits = F.linear(hidden, weight, bias).reshape(-1, weight.shape[0])
        loss = apply_options(logits, labels.reshape(-1), options, ignore_index, class_weight, sample_weight)
        return loss.view(labels.shape) if options.reduction == "none" else loss
    if torch.is_autocast_enabled(hidden.device.type) and hidden.dtype != torch.float64:  # as F.linear does
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    tokens = labels.reshape(-1).long()
    _checks.check_classes(tokens, weight.shape[0], ignore_index)
    ratios = options.only_ratios_matter
    factor = _checks.factor_of(tokens, class_weight, sample_weight, weight.shape[0], hidden, ratios)
    _checks.check_factor(factor, hidden, options)
    index = _taking_part(tokens, factor, ignore_index)
    tokens, factor = tokens[index], None if factor is None else factor[index]
    rows = chunk_size or max(min(math.ceil(len(index) / _SHARE), _TOKENS), math.ceil(_SMALLEST / weight.shape[0]))
    problem_settings = options, ignore_index, rows
    try:
        loss = LinearFunction.apply(  # type: ignore[no-untyped-call]
            hidden.reshape(-1, hidden.shape[-1]),
            weight,
            bias,
            index,
            tokens,
            factor,
            problem_settings,
            torch.is_grad_enabled(),
        )
    except ExampleError as error:
        logits = weight[0, 0].expand(*labels.shape[:1], len(weight), *labels.shape[1:])  # only the shape is used
        raise _checks.example_error(error, logits, labels, ignore_index) from None
    return loss.view(labels.shape) if options.reduction == "none" else loss


def _is_transformed(*tensors: Tensor | None) -> bool:
    """Return whether tensors are under torch.func, forward-mode differentiation, a trace or a dispatch mode."""
    return (
        transforms_are_active()
        or is_watched()
        or any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]
    )


def _taking_part(labels: Tensor, factor: Tensor | None, ignore_index: int) -> Tensor:
    """Return the indices of the labels that count, or of all where finding them would make the host wait."""
    if not can_be_read(labels):
        return torch.arange(len(labels), device=labels.device)
    counts = labels != ignore_index
    if factor is not None:
        counts &= factor != 0.0
    return counts.nonzero().squeeze(1)


def _check(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    sample_weight: Tensor | None,
    chunk_size: int | None,
) -> None:
    """Check types, shapes, dtypes and devices; raise TypeError or ValueError if they do not match."""
    for name, tensor in {"hidden": hidden, "weight": weight, "labels": labels, "bias": bias}.items():
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor):
            raise EmphasisTypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.device != hidden.device:
            raise EmphasisValueError(f"{name} is on {tensor.device} and hidden on {hidden.device}; move one of them")
        if name != "labels" and not tensor.is_floating_point():
            raise EmphasisTypeError(f"{name} must be floating, got {tensor.dtype}")
        if name == "hidden" and tensor.dtype not in _checks.DTYPES:
            raise EmphasisTypeError(f"hidden of {tensor.dtype} is not supported; use float32 or bfloat16, say")
        if name != "labels" and tensor.dtype != hidden.dtype:
            raise EmphasisTypeError(
                f"{name} is {tensor.dtype} and hidden {hidden.dtype}; use one dtype, or torch.autocast"
            )
    if weight.dim() != 2 or hidden.dim() < 1 or hidden.shape[-1] != weight.shape[1]:
        raise EmphasisValueError(
            f"hidden of shape {tuple(hidden.shape)} and weight of shape {tuple(weight.shape)} do not fit; "
            "use (..., H) and (V, H), as torch.nn.Linear(H, V).weight is"
        )
    if weight.shape[0] < 2:
        raise EmphasisValueError(
            f"weight of shape {tuple(weight.shape)} has V={weight.shape[0]} classes; V must be >= 2"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise EmphasisValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise EmphasisTypeError(f"labels must be integers, got {labels.dtype}; soft labels need emphasis_loss")
    if labels.shape != hidden.shape[:-1]:
        raise EmphasisValueError(
            f"labels must have shape {tuple(hidden.shape[:-1])} for hidden of shape {tuple(hidden.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    if sample_weight is not None and not (isinstance(sample_weight, Tensor) and sample_weight.shape == labels.shape):
        _checks.check_weight("sample_weight", sample_weight, labels.shape, hidden, False)
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise EmphasisValueError(f"chunk_size={chunk_size!r} is not allowed; use a number of tokens >= 1, or None")
