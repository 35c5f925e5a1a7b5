"""Joint optimization of labels and weights.

Source: D. Tanaka et al., Joint Optimization Framework for Learning with Noisy Labels, CVPR 2018.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines._two_trainings import TwoTrainings
from emphasis.baselines.protocol import (
    Epoch,
    Need,
    Problem,
    Step,
    check_range,
    check_whole,
    one_hot,
    soft_cross_entropy,
)


class JointOptimization(TwoTrainings):
    """Optimizes labels and weights in turn, and then trains the network again with the resulting labels.

    First phase: KL(y || p) + alpha L_p + beta L_e (Eq. 7) at a high, constant learning rate, with L_p = sum_j q_j
    log(q_j / mean p_j) against predicting one class only (Eq. 11; q uniform) and L_e the mean entropy of the
    predictions (Eq. 12). From `update_from` on, the labels are the mean of each example's predictions over the last
    epochs (soft labels). Second phase: cross-entropy with these labels, from the initial parameters.

    Args:
        problem: The labels. The predictions need memory for window * n * C numbers.
        alpha: Weight of L_p, >= 0. In the paper (2018) 1.2 for symmetric noise on CIFAR-10, 0.8 for asymmetric.
        beta: Weight of L_e, >= 0. In the paper (2018) 0.8 for symmetric noise on CIFAR-10, 0.4 for asymmetric.
        phase: Share of the first phase, in (0, 1). In the paper (2018) 200 of 320 epochs.
        update_from: Share of the first phase after which labels change, in (0, 1). In section 4 of the paper after 70
            of 200 epochs.
        window: Number of epochs over which predictions are averaged, >= 1. In the paper (2018) 10.

    Raises:
        ValueError: A parameter is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"copy"})
    first_rate_alone: ClassVar[bool] = True
    found: Tensor
    past: Tensor
    epochs: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        alpha: float = 1.2,
        beta: float = 0.8,
        phase: float = 0.625,
        update_from: float = 0.35,
        window: int = 10,
    ) -> None:
        check_range("phase", phase, 0.0, 1.0, ends="()")
        super().__init__(problem, phase)
        check_range("alpha", alpha, 0.0, float("inf"), ends="[)")
        check_range("beta", beta, 0.0, float("inf"), ends="[)")
        check_range("update_from", update_from, 0.0, 1.0, ends="()")
        check_whole("window", window, 1)
        self.alpha, self.beta, self.update_from, self.window = alpha, beta, update_from, window
        n, classes = len(problem.labels), problem.num_classes
        self.register_buffer("found", one_hot(problem.labels, torch.empty(n, classes)))
        self.register_buffer("past", torch.zeros(window, n, classes))
        self.register_buffer("epochs", torch.tensor(0))

    def loss(self, step: Step) -> Tensor:
        """Return the loss of the phase, and record the predictions."""
        fit = soft_cross_entropy(step.logits, self.found[step.indices].to(step.logits.dtype)).mean()
        if self.second:
            return fit
        p = F.softmax(step.logits, 1)
        self.past[(self.epochs - 1) % self.window, step.indices] = p.detach().to(self.past.dtype)
        return fit + self.alpha * against_one_class(p) + self.beta * mean_entropy(step.logits)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Update the labels, or begin the second phase."""
        if self.due(epoch):
            self._update()
            self.begin_second(epoch)
        elif not self.second:
            if epoch.progress >= self.update_from * self.split:
                self._update()
            self.epochs += 1
            self.past[(self.epochs - 1) % self.window] = 0.0

    def _update(self) -> None:
        """Set the labels to mean predictions; examples may have none, as an epoch drops its incomplete last batch."""
        total = self.past.sum(0)
        mass = total.sum(1, keepdim=True)
        self.found.copy_(torch.where(mass > 0.0, total / mass.clamp_min(1e-12), self.found))


def against_one_class(p: Tensor) -> Tensor:
    """Return sum_j q_j log(q_j / mean p_j) with q uniform, from probabilities (N, C); 0 if the mean is uniform."""
    mean = p.mean(0).clamp_min(torch.finfo(p.dtype).tiny)
    q = 1.0 / p.shape[1]
    return (q * (q / mean).log()).sum()


def mean_entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of the predictions, from logits (N, C)."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1).mean()
