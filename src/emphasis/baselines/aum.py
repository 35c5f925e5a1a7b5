"""AUM: pruning by the area under the margin.

Source: G. Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin Ranking, NeurIPS 2020.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines._two_trainings import TwoTrainings
from emphasis.baselines.protocol import Epoch, Need, Problem, Step, check_range
from emphasis.deprecation import renamed


class AUM(TwoTrainings):
    """Removes examples with a low area under the margin, and trains the network again without them.

    The margin of an example is z_y - max_{j != y} z_j, and its AUM the mean over the epochs with the first, high
    learning rate (Eq. 1). The threshold is measured (section 3.2): n / (C + 1) random examples get an additional class,
    which a network can only memorize, and labels with an AUM below the 99th percentile of theirs are removed. The
    random examples then get their labels back. (The paper trains twice with different random examples, so that these
    are evaluated, too; here there is one such training, for the computation of a single one.)

    Args:
        problem: The labels.
        phase: Share of the first training, in (0, 1). In the paper it ends where the learning rate falls, after 150 of
            300 epochs.
        percentile: Percentile of the AUM of the random examples, in (0, 1]. Section 3.2 of the paper: 0.99.

    Raises:
        ValueError: A parameter is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"copy"})
    extra_outputs: ClassVar[int] = 1
    first_rate_alone: ClassVar[bool] = True
    drawn: Tensor
    total: Tensor
    seen: Tensor
    kept: Tensor

    def __init__(self, problem: Problem, *, phase: float = 0.5, percentile: float = 0.99) -> None:
        check_range("phase", phase, 0.0, 1.0, ends="()")
        super().__init__(problem, phase)
        check_range("percentile", percentile, 0.0, 1.0, ends="(]")
        self.percentile = percentile
        n = len(problem.labels)
        drawn = torch.zeros(n, dtype=torch.bool)
        drawn[torch.randperm(n, generator=problem.generator())[: max(1, n // (problem.num_classes + 1))]] = True
        self.register_buffer("drawn", drawn.to(problem.labels.device))
        self.register_buffer("total", torch.zeros(n))
        self.register_buffer("seen", torch.zeros(n))
        self.register_buffer("kept", torch.ones(n, dtype=torch.bool))

    @property
    def area(self) -> Tensor:
        """The AUM of every example so far, (n,)."""
        return self.total / self.seen.clamp_min(1.0)

    def loss(self, step: Step) -> Tensor:
        """Return cross-entropy: at first with the additional class, later of the labels that are kept."""
        if not self.second:
            labels = torch.where(self.drawn[step.indices], self.num_classes, step.labels)
            self.total[step.indices] += margins(step.logits.detach(), labels).to(self.total.dtype)
            self.seen[step.indices] += 1.0
            return F.cross_entropy(step.logits, labels)
        kept = self.kept[step.indices]
        losses = F.cross_entropy(step.logits[:, : self.num_classes], step.labels, reduction="none")
        return (losses * kept).sum() / kept.sum().clamp_min(1)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Remove examples with a low area, and begin the second training."""
        if self.due(epoch):
            known = self.seen > 0.0
            if bool((self.drawn & known).any()):
                threshold = torch.quantile(self.area[self.drawn & known], self.percentile)
                self.kept.copy_((self.area > threshold) | self.drawn | ~known)
            self.begin_second(epoch)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return z_y - max_{j != y} z_j, (N,), from logits (N, C)."""
    column = labels.unsqueeze(1)
    others = logits.scatter(1, column, -torch.inf).amax(1)
    return logits.gather(1, column).squeeze(1) - others


__getattr__ = renamed(__name__, {"Aum": "AUM"})
