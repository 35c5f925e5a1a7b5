"""A mixture of two beta distributions, fitted by expectation maximization with weighted moments.

Source: E. Arazo et al., Unsupervised Label Noise Modeling and Loss Correction, ICML 2019, section 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from emphasis.errors import EmphasisValueError

_INSIDE = 1e-4  # at 0 and 1 the densities are infinite or 0


@dataclass(frozen=True, eq=False)
class BetaMixture:
    """Two components on (0, 1), the one with the smaller mean first.

    Attributes:
        alpha: First parameters of the components, (2,).
        beta: Second parameters of the components, (2,).
        share: Shares of the components, (2,), which sum to 1.
    """

    alpha: Tensor
    beta: Tensor
    share: Tensor

    @property
    def means(self) -> Tensor:
        """The means of the components, alpha / (alpha + beta), (2,)."""
        return self.alpha / (self.alpha + self.beta)

    def log_joint(self, values: Tensor) -> Tensor:
        """Return the logarithms of share times density, (2, n), at values (n,)."""
        x = values.double().clamp(_INSIDE, 1.0 - _INSIDE)
        a, b = self.alpha.unsqueeze(1), self.beta.unsqueeze(1)
        log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        return self.share.log().unsqueeze(1) + (a - 1.0) * x.log() + (b - 1.0) * torch.log1p(-x) - log_beta

    def posterior(self, values: Tensor) -> Tensor:
        """Return the probability of the second component, that of the larger values, (n,).

        It is monotone: beyond its maximum and before its minimum it is constant, since a wide component would otherwise
        dominate at both ends.
        """
        joint = self.log_joint(values)
        posterior = torch.sigmoid(joint[1] - joint[0])
        grid = torch.linspace(_INSIDE, 1.0 - _INSIDE, 200, dtype=torch.float64, device=values.device)
        on_grid = self.log_joint(grid)
        raised = torch.sigmoid(on_grid[1] - on_grid[0])
        top, bottom = grid[raised.argmax()], grid[raised.argmin()]
        x = values.double()
        posterior = torch.where(x > top, raised.max(), posterior)
        return torch.where(x < bottom, raised.min(), posterior) if bottom < top else posterior


def fit(values: Tensor, iterations: int = 10) -> BetaMixture:
    """Return the mixture fitted to values (n,) in [0, 1] by `iterations` steps of expectation maximization.

    The maximization step matches the weighted mean and variance of each component, which has a closed form.

    Raises:
        ValueError: A value is outside [0, 1] or NaN.
    """
    if not bool(((values >= 0.0) & (values <= 1.0)).all()):
        raise EmphasisValueError("values outside [0, 1] cannot be beta-distributed; scale them first")
    x = values.double().clamp(_INSIDE, 1.0 - _INSIDE)
    alpha = torch.tensor([1.0, 2.0], dtype=torch.float64, device=x.device)
    mixture = BetaMixture(alpha, alpha.flip(0), torch.full_like(alpha, 0.5))
    for _ in range(iterations):
        responsible = torch.softmax(mixture.log_joint(x), 0)
        mass = responsible.sum(1).clamp_min(1e-12)
        mean = ((responsible * x).sum(1) / mass).clamp(_INSIDE, 1.0 - _INSIDE)
        variance = (responsible * (x - mean.unsqueeze(1)) ** 2).sum(1) / mass
        # The variance of a beta distribution is between 0 and mean (1 - mean).
        variance = torch.minimum(variance.clamp_min(1e-6), 0.99 * mean * (1.0 - mean))
        total = mean * (1.0 - mean) / variance - 1.0
        mixture = BetaMixture(mean * total, (1.0 - mean) * total, mass / len(x))
    order = mixture.means.argsort()
    return BetaMixture(mixture.alpha[order], mixture.beta[order], mixture.share[order])


def scaled(losses: Tensor) -> Tensor:
    """Return losses (n,) scaled to [0, 1] by their 5th and 95th percentiles, as in the authors' release."""
    low, high = (percentile(losses, share) for share in (0.05, 0.95))
    return ((losses - low) / max(high - low, 1e-6)).clamp(0.0, 1.0)


def percentile(values: Tensor, share: float) -> float:
    """Return the percentile `share` of (n,) values; torch.quantile does not support more than 16 million."""
    return float(values.float().kthvalue(max(1, math.ceil(share * len(values)))).values)
