"""LC, logit clipping: cross-entropy of logits with a bounded norm.

Source: H. Wei et al., Mitigating Memorization of Noisy Labels by Clipping the Model Prediction, ICML 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, check_range


class LogitClipping(Baseline):
    """Cross-entropy of z min(1, bound / |z|): the norm of the logits is at most `bound`.

    The loss of an example is at most log(1 + (C-1) e^(sqrt(2) bound)) and at least log(1 + (C-1) e^-g), with
    g = bound sqrt(C / (C-1)). Predictions use the logits without clipping.

    Args:
        problem: The labels.
        bound: Bound of the Euclidean norm, > 0; inf is cross-entropy. The paper chooses it on held-out labels, and the
            command of its release has 1 / 1.5 (hongxin001/LogitClip, README.md); the default was chosen for this
            package.

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
