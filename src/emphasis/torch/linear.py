"""`linear_emphasis_loss`: the last linear layer and the loss in one, for vocabularies whose logits would not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.kernels.backend import Backend, ExampleError, GradientIn
from emphasis.torch import _checks
from emphasis.torch._autograd import denominator, weigh_examples
from emphasis.torch._fused import backend_on, half_weight
from emphasis.torch._options import Options, of_each
from emphasis.torch.functional import resolve
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization, Reduction

_SHARE = 20  # of the tokens in a chunk: 1/16 of the logits, less what the matrix products need themselves
_SMALLEST = 2**21  # logits in a chunk: products smaller than this are slow, and the memory is nothing


def linear_emphasis_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    weighting: WeightingLike,
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
    """Return `emphasis_loss(hidden @ weight.T + bias, labels, weighting, ...)` without ever holding those logits.

    A chunk of tokens at a time, logits become derivatives in their own memory and then their share of the gradients:
    the same three matrix products as without chunks, and no fourth. Gradients of hidden, weight and bias are exact,
    and made in the forward pass, so that the extra memory is one chunk and the gradients themselves.

    With `MAE()` and normalization=None this is "dynamic fine-tuning" (DFT), whose loss is p.detach() * cross-entropy
    token by token: both have the derivative p (1-p) (e_y - q), up to sign, w = 2 p (1-p) (Eq. 6).

    Args:
        hidden: (..., H), such as (B, T, H): the last hidden states, shifted against the labels where the model
            predicts the next token: hidden[:, :-1] and tokens[:, 1:].
        weight: (V, H) of the last layer, of the same dtype.
        labels: hidden.shape[:-1], integers in [0, V) or `ignore_index`.
        weighting: As in `emphasis_loss`.
        bias: (V,) or None.
        normalization: "batch" needs every token's weight before the first derivative, and so makes the logits a second
            time in the backward pass.
        reduction: As in `emphasis_loss`, over all tokens that count. "none" makes the logits a second time as well, as
            its gradients need what comes from above.
        ignore_index: Label of tokens to leave out, such as padding and prompts.
        class_weight: (V,) >= 0.
        sample_weight: Of the labels' shape, >= 0.
        max_margin: As in `emphasis_loss`.
        process_group: As in `emphasis_loss`: the mean is over the tokens of all ranks.
        chunk_size: Tokens at a time; by default a twentieth of them, more where that would be slow for little memory.

    Returns:
        The loss, float32 for half types. One backward pass makes the gradients final; a second one computes anew.
        Not differentiable twice, and not inside torch.func; torch.compile breaks its graph here.

    Raises:
        TypeError, ValueError, OverflowError: As `emphasis_loss`, and shapes or dtypes that do not fit each other.
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
    """Check everything, and apply the autograd function."""
    options = resolve(*settings)
    ignore_index = _checks.check_ignore_index(ignore_index)
    _check(hidden, weight, bias, labels, chunk_size)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    tokens = labels.reshape(-1).long()
    if sample_weight is not None:
        if not isinstance(sample_weight, Tensor) or sample_weight.shape != labels.shape:
            _checks.check_weight("sample_weight", sample_weight, labels.shape, hidden, False)
        sample_weight = sample_weight.reshape(-1)
    _checks.check_classes(tokens, weight.shape[0], ignore_index)
    ratios = options.only_ratios_matter
    factor = _checks.factor_of(tokens, class_weight, sample_weight, weight.shape[0], hidden, ratios)
    _checks.check_factor(factor, hidden, options)
    rows = chunk_size or max(math.ceil(len(tokens) / _SHARE), math.ceil(_SMALLEST / weight.shape[0]))
    try:
        loss: Tensor = _LinearFunction.apply(  # type: ignore[no-untyped-call]
            hidden.reshape(-1, hidden.shape[-1]), weight, bias, tokens, factor, (options, ignore_index, rows)
        )
    except ExampleError as error:
        raise _checks.example_error(error, weight.t(), labels, ignore_index) from None
    return loss.view(labels.shape) if options.reduction == "none" else loss


