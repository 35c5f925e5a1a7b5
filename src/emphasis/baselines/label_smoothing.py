"""Label smoothing.

Source: C. Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016, section 7.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, check_range


class LabelSmoothing(Baseline):
    """Cross-entropy with the targets (1 - epsilon) onehot(y) + epsilon / C.

    Its derivative p - target lowers p where p > 1 - epsilon + epsilon / C.

    Args:
        problem: The labels.
        epsilon: Smoothing, in [0, 1); 0 is cross-entropy. 0.1 in section 7 of the paper.

    Raises:
        ValueError: epsilon is out of range.
    """

    def __init__(self, problem: Problem, *, epsilon: float = 0.1) -> None:
        super().__init__(problem)
        check_range("epsilon", epsilon, 0.0, 1.0, ends="[)")
        self.epsilon = epsilon

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return -sum_j t_j log p_j with the smoothed targets, (N,)."""
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.epsilon)
