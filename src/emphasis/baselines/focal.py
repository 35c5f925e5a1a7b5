"""Focal loss (T.-Y. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, Eq. 4)."""

from __future__ import annotations

from torch import Tensor

from emphasis.baselines.protocol import Baseline, Problem, check_flag
from emphasis.torch import emphasis_loss
from emphasis.weighting import Beta
from emphasis.weighting import Focal as FocalWeighting


class Focal(Baseline):
    """The focal loss, -(1 - p)^gamma log p: learned examples count less. The weighting is `emphasis.Focal`.

    Args:
        problem: The labels.
        gamma: Exponent of 1 - p, >= 0; 0 is cross-entropy. 2 in the paper, and in MentorNet's release
            (vstar_focal_loss).
        stop_gradient: Whether (1 - p)^gamma is a constant for differentiation, so that w = 2 (1 - p)^(gamma + 1), as in
            MentorNet's release, where it is the weight of an example's cross-entropy.

    Raises:
        ValueError: gamma is out of range.
    """

    def __init__(self, problem: Problem, *, gamma: float = 2.0, stop_gradient: bool = False) -> None:
        super().__init__(problem)
        check_flag("stop_gradient", stop_gradient)
        focal = FocalWeighting(gamma=gamma)
        self.weighting = 2.0 * Beta(alpha=1.0, eta=focal.gamma + 2.0) if stop_gradient else focal

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        return emphasis_loss(logits, labels, self.weighting, normalization=None, reduction="none")
