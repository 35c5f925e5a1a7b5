"""Checks of the arguments of the loss. Errors name the value, what is allowed and what to do.

Values are read on the CPU only, and not under `torch.compile` and `torch.func.vmap`. Elsewhere reading a value would
stall the device; NaN and infinite values then reach the loss, which becomes NaN or infinite.
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
    """Return whether a zero-dimensional flag is set; False where reading its value would stall a device."""
    return not torch.compiler.is_compiling() and can_be_read(flag) and bool(flag)


def arithmetic_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype in which the loss is computed: float32 for float16 and bfloat16, else that of the logits."""
    return torch.promote_types(logits.dtype, torch.float32)


def check_logits(logits: Tensor) -> None:
    """Check that logits are floating and of shape (N, C, ...) with C >= 2; raise TypeError or ValueError otherwise."""
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
    """Check that labels are classes or probabilities of the right shape; raise TypeError or ValueError otherwise."""
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
    """Check that integer labels are in [0, num_classes) or `ignore_index`; raise ValueError otherwise."""
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
    """Return class or sample weights in float64, or None if there are none.

    Where only ratios matter, they are divided by the largest, so that products of weights stay in the range of a dtype.

    Raises:
        TypeError: They are not a tensor.
        ValueError: The shape or device does not fit, they require grad, or one is negative, NaN or infinite.
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
    """Return the product of class and sample weights of each example in float64, or None for 1.

    Args:
        labels: Integer labels; the factors of labels outside [0, num_classes) are undefined.
        class_weight: Class weights (C,), or None.
        sample_weight: Sample weights of the shape of the labels, or None.
        num_classes: Number of classes C.
        like: Tensor on the device that the weights must be on.
        only_ratios_matter: See `check_weight`.
    """
    factor = check_weight("sample_weight", sample_weight, labels.shape, like, only_ratios_matter)
    class_weight = check_weight("class_weight", class_weight, torch.Size((num_classes,)), like, only_ratios_matter)
    if class_weight is not None:
        of_label = class_weight[labels.clamp(0, num_classes - 1)]
        factor = of_label if factor is None else factor * of_label
    return factor


def check_factor(factor: Tensor | None, logits: Tensor, options: Options) -> None:
    """Check that weights times factors of examples fit into the dtype of the logits; raise OverflowError otherwise."""
    if factor is None or options.only_ratios_matter or factor.device.type != "cpu" or not factor.numel():
        return
    # A mean or batch over several ranks sums the factors; otherwise each is used by itself.
    is_sum = options.normalization == "batch" or options.reduction == "mean"
    log_largest = 0.0 if is_sum or options.unbounded else max(options.log_largest, 0.0)
    dtype = arithmetic_dtype(logits) if is_sum else logits.dtype
    reach = (factor.sum() if is_sum else factor.amax()) > torch.finfo(dtype).max * math.exp(-log_largest)
    if is_true(reach):
        raise factor_overflow(options.weighting, factor.amax().item(), dtype)


class Prepared(NamedTuple):
    """Checked arguments of the plain path.

    Attributes:
        logits: Logits (N, C, ...); two columns for the binary form.
        labels: Class indices, int64; not used if there are targets.
        targets: Probabilities (N, C, ...), or None for class indices.
        class_weight: Factors of the targets, (C,) float64; None for 1 and for class indices.
        factor: Weights of the examples in float64, or None for 1.
        valid: Whether each example has a label, or None if all have.
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
    """Check the tensors and return them in the form of the plain path; raise TypeError or ValueError if one is bad."""
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
    """Return probabilities (N, C, ...) times class weights (C,)."""
    if class_weight is None:
        return targets
    return targets * class_weight.to(targets.dtype).view(-1, *[1] * (targets.dim() - 2))


def check_finite(logits: Tensor, valid: Tensor | None) -> None:
    """Check that logits of valid examples are finite, which excludes -inf too; raise ValueError otherwise."""
    # One pass without a mask: a sum keeps NaN and infinity. Overflow of finite logits is checked below.
    total = logits.detach().sum(1)
    bad = ~total.isfinite() if valid is None else ~total.isfinite() & valid
    if not is_true(bad.any()):
        return
    exact = ~logits.detach().isfinite().all(1)
    bad = exact if valid is None else exact & valid
    if is_true(bad.any()):
        raise nonfinite_logits(tuple(bad.nonzero()[0].tolist()))


def example_error(error: ExampleError, logits: Tensor, labels: Tensor, ignore_index: int) -> ValueError:
    """Return the error of the loss for an error that a kernel found in an example."""
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
    """Return logits (0, z) of two classes and labels for the binary form with one logit z."""
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
