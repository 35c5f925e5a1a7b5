"""Transition matrices T[true, noisy], the rows of which sum to 1: checks, and estimates from predictions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from emphasis.errors import EmphasisValueError
from emphasis.weighting import EmphasisWarning


def as_transition_matrix(matrix: Sequence[Sequence[float]] | Tensor, num_classes: int) -> Tensor:
    """Return a transition matrix as a tensor (C, C).

    Raises:
        ValueError: It has another shape, entries outside [0, 1], or rows that do not sum to 1.
    """
    try:
        transition = torch.as_tensor(matrix, dtype=torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError):
        raise EmphasisValueError(
            f"matrix={matrix!r} is not allowed; use {num_classes} rows of {num_classes} numbers"
        ) from None
    if transition.shape != (num_classes, num_classes):
        raise EmphasisValueError(
            f"matrix of shape {tuple(transition.shape)} is not allowed; use ({num_classes}, {num_classes})"
        )
    if not bool(((transition >= 0.0) & (transition <= 1.0)).all()):
        raise EmphasisValueError(
            "matrix has entries outside [0, 1]; row i is the distribution of the labels given to class i"
        )
    if not torch.allclose(transition.sum(1), torch.ones(num_classes), atol=1e-4):
        raise EmphasisValueError(
            f"matrix has rows that sum to {[round(float(s), 4) for s in transition.sum(1)]}; each must be 1"
        )
    return transition


def at_anchor_points(probabilities: Tensor, quantile: float) -> Tensor:
    """Estimate T from the predictions for one anchor example of each class (Patrini et al., 2017, Eq. 12).

    The anchor of class i is the example at `quantile` of p_i among those that are predicted as class i; with a quantile
    within the class, rare classes have anchors, too. A class that is never predicted has no anchor, and its row is that
    of the identity.

    Args:
        probabilities: Predictions of a network that was trained on the noisy labels, (n, C).
        quantile: Quantile of p_i, in (0, 1]. 1 is the largest p_i; smaller values ignore outliers.

    Returns:
        The matrix (C, C), row i of which is the prediction for the anchor of class i.

    Warns:
        EmphasisWarning: Some classes have no anchor; the message lists them.
    """
    classes = probabilities.shape[1]
    every_class = torch.arange(classes, device=probabilities.device)
    predicted = probabilities.argmax(1)
    counts = torch.bincount(predicted, minlength=classes)
    candidates = torch.where(predicted.unsqueeze(1) == every_class, probabilities, -1.0)
    ranked = candidates.argsort(0, descending=True)
    transition = probabilities[ranked[((1.0 - quantile) * counts).long(), every_class]]
    lacking = counts == 0
    if bool(lacking.any()):
        named = ", ".join(map(str, lacking.nonzero().flatten().tolist()))
        warnings.warn(
            f"the network predicts class {named} for no example, so that the noise of its labels cannot be estimated "
            "and is not corrected. Train longer before the matrix is estimated, or pass matrix=...",
            EmphasisWarning,
            stacklevel=2,
        )
    identity = torch.eye(classes, dtype=transition.dtype, device=transition.device)
    return torch.where(lacking.unsqueeze(1), identity, transition)


def from_confusion(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return T[i, j] as the share of label j among all examples weighted by p_i (Goldberger and Ben-Reuven).

    Args:
        probabilities: Predictions of a network that was trained on the noisy labels, (n, C).
        labels: Noisy labels, (n,) int64.
    """
    joint = torch.zeros(probabilities.shape[1], probabilities.shape[1], dtype=probabilities.dtype)
    joint = joint.to(probabilities.device).index_add_(0, labels, probabilities).T
    return joint / joint.sum(1, keepdim=True).clamp_min(torch.finfo(joint.dtype).tiny)
