"""DivideMix: two networks that select labels for each other, and semi-supervised learning.

Source: J. Li et al., DivideMix: Learning with Noisy Labels as Semi-supervised Learning, ICLR 2020.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines import _gaussian_mixture
from emphasis.baselines.joint_optimization import against_one_class
from emphasis.baselines.protocol import (
    Baseline,
    Epoch,
    Problem,
    Step,
    check_range,
    one_hot,
    soft_cross_entropy,
)

_LEAST_VARIANCE = 5e-4  # of losses scaled to [0, 1]; reg_covar in the release (Train_CIFAR.py)


class DivideMix(Baseline):
    """Keeps labels that the other network considers clean in part, and replaces the others by predictions.

    Before every epoch a mixture of two normal distributions is fitted to the losses of each network; w_i is the
    probability of the component with small losses. If w of the other network exceeds `threshold`, the target is w
    onehot(y) + (1 - w) p, and otherwise the mean prediction of both networks; both are raised to the power 1 /
    temperature and normalized. Mixup follows: l x_i + (1 - l) x_j with l >= 1/2 from a beta distribution. The loss is
    the cross-entropy of examples with kept labels, plus lambda_u times the squared error of the other predictions, plus
    a term against predicting one class only.

    The method needs more than twice the computation of others. Unlike the release (LiJunnan1992/DivideMix,
    Train_CIFAR.py), it uses the batches of the loop, with both kinds of examples and one augmentation instead of two;
    the losses are the latest ones in training; and only the first network predicts.

    Args:
        problem: The labels.
        warm: Share of training by cross-entropy at first, in (0, 1). 10 of 300 epochs in the release for CIFAR-10.
        threshold: Threshold of w, in (0, 1). 0.5 in the release.
        temperature: Temperature of the targets, > 0. 0.5 in the release.
        alpha: Parameter of the beta distribution, > 0. 4 in the release.
        lambda_u: Weight of the squared error, >= 0. 25 in the release by default, which recommends 0 for little noise.
        ramp: Share of training over which lambda_u rises from 0, in (0, 1]. 16 of 300 epochs in the release.

    Raises:
        ValueError: A parameter is out of range.
    """

    networks: ClassVar[int] = 2
    losses: Tensor
    clean: Tensor
    divided: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        warm: float = 10 / 300,
        threshold: float = 0.5,
        temperature: float = 0.5,
        alpha: float = 4.0,
        lambda_u: float = 25.0,
        ramp: float = 16 / 300,
    ) -> None:
        super().__init__(problem)
        check_range("warm", warm, 0.0, 1.0, ends="()")
        check_range("threshold", threshold, 0.0, 1.0, ends="()")
        check_range("temperature", temperature, 0.0, math.inf, ends="()")
        check_range("alpha", alpha, 0.0, math.inf, ends="()")
        check_range("lambda_u", lambda_u, 0.0, math.inf, ends="[)")
        check_range("ramp", ramp, 0.0, 1.0, ends="(]")
        self.warm, self.threshold, self.temperature = warm, threshold, temperature
        self.alpha, self.lambda_u, self.ramp = alpha, lambda_u, ramp
        n = len(problem.labels)
        self.register_buffer("losses", torch.full((2, n), math.nan))
        self.register_buffer("clean", torch.ones(2, n))
        self.register_buffer("divided", torch.tensor(False))

    def loss(self, step: Step) -> Tensor:
        """Return the sum of the losses of both networks."""
        both = [step.logits, step.peer_logits] if not self.divided else self._predictions(step)
        for losses, logits in zip(self.losses, both, strict=True):
            losses[step.indices] = F.cross_entropy(logits.detach(), step.labels, reduction="none").to(losses.dtype)
        if not self.divided:
            return F.cross_entropy(both[0], step.labels) + F.cross_entropy(both[1], step.labels)
        guess = (F.softmax(both[0], 1) + F.softmax(both[1], 1)) / 2.0
        drawn = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        share, other = max(drawn, 1.0 - drawn), torch.randperm(len(step.labels), device=step.labels.device)
        mixed = share * step.inputs + (1.0 - share) * step.inputs[other]
        assert step.peer is not None
        total = step.inputs.new_zeros(())
        for number, network in enumerate((step.network, step.peer)):
            w = self.clean[1 - number, step.indices].to(guess.dtype).unsqueeze(1)
            kept = w > self.threshold
            refined = w * one_hot(step.labels, guess) + (1.0 - w) * F.softmax(both[number], 1)
            target = self.sharpened(torch.where(kept, refined, guess))
            target = share * target + (1.0 - share) * target[other]
            total = total + self._network_loss(network(mixed), target, kept.squeeze(1), step.progress)
        return total

    @torch.no_grad()
    def _predictions(self, step: Step) -> list[Tensor]:
        assert step.peer is not None
        return [step.network(step.inputs), step.peer(step.inputs)]

    def _network_loss(self, logits: Tensor, target: Tensor, kept: Tensor, progress: float) -> Tensor:
        """Return the loss of one network for a mixed batch; `kept` tells which examples keep their labels."""
        p = F.softmax(logits, 1)
        labeled = (soft_cross_entropy(logits, target) * kept).sum() / kept.sum().clamp_min(1)
        unlabeled = (((p - target) ** 2).mean(1) * ~kept).sum() / (~kept).sum().clamp_min(1)
        rise = min(max((progress - self.warm) / self.ramp, 0.0), 1.0)
        return labeled + self.lambda_u * rise * unlabeled + against_one_class(p)

    def sharpened(self, target: Tensor) -> Tensor:
        """Return targets (N, C) to the power 1 / temperature, with rows that sum to 1."""
        return torch.softmax(target.clamp_min(torch.finfo(target.dtype).tiny).log() / self.temperature, 1)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Estimate which labels are clean from the losses of each network."""
        if epoch.number == 0 or epoch.progress < self.warm:
            return
        for clean, losses in zip(self.clean, self.losses, strict=True):
            values = _gaussian_mixture.scaled(losses)
            clean.copy_(_gaussian_mixture.fit(values, _LEAST_VARIANCE).posterior(values))
        self.divided.fill_(True)
