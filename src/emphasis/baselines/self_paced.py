"""Self-paced learning (M. P. Kumar et al., Self-Paced Learning for Latent Variable Models, NIPS 2010)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range


class SelfPaced(Baseline):
    """Only examples whose loss is below a threshold count, and the threshold rises: easy ones first.

    v_i = 1 if loss_i <= K else 0, the minimiser over v of sum_i v_i loss_i - K sum_i v_i (Eq. 5). As in MentorNet
    (ICML 2018), K is a moving average of a percentile of the batch's losses: that which lets a given share through.
    At first v = 1 for all: without a network that has learnt something, "easy" is what one class happens to be.

    Args:
        problem: The labels.
        start: Share of examples let through after the burn-in, in (0, 1]. A half in Kumar et al., 2010.
        end: Share in the end, >= start; 1 with start 1 is cross-entropy. All in Kumar et al. MentorNet's release,
            whose figures Table 2 quotes, has 0.7 throughout (train_studentnet_inception.sh): start=0.7, end=0.7.
        burn_in: Share of training in which all count, in [0, 1). 0.18 is MentorNet's own; its release has 0 for
            self-paced learning.
        grow: Share of training by which `end` is reached, in (burn_in, 1]. Our choice.
        decay: Decay of the moving average, in [0, 1). 0.95 is MentorNet's paper's, 0.9 its release's (utils.py).

    Raises:
        ValueError: A parameter is out of bounds.
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
        """Return the share of examples let through."""
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
    """Return the moving average of the percentile `share` of losses (N,); NaN starts it."""
    now = torch.quantile(losses.detach().float(), share)
    return torch.where(average.isnan(), now, decay * average + (1.0 - decay) * now)
