"""Transition matrices T[true, noisy], rows summing to 1: checked, and estimated from predictions."""

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
    """Estimate T from the predictions for one example a class, its anchor (Patrini et al., 2017, Eq. 12).

    The anchor of class i stands at `quantile` of p_i among the examples that the network takes for class i. Counted
    within the class, it exists for a class of 1 % of the data as well as for one of 10 %. A class that the network
    takes no example for has no anchor, and its row is that of the identity.

    Args:
        probabilities: (n, C), predictions of a network that was trained on the noisy labels.
        quantile: In (0, 1]. 1 is the example with the largest p_i; less passes over outliers.

    Returns:
        (C, C), row i the prediction for the anchor of class i.

    Warns:
        EmphasisWarning: Classes have no anchor; the message names them.
    """
    classes = probabilities.shape[1]
    own = torch.arange(classes, device=probabilities.device)
    taken = probabilities.argmax(1)
    counts = torch.bincount(taken, minlength=classes)
    candidates = torch.where(taken.unsqueeze(1) == own, probabilities, -1.0)
    ranked = candidates.argsort(0, descending=True)
    transition = probabilities[ranked[((1.0 - quantile) * counts).long(), own]]
    lacking = counts == 0
    if bool(lacking.any()):
        named = ", ".join(map(str, lacking.nonzero().flatten().tolist()))
        warnings.warn(
            f"the network takes no example for class {named}, so that the noise of its labels cannot be estimated and "
            "is not corrected. Train longer before the matrix is estimated, or give matrix=...",
            EmphasisWarning,
            stacklevel=2,
        )
    identity = torch.eye(classes, dtype=transition.dtype, device=transition.device)
    return torch.where(lacking.unsqueeze(1), identity, transition)


def from_confusion(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return T[i, j] as the share of label j among examples, each counted by its p_i (Goldberger and Ben-Reuven).

    Args:
        probabilities: (n, C), of a network trained on the noisy labels.
        labels: (n,), the noisy ones.
    """
    joint = torch.zeros(probabilities.shape[1], probabilities.shape[1], dtype=probabilities.dtype)
    joint = joint.to(probabilities.device).index_add_(0, labels, probabilities).T
    return joint / joint.sum(1, keepdim=True).clamp_min(torch.finfo(joint.dtype).tiny)
