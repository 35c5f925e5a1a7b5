"""MentorNet PD: the predefined curriculum.

Source: L. Jiang et al., MentorNet: Learning Data-Driven Curriculum for Very Deep Neural Networks on Corrupted Labels,
ICML 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range
from emphasis.baselines.self_paced import moved
from emphasis.deprecation import renamed


class MentorNetPD(Baseline):
    """Each example's loss is weighted by a fixed function of it.

    v = min(max(0, 1 - (loss - lambda1) / lambda2), 1), or 1 where loss <= lambda1 for lambda2 = 0: the minimiser over
    v of v loss + lambda2 v^2 / 2 - (lambda1 + lambda2) v (Eq. 5). lambda1 is a moving average of a percentile of the
    batch's losses. In the burn-in all count, a random half of them at a time; afterwards 5 % are dropped at random.

    Args:
        problem: The labels.
        percentile: Of the batch's losses, in (0, 1].
        lambda2: >= 0; how far above lambda1 the weight falls to 0.
        burn_in: As a share of training, in [0, 1). Published: 18 of 100 epochs.
        decay: Of the moving average, in [0, 1). Published: 0.95.

    Raises:
        ValueError: A parameter is out of bounds.
    """

    threshold: Tensor

    def __init__(
        self, problem: Problem, *, percentile: float = 0.75, lambda2: float = 1.0, burn_in: float = 0.18,
        decay: float = 0.95,
    ) -> None:  # fmt: skip
        super().__init__(problem)
        check_range("percentile", percentile, 0.0, 1.0, ends="(]")
        check_range("lambda2", lambda2, 0.0, float("inf"), ends="[)")
        check_range("burn_in", burn_in, 0.0, 1.0, ends="[)")
        check_range("decay", decay, 0.0, 1.0, ends="[)")
        self.percentile, self.lambda2, self.burn_in, self.decay = percentile, lambda2, burn_in, decay
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def loss(self, step: Step) -> Tensor:
        """Return the mean of v_i loss_i."""
        losses = F.cross_entropy(step.logits, step.labels, reduction="none")
        self.threshold.copy_(moved(self.threshold, losses, self.percentile, self.decay))
        burning = step.progress < self.burn_in
        v = torch.ones_like(losses) if burning else curriculum(losses.detach(), self.threshold, self.lambda2)
        return (losses * v * kept_at_random(v, 0.5 if burning else 0.05)).mean()


def curriculum(losses: Tensor, lambda1: Tensor | float, lambda2: float) -> Tensor:
    """Return the weights v* of Eq. 6, (N,)."""
    if lambda2 == 0.0:
        return (losses <= lambda1).to(losses.dtype)
    return (1.0 - (losses - lambda1) / lambda2).clamp(0.0, 1.0)


def kept_at_random(like: Tensor, dropped: float) -> Tensor:
    """Return 0 for a random share `dropped`, else 1, (N,)."""
    return (torch.rand_like(like) >= dropped).to(like.dtype)


__getattr__ = renamed(__name__, {"MentornetPd": "MentorNetPD"})
