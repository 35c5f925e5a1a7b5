"""A mixture of two normal distributions of numbers, fitted by expectation maximization."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class GaussianMixture(NamedTuple):
    """Two components, the one with the smaller mean first; each field is (2,), float64."""

    mean: Tensor
    variance: Tensor
    share: Tensor

    def posterior(self, values: Tensor) -> Tensor:
        """Return the probability of the first component at (n,) values."""
        return torch.softmax(self._log_joint(values), 1)[:, 0].to(values.dtype)

    def _log_joint(self, values: Tensor) -> Tensor:
        squares = (values.double().unsqueeze(1) - self.mean) ** 2
        return self.share.log() - 0.5 * self.variance.log() - 0.5 * squares / self.variance


def fit(values: Tensor, least_variance: float, iterations: int = 30) -> GaussianMixture:
    """Return the mixture fitted to (n,) values; the initial means are the 25th and 75th percentiles.

    Args:
        values: Finite values, (n,).
        least_variance: Number that is added to every variance, so that none becomes 0.
        iterations: Number of steps of expectation maximization.
    """
    x = values.double()
    ordered, n = x.sort().values, len(values)
    mean = torch.stack([ordered[n // 4], ordered[min(3 * n // 4, n - 1)]])
    spread = torch.full_like(mean, float(x.var(correction=0)) + least_variance)
    mixture = GaussianMixture(mean, spread, torch.full_like(mean, 0.5))
    for _ in range(iterations):
        responsible = torch.softmax(mixture._log_joint(x), 1)
        mass = responsible.sum(0).clamp_min(1e-12)
        mean = (responsible * x.unsqueeze(1)).sum(0) / mass
        variance = (responsible * (x.unsqueeze(1) - mean) ** 2).sum(0) / mass + least_variance
        mixture = GaussianMixture(mean, variance, mass / n)
    order = mixture.mean.argsort()
    return GaussianMixture(*(field[order] for field in mixture))


def scaled(values: Tensor) -> Tensor:
    """Return values (n,) scaled to [0, 1]; those that are not finite become 0."""
    known = values.isfinite()
    if not bool(known.any()):
        return torch.zeros_like(values)
    low, high = values[known].min(), values[known].max()
    return torch.where(known, (values - low) / (high - low).clamp_min(math.ulp(1.0)), 0.0).clamp(0.0, 1.0)
