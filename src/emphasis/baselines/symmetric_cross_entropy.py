"""Symmetric cross-entropy, "SL".

Source: Y. Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV 2019.
"""

from __future__ import annotations

from torch import Tensor

from emphasis.baselines.protocol import Baseline, Problem
from emphasis.torch import emphasis_loss
from emphasis.weighting import SCE


class SymmetricCrossEntropy(Baseline):
    """-mu log p + nu |A| (1 - p): cross-entropy and reverse cross-entropy with log 0 read as A.

    The weighting `emphasis.SCE`, w = 2 mu (1 - p) + 2 nu |A| p (1 - p), trains the same; this is its loss in the
    protocol of the other methods.

    Args:
        problem: The labels.
        mu: Of cross-entropy, >= 0. Published: 0.1 for CIFAR-10, 6 for CIFAR-100, 0.01 for MNIST.
        nu: Of the reverse, >= 0. Published: 1 for CIFAR-10 and MNIST, 0.1 for CIFAR-100.
        A: <= 0. Published: -4.

    Raises:
        ValueError: A parameter is out of bounds.
    """

    def __init__(self, problem: Problem, *, mu: float = 0.1, nu: float = 1.0, A: float = -4.0) -> None:
        super().__init__(problem)
        self.weighting = SCE(mu=mu, nu=nu, A=A)

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        return emphasis_loss(logits, labels, self.weighting, normalization=None, reduction="none")
