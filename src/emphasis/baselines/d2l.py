"""D2L, dimensionality-driven learning (X. Ma et al., Dimensionality-Driven Learning with Noisy Labels, ICML 2018)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from emphasis.baselines.protocol import (
    Baseline,
    Epoch,
    Need,
    Problem,
    Step,
    check_whole,
    one_hot,
    soft_cross_entropy,
)
from emphasis.errors import EmphasisValueError

_BATCH = 128  # neighbors are searched among this number of examples, as in the release (callback_util.py)


class D2L(Baseline):
    """Replaces labels by predictions once the dimensionality of the features rises, a sign of memorization.

    After every epoch the local intrinsic dimensionality (LID) of the features before the last layer is estimated. When
    it exceeds the mean of the last `window` epochs by two standard deviations, the parameters of the epoch before are
    restored, and from then on the targets are (Eqs. 9 and 10)

        alpha y + (1 - alpha) onehot(argmax p),   alpha = exp(-(i / T) LID_i / min_{j <= i} LID_j).

    Args:
        problem: The labels.
        window: Number of epochs in the window, >= 2. In the release (xingjunm/dimensionality-driven-learning,
            train_models.py, epoch_win) 5; the paper (2018) says 5 for MNIST and 12 for CIFAR-10, of 50 and 120 epochs.
        first: Number of epochs before the first window, >= 0. Defaults to `window`. In the release (init_epoch) 5
            for MNIST, 10 for CIFAR-10 and 20 for CIFAR-100.
        neighbours: Number k of neighbors of the estimate, >= 2. 20 in the release (callback_util.py).
        examples: Number of examples that are evaluated. 1,280 in the release, ten batches of 128.

    Raises:
        ValueError: A parameter is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"features", "survey", "copy"})
    recent: Tensor
    count: Tensor
    lowest: Tensor
    alpha: Tensor
    turned: Tensor

    def __init__(
        self, problem: Problem, *, window: int = 5, first: int | None = None, neighbours: int = 20, examples: int = 1280
    ) -> None:
        super().__init__(problem)
        check_whole("window", window, 2)
        check_whole("neighbours", neighbours, 2, _BATCH - 1)
        check_whole("examples", examples, neighbours + 1)
        if first is not None:
            check_whole("first", first, 0)
        self.window, self.neighbours = window, neighbours
        self.compared_from = 2 * window if first is None else max(first + window - 1, window)
        self.evaluated = torch.randperm(len(problem.labels), generator=problem.generator())[:examples]
        if len(self.evaluated) <= neighbours:
            raise EmphasisValueError(
                f"neighbours={neighbours} is not allowed with {len(self.evaluated)} examples; use fewer"
            )
        self.register_buffer("recent", torch.zeros(window))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("lowest", torch.tensor(math.inf))
        self.register_buffer("alpha", torch.tensor(1.0))
        self.register_buffer("turned", torch.tensor(False))

    def loss(self, step: Step) -> Tensor:
        """Return cross-entropy with the mixed targets, alpha = 1 before the turning point."""
        alpha = self.alpha.to(step.logits.dtype)
        prediction = one_hot(step.logits.argmax(1), step.logits)
        targets = alpha * one_hot(step.labels, step.logits) + (1.0 - alpha) * prediction
        return soft_cross_entropy(step.logits, targets).mean()

    def begin_epoch(self, epoch: Epoch) -> None:
        """Estimate the LID, detect the turning point, and set alpha."""
        if epoch.number == 0:
            return
        features = epoch.survey(self.evaluated.to(self.labels.device)).features
        assert features is not None
        lid = mean_lid(features, self.neighbours)
        if lid == 0.0:  # all features coincide, and have no dimensionality
            return
        if not self.turned and self.count >= self.compared_from and turning_point(self.recent, lid):
            self.turned.fill_(True)
            epoch.restore_weights()
        elif not self.turned:
            epoch.save_weights()
        if self.turned:
            self.alpha.fill_(math.exp(-epoch.progress * lid / min(float(self.lowest), lid)))
        self.lowest.fill_(min(float(self.lowest), lid))
        self.recent.copy_(torch.cat([self.recent[1:], self.recent.new_tensor([lid])]))
        self.count += 1


def turning_point(recent: Tensor, lid: float) -> bool:
    """Return whether `lid` exceeds the mean of the recent ones by two standard deviations."""
    return lid - float(recent.mean()) > 2.0 * float(recent.std(correction=0))


def mean_lid(features: Tensor, neighbours: int) -> float:
    """Return the mean LID of features (n, D), with neighbors searched in batches of 128.

    Maximum likelihood (Eq. 4): LID(x) = -(1/k sum_{i=1}^k log(r_i / r_k))^-1, r_i the distance to neighbor i.
    Examples that coincide with a neighbor are ignored; the result is 0 if all do.
    """
    estimates = []
    for batch in torch.split(features, _BATCH):
        if len(batch) <= neighbours:
            continue
        distances = torch.cdist(batch.double(), batch.double()).fill_diagonal_(torch.inf)
        nearest = distances.topk(neighbours, largest=False, sorted=True).values
        good = nearest[:, 0] > 0.0
        ratios = (nearest[good] / nearest[good, -1:]).log().mean(1)
        estimates.append(-1.0 / ratios[ratios < 0.0])
    values = torch.cat(estimates) if estimates else torch.zeros(0)
    return float(values.mean()) if len(values) else 0.0
