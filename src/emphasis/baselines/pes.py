"""PES: progressive early stopping, first of the network and then of its last layer, and training on confident labels.

Source: Y. Bai et al., Understanding and Improving Early Stopping for Learning with Noisy Labels, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Epoch, Need, Problem, Step, check_range
from emphasis.errors import EmphasisValueError
from emphasis.models.layers import last_linear


class PES(Baseline):
    """Trains by cross-entropy, then a new last layer, and then by cross-entropy of the labels that are predicted.

    The last layers of a network memorize wrong labels sooner than the first ones. The network is therefore stopped
    early, its last linear layer is initialized again and trained for a short time with the others fixed, and from then
    on, before every epoch, the examples are selected for which the label is predicted. Classes have equal weights: the
    weight of a class is the mean number of selected examples of a class divided by that of the class.

    In the authors' release the new layers are up to three blocks, trained by Adam with a learning rate of 1e-4; here
    there is one layer, the last linear one, trained by the optimizer of the loop.

    Args:
        problem: The labels.
        warm: Share of training before the new layer, in (0, 1). 25 of 200 epochs in the release
            (tmllab/2021_NeurIPS_PES, PES_cs.py) for CIFAR-10, 30 for CIFAR-100.
        refine: Share of training of the new layer only, in (0, 1). 7 of 200 epochs in the release (refine_times_1).

    Raises:
        ValueError: A parameter is out of range.
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
        self._networks: list[nn.Module] = []  # a list, as the network is not part of this module
        self.register_buffer("began", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("confident", torch.ones(len(problem.labels), dtype=torch.bool))
        self.register_buffer("class_weight", torch.ones(problem.num_classes))

    def prepare(self, network: nn.Module) -> None:
        """Store the network, to replace its last linear layer."""
        self._networks = [network]

    def _refines(self, progress: float) -> bool:
        """Return whether only the new layer is trained."""
        return 0.0 <= float(self.began) <= progress < float(self.began) + self.refine

    def fixed_parameters(self, progress: float) -> Iterable[nn.Parameter]:
        """Return all parameters but those of the new last layer, while only it is trained."""
        if not self._refines(progress):
            return ()
        trained = {id(parameter) for parameter in last_linear(self._networks[0]).parameters()}
        return [parameter for parameter in self._networks[0].parameters() if id(parameter) not in trained]

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy of the selected examples, or that of the new last layer only."""
        if self._refines(step.progress):
            layer = last_linear(self._networks[0])
            logits = F.linear(step.features.detach(), layer.weight, layer.bias)
            return F.cross_entropy(logits, step.labels) + 0.0 * step.logits.sum()
        chosen = self.confident[step.indices]
        losses = F.cross_entropy(step.logits, step.labels, reduction="none")
        weight = chosen * self.class_weight[step.labels]
        return (losses * weight).sum() / weight.sum().clamp_min(torch.finfo(losses.dtype).tiny)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Initialize the last layer again, or select examples."""
        if self.began < 0.0:
            if epoch.progress >= self.warm:
                layer = last_linear(self._networks[0])
                layer.reset_parameters()
                epoch.clear_state(layer.parameters())
                self.began.fill_(epoch.progress)
        elif epoch.progress >= float(self.began) + self.refine:
            self.confident.copy_(epoch.survey(None).logits.argmax(1) == self.labels)
            counts = torch.bincount(self.labels[self.confident], minlength=self.num_classes).float()
            mean = counts.sum() / (counts > 0.0).sum().clamp_min(1)
            self.class_weight.copy_(torch.where(counts > 0.0, mean / counts.clamp_min(1.0), 0.0))
