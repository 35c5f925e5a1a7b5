"""S-adaptation, the noise adaptation layer.

Source: J. Goldberger and E. Ben-Reuven, Training Deep Neural-Networks Using a Noise Adaptation Layer, ICLR 2017.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines._transition import from_confusion
from emphasis.baselines.protocol import Baseline, Epoch, Need, Problem, Step, check_range


class NoiseAdaptation(Baseline):
    """A layer after the softmax that maps true classes to noisy labels, trained together with the network.

    P(label = j | x) = sum_i softmax_j(b_i) p_i, the simple model (Eq. 6); b starts from the confusion of a network
    trained by cross-entropy, b[i, j] = log(sum_t p_ti [y_t = j] / sum_t p_ti) (Eq. 10), and the training of the network
    continues. The layer is not used in prediction.

    Args:
        problem: The labels.
        warm: Share of training by cross-entropy at first, in (0, 1). The paper trains that network completely.
        smallest: Lower bound of the entries of the initial matrix, so that all can grow, in (0, 1 / C].

    Raises:
        ValueError: A parameter is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"survey"})
    adapting: Tensor

    def __init__(self, problem: Problem, *, warm: float = 0.3, smallest: float = 1e-3) -> None:
        super().__init__(problem)
        check_range("warm", warm, 0.0, 1.0, ends="()")
        check_range("smallest", smallest, 0.0, 1.0 / problem.num_classes, ends="(]")
        self.warm, self.smallest = warm, smallest
        self.b = nn.Parameter(torch.zeros(problem.num_classes, problem.num_classes))
        self.register_buffer("adapting", torch.tensor(False))

    @property
    def transition(self) -> Tensor:
        """The transition matrix [true, noisy] of the layer, (C, C)."""
        return F.softmax(self.b, 1)

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy of the prediction, or of the output of the layer once it is used."""
        if not self.adapting:
            # Optimizers need a gradient in every step.
            return F.cross_entropy(step.logits, step.labels) + 0.0 * self.b.sum()
        log_p, log_t = F.log_softmax(step.logits, 1), F.log_softmax(self.b, 1)
        return -torch.logsumexp(log_p + log_t.T[step.labels], 1).mean()

    def begin_epoch(self, epoch: Epoch) -> None:
        """Initialize the layer by the confusion of the network."""
        if not self.adapting and epoch.progress >= self.warm:
            confusion = from_confusion(F.softmax(epoch.survey(None).logits, 1), self.labels)
            with torch.no_grad():
                self.b.copy_(confusion.clamp_min(self.smallest).log())
            self.adapting.fill_(True)