def _check(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk_size: int | None) -> None:
    """Raise unless all but the labels' values fits."""
    for name, tensor in {"hidden": hidden, "weight": weight, "labels": labels, "bias": bias}.items():
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor):
            raise EmphasisTypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.device != hidden.device:
            raise EmphasisValueError(f"{name} is on {tensor.device} and hidden on {hidden.device}; move one of them")
        if name != "labels" and not tensor.is_floating_point():
            raise EmphasisTypeError(f"{name} must be floating, got {tensor.dtype}")
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
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise EmphasisValueError(f"chunk_size={chunk_size!r} is not allowed; use a number of tokens >= 1, or None")


@dataclass(frozen=True)
class _Problem:
    """What does not change: hidden (N, H), weight (V, H), bias (V,), labels (N,), factor (N,) and the options."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor
    factor: Tensor | None
    options: Options
    ignore_index: int
    chunk_size: int

    @property
    def backend(self) -> Backend:
        """Whose kernels run here."""
        return backend_on(self.hidden)

    @property
    def one_sweep(self) -> bool:
        """Whether a token's derivative is known without the other tokens and what comes from above."""
        return self.options.normalization != "batch" and self.options.reduction != "none"


@dataclass
class _Gradients:
    """Gradients of hidden, weight and bias, None where not asked for; each still to be multiplied by `unit`."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    unit: Tensor | float

    def times(self, upstream: Tensor | float, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """Return the gradients times upstream, in their own memory if it is of that dtype."""
        by = upstream * self.unit
        is_one = not (isinstance(by, Tensor) and by.device.type != "cpu") and float(by) == 1.0
        every = (self.hidden, self.weight, self.bias)
        return tuple(None if g is None else (g if is_one else g.mul_(by)).to(dtype) for g in every)


class _LinearFunction(torch.autograd.Function):
    """(hidden, weight, bias, labels, factor, (options, ignore_index, chunk_size)) -> loss; see `_Problem`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Compute the loss and, in the same sweep if it can be, the gradients."""
        *tensors, ctx.settings = inputs
        ctx.save_for_backward(*tensors)
        problem = _Problem(*tensors, *ctx.settings)
        ctx.gradients = ctx.weight = None
        if problem.one_sweep:
            loss, ctx.gradients = _loss_and_gradients(problem, ctx.needs_input_grad[:3])
        else:
            loss, ctx.weight = _loss_and_weights(problem)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients times what comes from above."""
        problem = _Problem(*ctx.saved_tensors, *ctx.settings)
        wanted = ctx.needs_input_grad[:3]
        gradients, ctx.gradients = ctx.gradients, None
        if not problem.one_sweep:
            gradients, grad_loss = (
                _gradients_of_weights(problem, wanted, ctx.weight * grad_loss),
                grad_loss.new_ones(()),
            )
        elif gradients is None:  # a second call
            gradients = _loss_and_gradients(problem, wanted)[1]
        return (*gradients.times(grad_loss, problem.hidden.dtype), None, None, None)


def _loss_and_gradients(problem: _Problem, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, _Gradients]:
    """Return the loss, a mean or a sum, and the gradients, in one sweep."""
    options, factor, ignore_index, backend = problem.options, problem.factor, problem.ignore_index, problem.backend
    dtype = _checks.arithmetic_dtype(problem.hidden)
    valid = problem.labels != ignore_index
    unit: Tensor | float = 1.0
    if options.reduction == "mean":
        counted = valid.double() if factor is None else torch.where(valid, factor, 0.0)
        total = denominator(counted, options)
        if problem.hidden.dtype == torch.float16:  # which could not hold a derivative divided by so many tokens
            unit = 1.0 / total
        else:
            factor = counted / total
    each = of_each(options)
    tables = each.tables_for(problem.hidden.device, problem.hidden.dtype)
    losses = torch.zeros(len(problem.labels), dtype=dtype, device=problem.labels.device)
    gradient_in: GradientIn = "the logits" if any(wanted) else "nothing"

    def derive(logits: Tensor, part: slice) -> None:
        labels, own = problem.labels[part], None if factor is None else factor[part]
        if tables is not None:
            losses[part] = backend.loss_of_labels(
                logits, labels, own, tables[0], ignore_index, "none", False, gradient_in
            ).loss
            return
        margin, state = backend.margins(logits, labels, ignore_index, gradient_in)
        losses[part], weight = weigh_examples(margin, own, valid[part], each, logits.dtype)
        if gradient_in != "nothing":
            half = (0.5 * weight).to(margin.dtype)
            backend.derivative(logits, labels, half, state, ignore_index, gradient_in)

    gradients = _sweep(problem, wanted, derive, unit)
    return losses.sum() * unit, gradients


