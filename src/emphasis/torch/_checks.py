"""Input checks of the loss: each bad input has a decided outcome, and an error names value, allowed set and cure.

Values are read only where that is free: on CPU tensors outside `torch.compile` and `torch.func.vmap`. Elsewhere
reading one would stall the device, so there NaN and infinity reach the loss, which is NaN or infinite then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.kernels import ExampleError


def is_true(flag: Tensor) -> bool:
    """Return whether a zero-dimensional flag is set, False where its value cannot be read without a stall."""
    if torch.compiler.is_compiling() or flag.device.type != "cpu":
        return False
    try:
        return bool(flag)
    except RuntimeError:  # under vmap a value has no single truth
        return False


def arithmetic_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype that the loss computes in: float32 for halves, the logits' own otherwise."""
    return torch.promote_types(logits.dtype, torch.float32)


def check_logits(logits: Tensor) -> None:
    """Raise TypeError or ValueError unless logits are floating (N, C, ...), C >= 2."""
    if not isinstance(logits, Tensor):
        raise EmphasisTypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}")
    if not logits.is_floating_point():
        raise EmphasisTypeError(f"logits must be floating, got {logits.dtype}; pass the network's raw outputs")
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


def check_ignore_index(ignore_index: int) -> None:
    """Raise TypeError unless `ignore_index` is an integer."""
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise EmphasisTypeError(f"ignore_index must be an integer, got {ignore_index!r}")


def check_classes(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise ValueError if an integer label is neither in [0, num_classes) nor `ignore_index`."""
    if labels.device.type != "cpu":
        return
    labels = labels.long()  # 8-bit labels could not be compared with 256 or -100
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)
    if is_true(wrong.any()):
        raise _wrong_label(int(labels[wrong][0]), num_classes, ignore_index)


def _wrong_label(label: int, num_classes: int, ignore_index: int) -> ValueError:
    return EmphasisValueError(
        f"label {label} is outside 0..{num_classes - 1} (C={num_classes}) and is not "
        f"ignore_index={ignore_index}; relabel the classes from 0, or widen the network's last layer"
    )


def _check_probabilities(labels: Tensor) -> None:
    if is_true(~((labels >= 0.0) & (labels <= 1.0 + 1e-3)).all()):
        raise EmphasisValueError(
            "soft labels must be probabilities in [0, 1] without NaN; normalise each row to sum to 1"
        )
    if is_true(((labels.sum(1) - 1.0).abs() > 1e-2).any()):
        worst = (labels.sum(1) - 1.0).abs().max().item()
        raise EmphasisValueError(f"soft labels must sum to 1 over the classes; one row is off by {worst:.3g}")


def check_weight(name: str, weight: Tensor | None, shape: torch.Size, logits: Tensor) -> Tensor | None:
    """Return a class or sample weight in the arithmetic's dtype, or raise unless it fits and is >= 0."""
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
    dtype = arithmetic_dtype(logits)
    if is_true(weight.to(dtype).sum().isinf()):
        raise EmphasisValueError(
            f"{name} sums to more than {dtype} holds; scale the weights down, only their ratios matter"
        )
    return weight.to(dtype)


def factor_of(
    labels: Tensor, class_weight: Tensor | None, sample_weight: Tensor | None, num_classes: int, like: Tensor
) -> Tensor | None:
    """Return the examples' weights, checked, as one factor each; None for 1. `like` has their device and dtype.

    labels: Integers; those outside [0, num_classes) get anything.
    """
    factor = check_weight("sample_weight", sample_weight, labels.shape, like)
    class_weight = check_weight("class_weight", class_weight, torch.Size((num_classes,)), like)
    if class_weight is None:
        return factor
    of_label = class_weight[labels.clamp(0, num_classes - 1)]
    return of_label if factor is None else factor * of_label


def check_finite(logits: Tensor, valid: Tensor | None) -> None:
    """Raise ValueError if a logit that counts is NaN or infinite; -inf, a class ruled out, is not allowed either."""
    total = logits.detach().sum(1)  # one pass, no mask: NaN and infinity survive a sum; overflow is sorted out below
    bad = ~total.isfinite() if valid is None else ~total.isfinite() & valid
    if not is_true(bad.any()):
        return
    exact = ~logits.detach().isfinite().all(1)
    bad = exact if valid is None else exact & valid
    if is_true(bad.any()):
        raise _not_finite(tuple(bad.nonzero()[0].tolist()))


def _not_finite(where: tuple[int, ...]) -> ValueError:
    return EmphasisValueError(
        f"logits hold NaN or infinity, first for the example at index {where}: training has diverged or the "
        "input is broken. Lower the learning rate, clip gradients or check the inputs; to rule a class out use "
        "a large negative number such as -1e4, not -inf"
    )


def example_error(error: ExampleError, logits: Tensor, labels: Tensor, ignore_index: int) -> ValueError:
    """Return what a kernel found wrong with an example as the error that a user reads."""
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(error.example), labels.shape))
    if error.is_label:
        return _wrong_label(int(labels[where]), logits.shape[1], ignore_index)
    return _not_finite(where)
