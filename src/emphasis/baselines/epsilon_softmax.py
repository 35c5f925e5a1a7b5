"""Epsilon-softmax: predictions closer to one-hot vectors, and MAE.

Source: J. Wang et al., epsilon-Softmax: Approximating One-Hot Vectors for Mitigating Label Noise, NeurIPS 2024.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, check_range


class EpsilonSoftmax(Baseline):
    """The loss alpha (-log p'_y) + beta 2 (1 - p_y), with p' = (p + m onehot(argmax p)) / (m + 1).

    p' differs from a one-hot vector by at most 2 / (m + 1), the epsilon of the name. If the label is not the likeliest
    class, the first term is cross-entropy plus log(m + 1), with the same derivative; if it is, the derivative is p / (p
    + m) times that of cross-entropy, so that it vanishes early for learned examples.

    Args:
        problem: The labels.
        m: Weight of the one-hot vector, >= 0; 0 is alpha times cross-entropy plus beta times MAE. 1e5 in the release
            for CIFAR-10 with symmetric noise (cswjl/eps-softmax, config.py), which clamps p' at 1e-8, so that its first
            term has no derivative for p_y < 1e-3.
        alpha: Weight of the first term, >= 0. 0.01 in the authors' figure for CIFAR-10 (2024).
        beta: Weight of MAE, >= 0. 5 in the authors' figure for CIFAR-10 (2024).

    Raises:
        ValueError: A parameter is out of range.
    """

    def __init__(self, problem: Problem, *, m: float = 1e5, alpha: float = 0.01, beta: float = 5.0) -> None:
        super().__init__(problem)
        for name, value in (("m", m), ("alpha", alpha), ("beta", beta)):
            check_range(name, value, 0.0, math.inf, ends="[)")
        self.m, self.alpha, self.beta = m, alpha, beta

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        column = labels.unsqueeze(1)
        log_p = F.log_softmax(logits, 1).gather(1, column).squeeze(1)
        likeliest = logits.argmax(1) == labels
        if self.m:
            raised = torch.where(likeliest, torch.logaddexp(log_p, log_p.new_tensor(math.log(self.m))), log_p)
        else:
            raised = log_p
        others = logits.scatter(1, column, -torch.inf).logsumexp(1)
        wrong = torch.sigmoid(others - logits.gather(1, column).squeeze(1))
        return self.alpha * (math.log1p(self.m) - raised) + self.beta * 2.0 * wrong
