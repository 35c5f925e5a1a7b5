"""VolMinNet: Forward correction whose matrix is learned, of the smallest volume that explains the labels.

Source: X. Li et al., Provably End-to-end Label-Noise Learning without Anchor Points, ICML 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range


class VolMinNet(Baseline):
    """-log sum_i p_i T[i, y] + lam log det T, minimized over the network and T together.

    Row i of T is (1 at i, sigmoid(w_ij) elsewhere), divided by its sum: each class keeps its label more often than it
    is taken for any one other. No anchor is needed, nor a network trained before. T is left out in prediction.

    In the authors' release T has an optimizer of its own, without weight decay; here it is one of the parameters that
    the loop optimizes.

    Args:
        problem: The labels.
        lam: >= 0, weight of the volume. 1e-4 in the release
            (xuefeng-li1/Provably-end-to-end-label-noise-learning-without-anchor-points, main.py).
        init: Minus the first w_ij; None: log(C - 1), so that a class keeps about half of its labels at first. 2 in the
            release, and 4.5 for 100 classes (models.py, main.py), of which log(C - 1) is the rule.

    Raises:
        ValueError: A parameter is out of bounds.
    """

    eye: Tensor

    def __init__(self, problem: Problem, *, lam: float = 1e-4, init: float | None = None) -> None:
        super().__init__(problem)
        check_range("lam", lam, 0.0, math.inf, ends="[)")
        classes = problem.num_classes
        first = math.log(classes - 1.0) if init is None else init
        check_range("init", first, -math.inf, math.inf, ends="()")
        self.lam = lam
        self.w = nn.Parameter(torch.full((classes, classes), -first))
        self.register_buffer("eye", torch.eye(classes), persistent=False)

    @property
    def transition(self) -> Tensor:
        """T[true, noisy], (C, C)."""
        return F.normalize(self.eye + torch.sigmoid(self.w) * (1.0 - self.eye), p=1.0, dim=1)

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy of the noisy prediction and the weighted volume."""
        transition = self.transition
        log_noisy = F.log_softmax(step.logits, 1) + transition.log().T[step.labels]
        log_volume: Tensor = torch.linalg.slogdet(transition).logabsdet
        return self.lam * log_volume - torch.logsumexp(log_noisy, 1).mean()
