"""Focal loss (T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, Eq. 4)."""

from __future__ import annotations

from torch import Tensor

from emphasis.baselines.protocol import Baseline, Problem
from emphasis.torch import emphasis_loss
from emphasis.weighting import Focal as FocalWeighting


class Focal(Baseline):
    """-(1 - p)^gamma log p: examples already learned count less. The weighting `emphasis.Focal` trains the same.

    Args:
        problem: The labels.
        gamma: >= 0; 0 is cross-entropy. Published: 2.

    Raises:
        ValueError: gamma is out of bounds.
    """

    def __init__(self, problem: Problem, *, gamma: float = 2.0) -> None:
        super().__init__(problem)
        self.weighting = FocalWeighting(gamma=gamma)

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        return emphasis_loss(logits, labels, self.weighting, normalization=None, reduction="none")
