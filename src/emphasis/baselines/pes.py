"""PES: early stopping of the network first, of its last layer later, and training on labels that it agrees with.

Source: Y. Bai et al., Understanding and Improving Early Stopping for Learning with Noisy Labels, NeurIPS 2021.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Epoch, Need, Problem, Step, check_range
from emphasis.errors import EmphasisValueError
from emphasis.models.layers import last_linear


class PES(Baseline):
    """Cross-entropy for a while; the last layer anew, for a while; then cross-entropy of labels that are predicted.

    The last layers memorize wrong labels sooner than the first ones. So the network is stopped early, its last linear
    layer starts anew and is trained for a short time with the others fixed, and from then on, before every epoch, the
    examples are chosen whose label it predicts. Their classes weigh alike: mean number of chosen examples a class over
    the class's.

    In the authors' release the layers anew are up to three blocks, and are trained by Adam at a learning rate of 1e-4;
    here they are the last linear layer, trained by the loop's optimizer.

    Args:
        problem: The labels.
        warm: Share of training before, in (0, 1). 25 of 200 epochs in the release (tmllab/2021_NeurIPS_PES, PES_cs.py)
            for CIFAR-10, 30 for CIFAR-100.
        refine: Share of training of the last layer alone, in (0, 1). 7 of 200 epochs in the release (refine_times_1).

    Raises:
        ValueError: A parameter is out of bounds.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"features", "survey"})
    began: Tensor
    confident: Tensor
    class_weight: Tensor

    def __init__(self, problem: Problem, *, warm: float = 0.125, refine: float = 0.035) -> None:
        super().__init__(problem)
        check_range("warm", warm, 0.0, 1.0, ends="()")
        check_range("refine", refine, 0.0, 1.0, ends="()")
        if warm + refine >= 1.0:
            raise EmphasisValueError(f"warm={warm!r} and refine={refine!r} leave no training; use a sum below 1")
        self.warm, self.refine = warm, refine
        self._last: list[nn.Linear] = []  # not a part of this module: it is the network's
        self.register_buffer("began", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("confident", torch.ones(len(problem.labels), dtype=torch.bool))
        self.register_buffer("class_weight", torch.ones(problem.num_classes))

    def prepare(self, network: nn.Module) -> None:
        """Take note of the last linear layer."""
        self._last = [last_linear(network)]

    def loss(self, step: Step) -> Tensor:
        """Return cross-entropy of the examples that are chosen; that of the last layer alone for a while."""
        if float(self.began) >= 0.0 and step.progress < float(self.began) + self.refine:
            layer = self._last[0]
            logits = F.linear(step.features.detach(), layer.weight, layer.bias)
            return F.cross_entropy(logits, step.labels) + 0.0 * step.logits.sum()
        chosen = self.confident[step.indices]
        losses = F.cross_entropy(step.logits, step.labels, reduction="none")
        weight = chosen * self.class_weight[step.labels]
        return (losses * weight).sum() / weight.sum().clamp_min(torch.finfo(losses.dtype).tiny)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Start the last layer anew, or choose examples."""
        if self.began < 0.0:
            if epoch.progress >= self.warm:
                self._last[0].reset_parameters()
                self.began.fill_(epoch.progress)
        elif epoch.progress >= float(self.began) + self.refine:
            self.confident.copy_(epoch.survey(None).logits.argmax(1) == self.labels)
            counts = torch.bincount(self.labels[self.confident], minlength=self.num_classes).float()
            mean = counts.sum() / (counts > 0.0).sum().clamp_min(1)
            self.class_weight.copy_(torch.where(counts > 0.0, mean / counts.clamp_min(1.0), 0.0))
