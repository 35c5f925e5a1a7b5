"""Input checks of the loss: each bad input has a decided outcome, and an error names value, allowed set and cure.

Values are read only where that is free: on CPU tensors outside `torch.compile` and `torch.func.vmap`. Elsewhere
reading one would stall the device, so there NaN and infinity reach the loss, which is NaN or infinite then.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.kernels.backend import ExampleError, can_be_read
from emphasis.weighting.options import check_ignore_index, factor_overflow, label_out_of_range, nonfinite_logits

if TYPE_CHECKING:
    from emphasis.torch._options import Options


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def is_true(flag: Tensor) -> bool:
    """Return whether a zero-dimensional flag is set, False where its value cannot be read without a stall."""
    return not torch.compiler.is_compiling() and can_be_read(flag) and bool(flag)


def arithmetic_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype that the loss computes in: float32 for halves, the logits' own otherwise."""
    return torch.promote_types(logits.dtype, torch.float32)


def check_logits(logits: Tensor) -> None:
    """Raise TypeError or ValueError unless logits are floating (N, C, ...), C >= 2."""
    if not isinstance(logits, Tensor):
        raise EmphasisTypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}")
    if not logits.is_floating_point():
        raise EmphasisTypeError(f"logits must be floating, got {logits.dtype}; pass the network's raw outputs")
    if logits.dtype not in DTYPES or logits.layout is not torch.strided:
        kind = logits.dtype if logits.dtype not in DTYPES else logits.layout
        raise EmphasisTypeError(
            f"logits of {kind} are not supported; use float32, float64, bfloat16 or float16 in a dense tensor, such as "
            "logits.float()"
        )
    if logits.dim() < 2:
        raise EmphasisValueError(f"logits must be (N, C), (N, C, d1, ...) or (N,), got shape {tuple(logits.shape)}")
    if logits.shape[1] < 2:
        raise EmphasisValueError(
            f"logits of shape {tuple(logits.shape)} have C={logits.shape[1]} classes; C must be >= 2. "
            "For the binary form with one logit pass shape (N,): logits.squeeze(1)"
        )


