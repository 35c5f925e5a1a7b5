"""Early-learning regularization.

Source: S. Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range
from emphasis.deprecation import renamed

_SMALLEST = 1e-4  # bound of p and 1 - p in the authors' release (Liu et al., 2020)


class ELR(Baseline):
    """Cross-entropy + lam * log(1 - <p, t>), with t the moving average of an example's predictions (Eqs. 6 and 9).

    t <- beta t + (1 - beta) p. The second term keeps predictions close to the early ones, before memorization.

    Args:
        problem: The labels. The averages need memory for n * C numbers.
        lam: Weight of the regularization, >= 0; 0 is cross-entropy. In the paper (2020) 3 for CIFAR-10 and 7 for
            CIFAR-100.
        beta: Decay of the moving average, in [0, 1). In the paper (2020) 0.7 for CIFAR-10 and 0.9 for CIFAR-100.

    Raises:
        ValueError: A parameter is out of range.
    """

    targets: Tensor

    def __init__(self, problem: Problem, *, lam: float = 3.0, beta: float = 0.7) -> None:
        super().__init__(problem)
        check_range("lam", lam, 0.0, float("inf"), ends="[)")
        check_range("beta", beta, 0.0, 1.0, ends="[)")
        self.lam, self.beta = lam, beta
        self.register_buffer("targets", torch.zeros(len(problem.labels), problem.num_classes))

    def loss(self, step: Step) -> Tensor:
        """Return cross-entropy with the regularizer, and update the averages."""
        p = F.softmax(step.logits, 1).clamp(_SMALLEST, 1.0 - _SMALLEST)
        now = p.detach() / p.detach().sum(1, keepdim=True)
        targets = self.beta * self.targets[step.indices] + (1.0 - self.beta) * now.to(self.targets.dtype)
        self.targets[step.indices] = targets
        regularizer = torch.log(1.0 - (targets * p).sum(1)).mean()
        return F.cross_entropy(step.logits, step.labels) + self.lam * regularizer


__getattr__ = renamed(__name__, {"Elr": "ELR"})
