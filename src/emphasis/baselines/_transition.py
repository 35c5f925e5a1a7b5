"""Transition matrices T[true, noisy], rows summing to 1: checked, and estimated from predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emphasis.errors import EmphasisValueError


def as_transition_matrix(matrix: Sequence[Sequence[float]] | Tensor, num_classes: int) -> Tensor:
    """Return a transition matrix as a tensor (C, C).

    Raises:
        ValueError: It is of another shape, has entries outside [0, 1], or rows that do not sum to 1.
    """
    found = torch.as_tensor(matrix, dtype=torch.get_default_dtype())
    if found.shape != (num_classes, num_classes):
        raise EmphasisValueError(
            f"matrix of shape {tuple(found.shape)} is not allowed; give ({num_classes}, {num_classes})"
        )
    if not bool(((found >= 0.0) & (found <= 1.0)).all()):
        raise EmphasisValueError(
            "matrix has entries outside [0, 1]; row i is the distribution of the labels given to class i"
        )
    if not torch.allclose(found.sum(1), torch.ones(num_classes), atol=1e-4):
        raise EmphasisValueError(
            f"matrix has rows that sum to {[round(float(s), 4) for s in found.sum(1)]}; each must be 1"
        )
    return found


def at_anchor_points(probabilities: Tensor, quantile: float) -> Tensor:
    """Return row i as the prediction at the example whose p_i stands at `quantile` of all (Patrini et al., Eq. 12).

    Args:
        probabilities: (n, C), of a network trained on the noisy labels.
        quantile: 1: the example with the largest p_i; somewhat less passes over outliers.
    """
    place = min(int(quantile * len(probabilities)), len(probabilities) - 1)
    anchors = probabilities.sort(0).indices[place]
    return probabilities[anchors]


def from_confusion(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return T[i, j] as the share of label j among examples, each counted by its p_i (Goldberger and Ben-Reuven).

    Args:
        probabilities: (n, C), of a network trained on the noisy labels.
        labels: (n,), the noisy ones.
    """
    joint = torch.zeros(probabilities.shape[1], probabilities.shape[1], dtype=probabilities.dtype)
    joint = joint.to(probabilities.device).index_add_(0, labels, probabilities).T
    return joint / joint.sum(1, keepdim=True).clamp_min(torch.finfo(joint.dtype).tiny)
