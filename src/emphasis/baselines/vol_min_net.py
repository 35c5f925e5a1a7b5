"""VolMinNet: forward correction with a learned matrix, that of the smallest volume that explains the labels.

Source: X. Li et al., Provably End-to-end Label-Noise Learning without Anchor Points, ICML 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range


class VolMinNet(Baseline):
    """The loss -log sum_i p_i T[i, y] + lam log det T, minimized over the network and T.

    Row i of T is (1 at i, sigmoid(w_ij) elsewhere), divided by its sum, so that the correct label is the most frequent
    one of each class. Neither anchors nor a network trained before are needed. T is not used in prediction.

    In the authors' release T has a separate optimizer without weight decay; here the optimizer of the loop updates it.

    Args:
        problem: The labels.
        lam: Weight of the volume, >= 0. 1e-4 in the release
            (xuefeng-li1/Provably-end-to-end-label-noise-learning-without-anchor-points, main.py).
        init: Negative of the initial w_ij, in [-10, 80], outside of which T is numerically singular or has zeros.
            Defaults to log(C - 1), so that a class initially keeps about half of its labels. 2 in the release, and 4.5
            for 100 classes (models.py, main.py), which log(C - 1) approximates.

    Raises:
        ValueError: A parameter is out of range.
    """

    eye: Tensor

    def __init__(self, problem: Problem, *, lam: float = 1e-4, init: float | None = None) -> None:
        super().__init__(problem)
        check_range("lam", lam, 0.0, math.inf, ends="[)")
        classes = problem.num_classes
        first = math.log(classes - 1.0) if init is None else init
        check_range("init", first, -10.0, 80.0)
        self.lam = lam
        self.w = nn.Parameter(torch.full((classes, classes), -float(first)))
        self.register_buffer("eye", torch.eye(classes), persistent=False)

    @property
    def transition(self) -> Tensor:
        """The transition matrix [true, noisy], (C, C)."""
        return F.normalize(self.eye + torch.sigmoid(self.w) * (1.0 - self.eye), p=1.0, dim=1)

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy of the noisy prediction plus the weighted volume."""
        transition = self.transition
        log_noisy = F.log_softmax(step.logits, 1) + transition.log().T[step.labels]
        log_volume: Tensor = torch.linalg.slogdet(transition).logabsdet
        return self.lam * log_volume - torch.logsumexp(log_noisy, 1).mean()
