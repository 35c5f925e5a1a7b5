"""MD-DYR-SH: dynamic mixup and bootstrapping.

Source: E. Arazo et al., Unsupervised Label Noise Modeling and Loss Correction, ICML 2019.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines import _beta_mixture
from emphasis.baselines.joint_optimization import against_one_class
from emphasis.baselines.protocol import (
    Baseline,
    Epoch,
    Need,
    Problem,
    Step,
    check_flag,
    check_range,
    check_whole,
    one_hot,
    soft_cross_entropy,
)

Phase = Literal["mixup", "dynamic mixup", "bootstrapping"]


class MixupBootstrapping(Baseline):
    """Mixes examples depending on how clean their labels are, and replaces wrong labels by predictions.

    There are three phases. Mixup: x_a and x_b are mixed as l x_a + (1 - l) x_b with l from a beta distribution, and so
    are the losses of their labels. From then on a mixture of two beta distributions is fitted to all losses before
    every epoch, and w_i is the probability that example i belongs to the component of large losses, that of wrong
    labels. Dynamic mixup: inputs are mixed by d = (1 - w_a) / ((1 - w_a) + (1 - w_b)) (section 3.4), the losses by l.
    Bootstrapping: inputs are mixed by d, and the loss is the mean of l(i) = -((1 - w_i) onehot(y_i) + w_i z_i) . log p
    (Eq. 11) of both examples, plus a term against predicting one class only. z is the prediction for x_i, the
    temperature of which falls from 1 to 0.001.

    The phases and the mean are those of the release (PaulAlbert31/LabelNoiseCorrection, train.py and utils.py), with
    durations in shares of training instead of epochs. The release computes w_i in every step, and this class before
    each epoch.

    Args:
        problem: The labels.
        warm: Share of training by mixup, in (0, 1); at least the first epoch. In the release 105 of 300
            epochs.
        alpha: Parameter of the beta distribution of l, >= 0; with 0 the first phase is cross-entropy. In the release
            32.
        dynamic: Share of training by dynamic mixup, in [0, 1). In the release 5 of 300 epochs.
        halves: Whether the weights of the two bootstrapping losses are 1/2, as in the release; otherwise d and 1 - d.
        harden_from: Share of training after which the temperature falls, in [0, 1). In the release 110 of 300 epochs,
            when bootstrapping begins.
        harden_until: Share of training after which it is 0.001, in (harden_from, 1]. In the release after 200 of 300
            epochs.
        iterations: Number of iterations of the fit, >= 1. In the release 10.

    Raises:
        ValueError: A parameter is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"survey"})
    wrong: Tensor
    known: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        warm: float = 0.35,
        alpha: float = 32.0,
        dynamic: float = 5 / 300,
        halves: bool = True,
        harden_from: float = 110 / 300,
        harden_until: float = 200 / 300,
        iterations: int = 10,
    ) -> None:
        super().__init__(problem)
        check_range("warm", warm, 0.0, 1.0, ends="()")
        check_range("alpha", alpha, 0.0, float("inf"), ends="[)")
        check_range("dynamic", dynamic, 0.0, 1.0, ends="[)")
        check_flag("halves", halves)
        check_range("harden_from", harden_from, 0.0, 1.0, ends="[)")
        check_range("harden_until", harden_until, harden_from, 1.0, ends="(]")
        check_whole("iterations", iterations, 1)
        self.warm, self.alpha, self.dynamic, self.halves = warm, alpha, dynamic, halves
        self.harden_from, self.harden_until, self.iterations = harden_from, harden_until, iterations
        self.register_buffer("wrong", torch.zeros(len(problem.labels)))
        self.register_buffer("known", torch.tensor(False))

    def temperature(self, progress: float) -> float:
        """Return the temperature of predictions, from 1 to 0.001."""
        passed = (progress - self.harden_from) / (self.harden_until - self.harden_from)
        return 1.0 - 0.999 * min(max(passed, 0.0), 1.0)

    def phase(self, progress: float) -> Phase:
        """Return the phase of a step; the first one continues until the mixture has been fitted."""
        if not self.known:
            return "mixup"
        return "dynamic mixup" if progress < self.warm + self.dynamic else "bootstrapping"

    def loss(self, step: Step) -> Tensor:
        """Return the loss of the mixed batch."""
        phase = self.phase(step.progress)
        if phase == "mixup" and self.alpha == 0.0:
            return F.cross_entropy(step.logits, step.labels)
        other = torch.randperm(len(step.labels), device=step.labels.device)
        drawn = self._drawn_share()
        wrong = self.wrong[step.indices].to(step.inputs.dtype).clamp(1e-4, 1.0 - 1e-4)
        clean = torch.full_like(wrong, drawn) if phase == "mixup" else (1.0 - wrong) / (2.0 - wrong - wrong[other])
        each = clean.view(-1, *[1] * (step.inputs.ndim - 1))
        mixed = each * step.inputs + (1.0 - each) * step.inputs[other]
        if phase != "bootstrapping":
            log_p = F.log_softmax(step.network(mixed), 1)
            return drawn * F.nll_loss(log_p, step.labels) + (1.0 - drawn) * F.nll_loss(log_p, step.labels[other])
        with torch.no_grad():
            prediction = F.softmax(step.network(step.inputs) / self.temperature(step.progress), 1)
        logits = step.network(mixed)
        targets = (1.0 - wrong).unsqueeze(1) * one_hot(step.labels, logits) + wrong.unsqueeze(1) * prediction
        first, second = soft_cross_entropy(logits, targets), soft_cross_entropy(logits, targets[other])
        share = 0.5 if self.halves else clean
        return (share * first + (1.0 - share) * second).mean() + against_one_class(F.softmax(logits, 1))

    def _drawn_share(self) -> float:
        """Return the share l of a step."""
        if self.alpha == 0.0:
            return 0.5
        return float(torch.distributions.Beta(self.alpha, self.alpha).sample())

    def begin_epoch(self, epoch: Epoch) -> None:
        """Fit the mixture to the losses."""
        if epoch.number == 0 or epoch.progress < self.warm:
            return
        losses = F.cross_entropy(epoch.survey(None).logits, self.labels, reduction="none")
        values = _beta_mixture.scaled(losses)
        inside = values[(values > 0.0) & (values < 1.0)]
        fitted = _beta_mixture.fit(inside if len(inside) else values, self.iterations)
        self.wrong.copy_(fitted.posterior(values))
        self.known.fill_(True)
