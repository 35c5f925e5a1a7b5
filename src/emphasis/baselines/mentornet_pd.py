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
    """Weights losses by a fixed function.

    v = min(max(0, 1 - (loss - lambda1) / lambda2), 1), or 1 where loss <= lambda1 for lambda2 = 0, is the minimizer
    over v of v loss + lambda2 v^2 / 2 - (lambda1 + lambda2) v (Eq. 5). lambda1 is a moving average of a percentile of
    the losses of a batch. In the burn-in a random half of each batch is used, without weights; later 5 % are dropped.

    The defaults of `percentile` and `lambda2` are those of the release (google/mentornet,
    commands/train_studentnet_inception.sh and training_mentornet/models.py), which has hard weights from the burn-in to
    90 % of training: `hard_until=0.9`. Its weights are the outputs of a network that was trained to approximate these;
    here they are computed.

    Args:
        problem: The labels.
        percentile: Percentile of the losses of a batch that lambda1 follows, in (0, 1]. In the release 0.75, and 0.5 at
            a noise rate of 0.8.
        lambda2: Distance from lambda1 at which the weight is 0, >= 0. In the release 1.
        burn_in: Share of training, in [0, 1). In the release the first 19 of 100 epochs (epoch <= 18), in the paper 18
            of 100.
        hard_until: Share of training until which lambda2 is 0, in [0, 1]. The default was chosen for this package.
        strong_dropout: Share of training in which half of the examples are dropped, in [0, 1). Defaults to `burn_in`.
            In the release 17 of 100 epochs.
        decay: Decay of the moving average, in [0, 1). 0.95 in the paper and 0.9 in the release (utils.py).

    Raises:
        ValueError: A parameter is out of range.
    """

    threshold: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        percentile: float = 0.75,
        lambda2: float = 1.0,
        burn_in: float = 0.18,
        hard_until: float = 0.0,
        strong_dropout: float | None = None,
        decay: float = 0.95,
    ) -> None:
        super().__init__(problem)
        check_range("percentile", percentile, 0.0, 1.0, ends="(]")
        check_range("lambda2", lambda2, 0.0, float("inf"), ends="[)")
        check_range("burn_in", burn_in, 0.0, 1.0, ends="[)")
        check_range("decay", decay, 0.0, 1.0, ends="[)")
        check_range("hard_until", hard_until, 0.0, 1.0)
        self.strong_dropout = burn_in if strong_dropout is None else strong_dropout
        check_range("strong_dropout", self.strong_dropout, 0.0, 1.0, ends="[)")
        self.percentile, self.lambda2, self.burn_in, self.decay = percentile, lambda2, burn_in, decay
        self.hard_until = hard_until
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def loss(self, step: Step) -> Tensor:
        """Return the mean of v_i loss_i."""
        losses = F.cross_entropy(step.logits, step.labels, reduction="none")
        self.threshold.copy_(moved(self.threshold, losses, self.percentile, self.decay))
        v = self.weights(losses.detach(), step.progress)
        return (losses * v * kept_at_random(v, self.dropped(step.progress))).mean()

    def weights(self, losses: Tensor, progress: float) -> Tensor:
        """Return the weights v of losses (N,) at a progress in [0, 1)."""
        if progress < self.burn_in:
            return torch.ones_like(losses)
        return curriculum(losses, self.threshold, 0.0 if progress < self.hard_until else self.lambda2)

    def dropped(self, progress: float) -> float:
        """Return the share of examples that are dropped at random."""
        return 0.5 if progress < self.strong_dropout else 0.05


def curriculum(losses: Tensor, lambda1: Tensor | float, lambda2: float) -> Tensor:
    """Return the weights v* of Eq. 6, (N,)."""
    if lambda2 == 0.0:
        return (losses <= lambda1).to(losses.dtype)
    return (1.0 - (losses - lambda1) / lambda2).clamp(0.0, 1.0)


def kept_at_random(like: Tensor, dropped: float) -> Tensor:
    """Return 0 for a random share `dropped` and 1 otherwise, (N,)."""
    return (torch.rand_like(like) >= dropped).to(like.dtype)


__getattr__ = renamed(__name__, {"MentornetPd": "MentorNetPD"})
