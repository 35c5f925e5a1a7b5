"""MD-DYR-SH: dynamic mixup and bootstrapping.

Source: E. Arazo et al., Unsupervised Label Noise Modeling and Loss Correction, ICML 2019.
"""

from __future__ import annotations

from typing import ClassVar

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
    check_range,
    check_whole,
    one_hot,
    soft_cross_entropy,
)  # fmt: skip


class MixupBootstrapping(Baseline):
    """Two examples are mixed by how clean their labels seem, and the label of each gives way to the prediction.

    Before every epoch a mixture of two beta distributions is fitted to all losses; w_i is the probability that
    example i belongs to the component of the large ones, a wrong label. A step mixes x_a and x_b as
    d x_a + (1 - d) x_b with d = (1 - w_a) / ((1 - w_a) + (1 - w_b)) (section 3.4), and minimises
    d l(a) + (1 - d) l(b) with l(i) = -((1 - w_i) onehot(y_i) + w_i z_i) . log p (Eq. 11), plus the term against all
    going to one class. z is the prediction for x_i itself, from soft to hard: its temperature falls from 1 to 0.001.

    Args:
        problem: The labels.
        warm: The share of training by cross-entropy before, in (0, 1); the first epoch at least.
        harden_from: Where the temperature begins to fall, as a share of training, in [0, 1). Published: 105 of 300.
        iterations: Of the mixture's fit, >= 1. Published: 10.

    Raises:
        ValueError: A parameter is out of bounds.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"survey"})
    wrong: Tensor
    known: Tensor

    def __init__(self, problem: Problem, *, warm: float = 0.1, harden_from: float = 0.35, iterations: int = 10) -> None:
        super().__init__(problem)
        check_range("warm", warm, 0.0, 1.0, ends="()")
        check_range("harden_from", harden_from, 0.0, 1.0, ends="[)")
        check_whole("iterations", iterations, 1)
        self.warm, self.harden_from, self.iterations = warm, harden_from, iterations
        self.register_buffer("wrong", torch.zeros(len(problem.labels)))
        self.register_buffer("known", torch.tensor(False))

    def temperature(self, progress: float) -> float:
        """Return that of the predictions, from 1 to 0.001."""
        return 1.0 - 0.999 * max(0.0, (progress - self.harden_from) / (1.0 - self.harden_from))

    def loss(self, step: Step) -> Tensor:
        """Return the loss of the mixed batch; cross-entropy until losses have been looked at."""
        if not self.known:
            return F.cross_entropy(step.logits, step.labels)
        other = torch.randperm(len(step.labels), device=step.labels.device)
        wrong = self.wrong[step.indices].to(step.inputs.dtype).clamp(1e-4, 1.0 - 1e-4)
        delta = (1.0 - wrong) / ((1.0 - wrong) + (1.0 - wrong[other]))
        each = delta.view(-1, *[1] * (step.inputs.ndim - 1))
        with torch.no_grad():
            own = F.softmax(step.network(step.inputs) / self.temperature(step.progress), 1)
        logits = step.network(each * step.inputs + (1.0 - each) * step.inputs[other])
        targets = (1.0 - wrong).unsqueeze(1) * one_hot(step.labels, logits) + wrong.unsqueeze(1) * own
        first, second = soft_cross_entropy(logits, targets), soft_cross_entropy(logits, targets[other])
        return (delta * first + (1.0 - delta) * second).mean() + against_one_class(F.softmax(logits, 1))

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
