"""OGC, optimized gradient clipping: cross-entropy with a threshold of p that follows from a model of the losses.

Source: X. Ye et al., Optimized Gradient Clipping for Noisy Label Learning, AAAI 2025.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines import _gaussian_mixture
from emphasis.baselines.protocol import Baseline, Problem, Step, check_range, check_whole

_LEAST, _GRID, _HALVINGS = 1e-7, 1000, 40


class GradientClipping(Baseline):
    """Cross-entropy with the derivative |dL/dp| = 1 / p clipped at 1 / t: -log p if p > t, else -log t + 1 - p / t.

    The weight is w = 2 (1 - p) above t, and 2 (1 - p) p / t, a multiple of that of MAE, below. t is the smallest
    threshold for which the mean derivative of examples with large losses exceeds that of examples with small losses by
    at most `excess`. Losses are modeled by two normal distributions, fitted to the latest losses and truncated to their
    range. After one and two thirds of training the excess falls to a tenth and a hundredth, as the learning rate does
    in the release, where it is a factor of the excess (Virusdoll/OGC, methods/losses_ogc.py, script/cifar10/ogc_ce.sh).

    Args:
        problem: The labels.
        excess: Excess of the mean derivative, > 0. 2 in the release, epsilon = 20 times a learning rate of 0.1
            (ogc_ce.sh).
        every: Number of steps between fits, >= 1. 32 in the release.
        queue: Number of losses that are modeled, >= 2. 4096 in the release.

    Raises:
        ValueError: A parameter is out of range.
    """

    threshold: Tensor
    losses: Tensor
    counts: Tensor

    def __init__(self, problem: Problem, *, excess: float = 2.0, every: int = 32, queue: int = 4096) -> None:
        super().__init__(problem)
        check_range("excess", excess, 0.0, math.inf, ends="()")
        check_whole("every", every, 1)
        check_whole("queue", queue, 2)
        self.excess, self.every = excess, every
        self.register_buffer("threshold", torch.tensor(_LEAST, dtype=torch.float64))
        self.register_buffer("losses", torch.zeros(queue))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # numbers of losses and of steps

    def bound(self, progress: float) -> float:
        """Return the largest ratio of the mean derivatives of large to small losses at a progress."""
        return 1.0 + self.excess * 10.0 ** -min(int(3.0 * progress), 2)

    def loss(self, step: Step) -> Tensor:
        """Return the mean clipped loss, and update the threshold."""
        log_p = F.log_softmax(step.logits, 1).gather(1, step.labels.unsqueeze(1)).squeeze(1)
        self._record(-log_p.detach(), step.progress)
        t = self.threshold.to(log_p.dtype)
        clipped = 1.0 - log_p.exp() / t - t.log()
        return torch.where(log_p > t.log(), -log_p, clipped).mean()

    def _record(self, losses: Tensor, progress: float) -> None:
        """Record the latest losses, and fit the model if it is time to."""
        seen, steps = self.counts.tolist()
        slots = (seen + torch.arange(len(losses), device=losses.device)) % len(self.losses)
        kept = losses[-len(self.losses) :]
        self.losses[slots[-len(self.losses) :]] = kept.to(self.losses.dtype).clamp(0.0, -math.log(_LEAST))
        self.counts += self.counts.new_tensor([len(losses), 1])
        if (steps + 1) % self.every == 0 and seen + len(losses) >= len(self.losses):
            self.threshold.fill_(threshold_for(self.losses, self.bound(progress)))


def threshold_for(losses: Tensor, bound: float) -> float:
    """Return the smallest t for which the mean derivative of large losses is <= `bound` times that of small ones."""
    mixture = _gaussian_mixture.fit(losses, 1e-6)
    grid = torch.linspace(0.0, -math.log(_LEAST), _GRID, dtype=torch.float64, device=losses.device)
    squares = (grid.unsqueeze(1) - mixture.mean) ** 2 / mixture.variance
    density = torch.softmax(-0.5 * squares, 0)

    def ratio(log_t: float) -> float:
        small, large = (density * grid.exp().clamp_max(math.exp(-log_t)).unsqueeze(1)).sum(0).tolist()
        return float(large / small)

    low, high = math.log(_LEAST), 0.0  # the ratio falls from low to high, where it is 1
    if ratio(low) <= bound:
        return _LEAST
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if ratio(middle) > bound else (low, middle)
    return math.exp(high)
