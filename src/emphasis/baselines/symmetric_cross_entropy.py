"""Symmetric cross-entropy (SL).

Source: Y. Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV 2019.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from emphasis.baselines.protocol import Baseline, Problem
from emphasis.errors import EmphasisValueError
from emphasis.torch import emphasis_loss
from emphasis.weighting import SCE

LogOfZero = float | Literal["paper", "release"]
LOG_OF_ZERO = {"paper": -4.0, "release": math.log(1e-4)}
"""Values A of log 0: in the papers of SL and NCE+RCE, and in their releases, which clamp labels at 1e-4."""


class SymmetricCrossEntropy(Baseline):
    """The loss -mu log p + nu |A| (1 - p): cross-entropy and reverse cross-entropy with log 0 set to A.

    It is the loss of the weighting `emphasis.SCE`, w = 2 mu (1 - p) + 2 nu |A| p (1 - p), as a method.

    Args:
        problem: The labels.
        mu: Weight of cross-entropy, >= 0. In the release (YisenWang/symmetric_cross_entropy_for_noisy_labels,
            train_models.py) 0.1 for CIFAR-10, 6 for CIFAR-100, 0.01 for MNIST.
        nu: Weight of reverse cross-entropy, >= 0. In the release 1 for CIFAR-10 and MNIST, 0.1 for CIFAR-100.
        A: Value of log 0, <= 0; "paper" for -4, "release" for log(1e-4) = -9.21, which the release uses (loss.py). With
            the latter the weight of reverse cross-entropy is 2.3 times as large for the same nu.

    Raises:
        ValueError: A parameter is out of range.
    """

    def __init__(self, problem: Problem, *, mu: float = 0.1, nu: float = 1.0, A: LogOfZero = -4.0) -> None:
        super().__init__(problem)
        self.weighting = SCE(mu=mu, nu=nu, A=log_of_zero(A))

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        return emphasis_loss(logits, labels, self.weighting, normalization=None, reduction="none")


def log_of_zero(A: LogOfZero) -> float:
    """Return A as a number <= 0.

    Raises:
        ValueError: A is neither "paper" nor "release", nor a number <= 0.
    """
    if isinstance(A, str):
        if A not in LOG_OF_ZERO:
            raise EmphasisValueError(f'A={A!r} is not allowed; use "paper", "release" or a number <= 0')
        return LOG_OF_ZERO[A]
    if isinstance(A, bool) or not isinstance(A, int | float) or not -math.inf < A <= 0.0:
        raise EmphasisValueError(f'A={A!r} is not allowed; use "paper", "release" or a number <= 0')
    return float(A)