def check_labels(logits: Tensor, labels: Tensor, ignore_index: int) -> None:
    """Raise unless labels are class indices or rows of probabilities that fit the logits."""
    if not isinstance(labels, Tensor):
        raise EmphasisTypeError(f"labels must be a torch.Tensor, got {type(labels).__name__}")
    if labels.device != logits.device:
        raise EmphasisValueError(
            f"labels are on {labels.device} and logits on {logits.device}; move one: labels.to(logits.device)"
        )
    if labels.is_complex():
        raise EmphasisTypeError(f"labels must be integers or probabilities, got {labels.dtype}")
    check_ignore_index(ignore_index)
    per_example = logits.shape[:1] + logits.shape[2:]
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            cure = "; class indices must be integers: labels.long()" if labels.shape == per_example else ""
            raise EmphasisValueError(
                f"floating labels are rows of probabilities and must have the logits' shape "
                f"{tuple(logits.shape)}, got {tuple(labels.shape)}{cure}"
            )
        if labels.requires_grad:
            raise EmphasisValueError("soft labels that require grad are not differentiated; pass labels.detach()")
        _check_probabilities(labels)
        return
    if labels.shape != per_example:
        raise EmphasisValueError(
            f"labels must have shape {tuple(per_example)} for logits of shape {tuple(logits.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    check_classes(labels, logits.shape[1], ignore_index)


def check_classes(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise ValueError if an integer label is neither in [0, num_classes) nor `ignore_index`."""
    if labels.device.type != "cpu":
        return
    labels = labels.long()  # 8-bit labels could not be compared with 256 or -100
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if is_true(wrong.any()):
        raise label_out_of_range(int(labels[wrong][0]), num_classes, ignore_index)


def _check_probabilities(labels: Tensor) -> None:
    wrong = ~((labels >= 0.0) & (labels <= 1.0 + 1e-3)).all(1) | ((labels.sum(1) - 1.0).abs() > 1e-2)
    if is_true(wrong.any()):
        where: tuple[int, ...] = tuple(wrong.nonzero()[0].tolist())
        raise _wrong_probabilities(labels.movedim(1, -1)[where], where)


def check_weight(
    name: str, weight: Tensor | None, shape: torch.Size, logits: Tensor, only_ratios_matter: bool
) -> Tensor | None:
    """Return a class or sample weight in float64, or raise unless it fits and is >= 0.

    Where only ratios matter they are divided by the largest, so that no product of weights leaves a dtype's range.
    """
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        raise EmphasisTypeError(f"{name} must be a torch.Tensor, got {type(weight).__name__}")
    if weight.shape != shape:
        raise EmphasisValueError(f"{name} must have shape {tuple(shape)}, got {tuple(weight.shape)}")
    if weight.device != logits.device:
        raise EmphasisValueError(
            f"{name} is on {weight.device} and logits on {logits.device}; move one: {name}.to(logits.device)"
        )
    if weight.requires_grad:
        raise EmphasisValueError(
            f'{name} that requires grad is not differentiated; use reduction="none" with normalization=None or '
            f'"integral" and multiply the losses by it yourself'
        )
    bad = ~((weight >= 0.0) & (weight < torch.inf))
    if is_true(bad.any()):
        raise EmphasisValueError(f"{name} holds {weight[bad][0].item()}; weights must be finite and >= 0")
    weight = weight.float() if weight.device.type == "mps" else weight.double()  # MPS has no float64
    if only_ratios_matter and weight.numel():
        largest = weight.amax()
        weight = weight / torch.where(largest == 0.0, 1.0, largest)
    return weight


def factor_of(
    labels: Tensor,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    num_classes: int,
    like: Tensor,
    only_ratios_matter: bool,
) -> Tensor | None:
    """Return the examples' weights, checked, as one float64 factor each; None for 1. `like` has their device.

    labels: Integers; those outside [0, num_classes) get anything.
    """
    factor = check_weight("sample_weight", sample_weight, labels.shape, like, only_ratios_matter)
    class_weight = check_weight("class_weight", class_weight, torch.Size((num_classes,)), like, only_ratios_matter)
    if class_weight is not None:
        of_label = class_weight[labels.clamp(0, num_classes - 1)]
        factor = of_label if factor is None else factor * of_label
    return factor


def check_factor(factor: Tensor | None, logits: Tensor, options: Options) -> None:
    """Raise OverflowError if a weight times an example's factor is more than the logits' dtype holds."""
    if factor is None or options.only_ratios_matter or factor.device.type != "cpu" or not factor.numel():
        return
    # One mean or batch over several ranks adds the factors up; else each stands alone.
    is_sum = options.normalization == "batch" or options.reduction == "mean"
    log_largest = 0.0 if is_sum or options.unbounded else max(options.log_largest, 0.0)
    dtype = arithmetic_dtype(logits) if is_sum else logits.dtype
    reach = (factor.sum() if is_sum else factor.amax()) > torch.finfo(dtype).max * math.exp(-log_largest)
    if is_true(reach):
        raise factor_overflow(options.weighting, factor.amax().item(), dtype)


class Prepared(NamedTuple):
    """Checked tensors in the form of the plain path.

    Attributes:
        logits: (N, C, ...), as given but for the binary form, which gets two columns.
        labels: int64 class indices, as given; of no use with targets.
        targets: Rows of probabilities, None for class indices.
        class_weight: (C,) float64, what multiplies the targets; None for 1 and for class indices.
        factor: The examples' weights in float64, None for 1.
        valid: Which examples have a label, None for all.
    """

    logits: Tensor
    labels: Tensor
    targets: Tensor | None
    class_weight: Tensor | None
    factor: Tensor | None
    valid: Tensor | None


def prepare(
    logits: Tensor,
    labels: Tensor,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    only_ratios_matter: bool,
) -> Prepared:
    """Return the tensors checked, or raise TypeError or ValueError."""
    if isinstance(logits, Tensor) and logits.dim() == 1 and isinstance(labels, Tensor):
        logits, labels = two_columns(logits, labels)
    check_logits(logits)
    check_labels(logits, labels, ignore_index)
    if labels.is_floating_point():
        per_example = logits.shape[:1] + logits.shape[2:]
        class_weight = check_weight("class_weight", class_weight, logits.shape[1:2], logits, only_ratios_matter)
        factor = check_weight("sample_weight", sample_weight, per_example, logits, only_ratios_matter)
        check_finite(logits, None)
        return Prepared(logits, labels, labels.to(arithmetic_dtype(logits)), class_weight, factor, None)
    labels = labels.long()
    valid = labels != ignore_index
    factor = factor_of(labels, class_weight, sample_weight, logits.shape[1], logits, only_ratios_matter)
    check_finite(logits, valid)
    return Prepared(logits, labels, None, None, factor, None if is_true(valid.all()) else valid)


def weighted_targets(targets: Tensor, class_weight: Tensor | None) -> Tensor:
    """Return rows of probabilities (N, C, ...) times the classes' weights (C,)."""
    if class_weight is None:
        return targets
    return targets * class_weight.to(targets.dtype).view(-1, *[1] * (targets.dim() - 2))


def check_finite(logits: Tensor, valid: Tensor | None) -> None:
    """Raise ValueError if a logit that counts is NaN or infinite; -inf, a class ruled out, is not allowed either."""
    total = logits.detach().sum(1)  # one pass, no mask: NaN and infinity survive a sum; overflow is sorted out below
    bad = ~total.isfinite() if valid is None else ~total.isfinite() & valid
    if not is_true(bad.any()):
        return
    exact = ~logits.detach().isfinite().all(1)
    bad = exact if valid is None else exact & valid
    if is_true(bad.any()):
        raise nonfinite_logits(tuple(bad.nonzero()[0].tolist()))


def example_error(error: ExampleError, logits: Tensor, labels: Tensor, ignore_index: int) -> ValueError:
    """Return what a kernel found wrong with an example as the error that a user reads."""
    shape = logits.shape[:1] + logits.shape[2:]
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(error.example), shape))
    if error.what == "label":
        return label_out_of_range(int(labels[where]), logits.shape[1] if logits.dim() > 1 else 2, ignore_index)
    if error.what == "probabilities":
        return _wrong_probabilities(labels[where] if logits.dim() == 1 else labels.movedim(1, -1)[where], where)
    return nonfinite_logits(where)


def _wrong_probabilities(row: Tensor, where: tuple[int, ...]) -> ValueError:
    if not bool(((row >= 0.0) & (row <= 1.0 + 1e-3)).all()):
        return EmphasisValueError(
            f"soft labels must be probabilities in [0, 1] without NaN; those of the example at index {where} are not: "
            "normalize each row to sum to 1"
        )
    return EmphasisValueError(
        f"soft labels must sum to 1 over the classes; those of the example at index {where} sum to "
        f"{row.sum().item():.4g}"
    )


def two_columns(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the binary form with one logit z as the two columns (0, z)."""
    if labels.shape != logits.shape:
        raise EmphasisValueError(
            f"logits of shape {tuple(logits.shape)} are the binary form with one logit and need labels of the same "
            f"shape, got {tuple(labels.shape)}; for classes pass logits of shape (N, C)"
        )
    if labels.is_floating_point():
        labels = torch.stack((1.0 - labels, labels), 1)
    elif labels.dtype == torch.bool:
        labels = labels.long()
    if not logits.is_floating_point():
        raise EmphasisTypeError(f"logits must be floating, got {logits.dtype}; pass the network's raw outputs")
    return torch.stack((torch.zeros_like(logits), logits), 1), labels