def _loss_and_weights(problem: _Problem) -> tuple[Tensor, Tensor]:
    """Return the loss, and each token's weight in it, (N,): the margins first, as a batch needs them all."""
    options = problem.options
    options.check_range(problem.hidden.dtype)
    margin = torch.zeros(
        len(problem.labels), dtype=_checks.arithmetic_dtype(problem.hidden), device=problem.hidden.device
    )

    def derive(logits: Tensor, part: slice) -> None:
        labels = problem.labels[part]
        margin[part] = problem.backend.margins(logits, labels, problem.ignore_index, "the logits").margin

    _sweep(problem, (False, False, False), derive)
    valid = problem.labels != problem.ignore_index
    loss, weight = weigh_examples(margin, problem.factor, valid, options, problem.hidden.dtype)
    return loss if options.reduction == "none" else loss.sum(), weight


def _gradients_of_weights(problem: _Problem, wanted: tuple[bool, bool, bool], weight: Tensor) -> _Gradients:
    """Return the gradients of tokens with these weights, (N,)."""
    backend, ignore_index = problem.backend, problem.ignore_index
    half, unit = half_weight(weight, problem.hidden.dtype, problem.options.normalization == "batch")
    half = half.to(_checks.arithmetic_dtype(problem.hidden))

    def derive(logits: Tensor, part: slice) -> None:
        labels = problem.labels[part]
        state = backend.margins(logits, labels, ignore_index, "the logits").state
        backend.derivative(logits, labels, half[part], state, ignore_index, "the logits")

    return _sweep(problem, wanted, derive, unit)


def _sweep(
    problem: _Problem,
    wanted: tuple[bool, bool, bool],
    derive: Callable[[Tensor, slice], None],
    unit: Tensor | float = 1.0,
) -> _Gradients:
    """Make the logits of one chunk of tokens after the other, have them turned into derivatives, and add those up.

    Args:
        problem: What to go through.
        wanted: Which gradients; for none of them `derive` may leave anything in the logits.
        derive: Takes the logits of the tokens of a slice and leaves their derivatives in the same memory.
        unit: Passed on.
    """
    hidden, weight, bias = problem.hidden, problem.weight, problem.bias
    dtype = _checks.arithmetic_dtype(hidden)
    grad_hidden = torch.empty_like(hidden) if wanted[0] else None
    grad_weight = torch.zeros_like(weight, dtype=dtype) if wanted[1] else None
    grad_bias = None if bias is None or not wanted[2] else torch.zeros_like(bias, dtype=dtype)
    buffer = hidden.new_empty(min(problem.chunk_size, len(hidden)), len(weight))
    for start in range(0, len(hidden), problem.chunk_size):
        part = slice(start, min(start + problem.chunk_size, len(hidden)))
        logits = buffer[: part.stop - start]
        if bias is None:
            torch.mm(hidden[part], weight.t(), out=logits)
        else:
            torch.addmm(bias, hidden[part], weight.t(), out=logits)
        try:
            derive(logits, part)
        except ExampleError as error:
            raise ExampleError(start + error.example, error.what) from None
        if grad_hidden is not None:
            torch.mm(logits, weight, out=grad_hidden[part])
        if grad_weight is not None:
            if dtype == hidden.dtype:
                grad_weight.addmm_(logits.t(), hidden[part])
            else:
                grad_weight.add_(logits.t() @ hidden[part])
        if grad_bias is not None:
            grad_bias.add_(logits.sum(0, dtype=dtype))
    return _Gradients(grad_hidden, grad_weight, grad_bias, unit)
