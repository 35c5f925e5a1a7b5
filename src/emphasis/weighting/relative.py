"""`Relative`, the default weighting: cross-entropy with less weight for labels that the network contradicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from emphasis.weighting._checked import Checked
from emphasis.weighting._numerics import Array, ArrayModule, log_sigmoid
from emphasis.weighting.base import Weighting
from emphasis.weighting.losses import CCE


@dataclass(frozen=True, repr=False)
class Relative(Checked, Weighting):
    """Cross-entropy with less weight for labels that the network contradicts: w = 2 (1-p) (p / p_max)^e.

    p_max is the largest probability that the network gives to any class, and the exponent is

        e = q min(1, D / doubt) max(0, (p_max - pi) / (1 - pi)),

    where pi is the mean over the batch of the probability of the example's likeliest class, and D the mean over the
    batch of p_max - p. The weight is that of cross-entropy

    - where the label is the likeliest class,
    - for a network that has not learned more than how frequent each class is: a probability of 0.9 does not count as
      certain if nine tenths of all examples are of that class, and
    - for a network that agrees with almost all labels, as with clean ones.

    Otherwise, the more certain the network is of another class, the less the label counts. As w is never above that of
    cross-entropy, a learning rate that suits cross-entropy suits `Relative`; and as nothing is remembered from batch to
    batch, there is no state to save.

    The means are taken over one call of the loss: over all ranks of a process group, but over each micro-batch by
    itself where gradients are accumulated. They are weighted by class and sample weights: an example of weight 2 counts
    as two examples, and one of weight 0 as none. A single example has pi = p_max, for which the loss is cross-entropy,
    and small batches are close to that. A lower bound of 1e-6 applies to 1 - pi. If several classes are the likeliest,
    the first one is used.

    Unlike all other weightings, `Relative` depends on the batch and not only on p. As a function of p (`w(p)`, modes,
    figures) it is the weighting for two equally frequent classes and D >= doubt, where p_max = max(p, 1-p) and
    pi = 1/2: w = 2 (1-p) (p / (1-p))^(q (1 - 2p)) for p < 1/2. The value of the loss is the weighted cross-entropy,
    which has this derivative if the factor is constant. The normalization "integral" (Eq. 8) does not change it, as
    the integral of cross-entropy's weighting is 1.

    `Relative` was developed for this package; docs/defaults.md describes the trials by which it was chosen.

    Args:
        q: Power of p / p_max where the network is certain, in [0, 1]. 0 is cross-entropy.
        doubt: Mean of p_max - p from which on the exponent is not reduced, in [0, 1]. With 0 it never is.

    Examples:
        >>> import torch
        >>> from emphasis import CCE, Relative
        >>> from emphasis.torch import emphasis_loss
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]], requires_grad=True)
        >>> labels = torch.tensor([0, 1, 0, 1])  # the network is sure that the second and third are wrong
        >>> for weighting in (CCE(), Relative()):
        ...     (derivative,) = torch.autograd.grad(emphasis_loss(logits, labels, weighting), logits)
        ...     print([round(push, 3) for push in derivative.abs().sum(1).tolist()])
        [0.009, 0.491, 0.491, 0.009]
        [0.009, 0.01, 0.01, 0.009]
    """

    q: float = 1.0
    doubt: float = 0.2
    _bounds: ClassVar = {"q": (0.0, 1.0), "doubt": (0.0, 1.0)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w for two equally frequent classes and D >= doubt."""
        return CCE().log_weight(log_p, log_q, xp) + self._log_trust(log_p, log_q, xp)

    def _log_trust(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        if self.q == 0.0:
            return xp.zeros_like(log_p)
        certainty = xp.clip(xp.exp(log_q) - xp.exp(log_p), 0.0, 1.0)
        return self.q * certainty * xp.clip(log_p - log_q, -math.inf, 0.0)

    @property
    def trust(self) -> tuple[float, float]:
        """The parameters (q, doubt)."""
        return self.q, self.doubt

    @property
    def where_agreed(self) -> Weighting:
        """The weighting of cross-entropy."""
        return CCE()

    @property
    def log_integral(self) -> float:
        """The logarithm of the integral of cross-entropy's weighting, 0."""
        return 0.0

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        log_p, log_q = log_sigmoid(margin, xp), log_sigmoid(-margin, xp)
        return -log_p * xp.exp(self._log_trust(log_p, log_q, xp))
