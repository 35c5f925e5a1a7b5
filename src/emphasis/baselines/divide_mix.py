"""DivideMix: two networks, each of which tells the other which labels to keep, and semi-supervised learning.

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

_LEAST_VARIANCE = 5e-4  # of losses on [0, 1], in the release (Train_CIFAR.py, reg_covar)


class DivideMix(Baseline):
    """Labels that the other network's losses make out as right are kept in part; the others give way to guesses.

    Before every epoch a mixture of two normal distributions is fitted to each network's losses; w_i is the probability
    of the one of small losses. Where the other network's w exceeds `threshold`, the target is w onehot(y) + (1 - w) p,
    else the mean prediction of both networks; either is sharpened to the power 1 / temperature. The batch is then mixed
    up, l x_i + (1 - l) x_j with l from a beta distribution, its larger half; the loss is cross-entropy of what is
    kept, lambda_u times the squared error of the others' predictions, and the term against all going to one class.

    Twice the computation of other methods and more. Unlike the release (LiJunnan1992/DivideMix, Train_CIFAR.py), the
    batches are those of the loop, of kept and other examples together, in one augmentation instead of two; the losses
    are those that each example last had in training; and the first network alone predicts.

    Args:
        problem: The labels.
        warm: Share of training by cross-entropy before, in (0, 1). 10 of 300 epochs in the release for CIFAR-10.
        threshold: Of w, in (0, 1). 0.5 in the release.
        temperature: > 0. 0.5 in the release.
        alpha: > 0, of the beta distribution. 4 in the release.
        lambda_u: >= 0. 25 in the release by default; 0 is recommended there for little noise.
        ramp: Share of training over which lambda_u rises from 0, in (0, 1]. 16 of 300 epochs in the release.

    Raises:
        ValueError: A parameter is out of bounds.
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
        """Return the sum of both networks' losses."""
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
            total = total + self._of_one(network(mixed), target, kept.squeeze(1), step.progress)
        return total

    @torch.no_grad()
    def _predictions(self, step: Step) -> list[Tensor]:
        assert step.peer is not None
        return [step.network(step.inputs), step.peer(step.inputs)]

    def _of_one(self, logits: Tensor, target: Tensor, kept: Tensor, progress: float) -> Tensor:
        """Return one network's loss of a mixed batch; `kept`: whose first part has its label."""
        p = F.softmax(logits, 1)
        labeled = (soft_cross_entropy(logits, target) * kept).sum() / kept.sum().clamp_min(1)
        unlabeled = (((p - target) ** 2).mean(1) * ~kept).sum() / (~kept).sum().clamp_min(1)
        rise = min(max((progress - self.warm) / self.ramp, 0.0), 1.0)
        return labeled + self.lambda_u * rise * unlabeled + against_one_class(p)

    def sharpened(self, target: Tensor) -> Tensor:
        """Return targets (N, C) to the power 1 / temperature, rows summing to 1."""
        return torch.softmax(target.clamp_min(torch.finfo(target.dtype).tiny).log() / self.temperature, 1)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Divide the examples, by each network's losses."""
        if epoch.number == 0 or epoch.progress < self.warm:
            return
        for clean, losses in zip(self.clean, self.losses, strict=True):
            values = _gaussian_mixture.scaled(losses)
            clean.copy_(_gaussian_mixture.fit(values, _LEAST_VARIANCE).posterior(values))
        self.divided.fill_(True)
