"""A mixture of two normal distributions on the line, by expectation maximization."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST_VARIANCE = 5e-4  # of losses scaled to [0, 1], as in the release of DivideMix (Train_CIFAR.py, reg_covar)


def probability_of_the_smaller(values: Tensor, iterations: int = 30) -> Tensor:
    """Return the probability that each of (n,) values is of the component with the smaller mean, (n,).

    Args:
        values: Scaled to [0, 1].
        iterations: Steps of expectation maximization, from means at the 25th and 75th percentile.
    """
    x = values.double().unsqueeze(1)
    ordered = x.flatten().sort().values
    n = len(ordered)
    mean = torch.stack([ordered[n // 4], ordered[min(3 * n // 4, n - 1)]])
    variance = torch.full_like(mean, max(float(x.var(correction=0)), _LEAST_VARIANCE))
    share = torch.full_like(mean, 0.5)
    for _ in range(iterations):
        log_joint = share.log() - 0.5 * variance.log() - 0.5 * (x - mean) ** 2 / variance
        responsible = torch.softmax(log_joint, 1)
        mass = responsible.sum(0).clamp_min(1e-12)
        mean = (responsible * x).sum(0) / mass
        variance = (responsible * (x - mean) ** 2).sum(0) / mass + _LEAST_VARIANCE
        share = mass / n
    log_joint = share.log() - 0.5 * variance.log() - 0.5 * (x - mean) ** 2 / variance
    return torch.softmax(log_joint, 1)[:, int(mean.argmin())].to(values.dtype)


def scaled(values: Tensor) -> Tensor:
    """Return values (n,) on [0, 1]; those that are not finite are 0."""
    known = values.isfinite()
    if not bool(known.any()):
        return torch.zeros_like(values)
    low, high = values[known].min(), values[known].max()
    return torch.where(known, (values - low) / (high - low).clamp_min(math.ulp(1.0)), 0.0).clamp(0.0, 1.0)
