"""LC, logit clipping: cross-entropy of logits whose norm is bounded.

Source: H. Wei et al., Mitigating Memorization of Noisy Labels by Clipping the Model Prediction, ICML 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, check_range


class LogitClipping(Baseline):
    """Cross-entropy of z min(1, bound / |z|): beyond the bound a logit vector is turned, and grows no more.

    So the loss of an example is at most log(1 + (C-1) e^(sqrt(2) bound)), however wrong the network, and at least
    log(1 + (C-1) e^-g), g = bound sqrt(C / (C-1)). Predictions are those of the logits as they are.

    Args:
        problem: The labels.
        bound: > 0, of the Euclidean norm; inf is cross-entropy. The paper chooses it on held-out labels; 4 is our
            choice.

    Raises:
        ValueError: The bound is not allowed.
    """

    def __init__(self, problem: Problem, *, bound: float = 4.0) -> None:
        super().__init__(problem)
        check_range("bound", bound, 0.0, math.inf, ends="(]")
        self.bound = bound

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        norm = torch.linalg.vector_norm(logits, dim=1, keepdim=True)
        beyond = norm > self.bound
        clipped = torch.where(beyond, logits * (self.bound / torch.where(beyond, norm, 1.0)), logits)
        return F.cross_entropy(clipped, labels, reduction="none")
