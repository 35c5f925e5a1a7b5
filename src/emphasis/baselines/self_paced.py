"""Self-paced learning (M. P. Kumar et al., Self-Paced Learning for Latent Variable Models, NIPS 2010)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range


class SelfPaced(Baseline):
    """Uses examples with losses below a rising threshold, easy ones first.

    v_i = 1 if loss_i <= K else 0, the minimizer over v of sum_i v_i loss_i - K sum_i v_i (Eq. 5). As in MentorNet (ICML
    2018), K is a moving average of the percentile of the losses of a batch that selects a given share. At first v = 1
    for all examples, since before the network has learned something, examples of a single class may be the easy ones.

    Args:
        problem: The labels.
        start: Share of selected examples after the burn-in, in (0, 1]. 0.5 in Kumar et al., 2010.
        end: Share at the end, >= start; 1 with start 1 is cross-entropy. 1 in Kumar et al. The release of MentorNet,
            the figures of which Table 2 quotes, has a constant 0.7 (train_studentnet_inception.sh): start=0.7, end=0.7.
        burn_in: Share of training in which all examples are used, in [0, 1). 0.18 is that of MentorNet itself; its
            release has 0 for self-paced learning.
        grow: Share of training after which `end` is reached, in (burn_in, 1]. The default was chosen for this package.
        decay: Decay of the moving average, in [0, 1). 0.95 in the paper on MentorNet and 0.9 in its release (utils.py).

    Raises:
        ValueError: A parameter is out of range.
    """

    threshold: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        start: float = 0.5,
        end: float = 1.0,
        burn_in: float = 0.18,
        grow: float = 1.0,
        decay: float = 0.95,
    ) -> None:
        super().__init__(problem)
        check_range("start", start, 0.0, 1.0, ends="(]")
        check_range("end", end, start, 1.0)
        check_range("burn_in", burn_in, 0.0, 1.0, ends="[)")
        check_range("grow", grow, burn_in, 1.0, ends="(]")
        check_range("decay", decay, 0.0, 1.0, ends="[)")
        self.start, self.end, self.burn_in, self.grow, self.decay = start, end, burn_in, grow, decay
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def share(self, progress: float) -> float:
        """Return the share of selected examples at a progress in [0, 1)."""
        if progress < self.burn_in:
            return 1.0
        return self.start + (self.end - self.start) * min(1.0, (progress - self.burn_in) / (self.grow - self.burn_in))

    def loss(self, step: Step) -> Tensor:
        """Return the mean of v_i loss_i."""
        losses = F.cross_entropy(step.logits, step.labels, reduction="none")
        share = self.share(step.progress)
        if share == 1.0:
            return losses.mean()
        self.threshold.copy_(moved(self.threshold, losses, share, self.decay))
        return (losses * (losses <= self.threshold)).mean()


def moved(average: Tensor, losses: Tensor, share: float, decay: float) -> Tensor:
    """Return the updated moving average of the percentile `share` of losses (N,); NaN initializes it."""
    now = torch.quantile(losses.detach().float(), share)
    return torch.where(average.isnan(), now, decay * average + (1.0 - decay) * now)
