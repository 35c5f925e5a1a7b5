"""`Relative`: a weighting of the label's probability against the largest, the default of every front end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from emphasis.weighting._numerics import Array, ArrayModule, log_sigmoid
from emphasis.weighting.base import Weighting
from emphasis.weighting.families import CCE, _Checked


@dataclass(frozen=True, repr=False)
class Relative(_Checked, Weighting):
    """Cross-entropy that holds back where the network contradicts the label: w = 2 (1-p) (p / p_max)^e.

    p_max is the largest probability that the network gives to any class, and the exponent

        e = q min(1, D / doubt) max(0, (p_max - pi) / (1 - pi)),

    with pi the batch's mean probability of the class that is the example's likeliest, and D the batch's mean of
    p_max - p. So w is cross-entropy's

    - where the label is the likeliest class,
    - for a network that knows nothing yet, whatever the number of classes, or no more than how frequent each class is:
      a certainty of 0.9 is none where nine tenths of all examples are of that class, and
    - for a network that agrees with its labels, clean ones say, but for a few.

    Else the label counts the less, the surer the network is of another class. Since w is never above cross-entropy's, a
    learning rate that suits cross-entropy suits it; and since nothing is remembered from batch to batch, there is no
    state to save.

    The means are over one call of the loss: over all ranks of a process group, but over each micro-batch by itself
    where gradients are accumulated. They are weighted by class and sample weights, so that an example of weight 2 is
    two examples, and one of weight 0 none. One example alone has pi = p_max, which is cross-entropy, and small batches
    are near to it. 1 - pi is taken to be at least 1e-6. Of several classes that are the likeliest alike, the first is.

    Unlike all other weightings it depends on the batch, not on p alone. As a function of p (`w(p)`, modes, figures) it
    is that of two classes that are equally frequent, so p_max = max(p, 1-p) and pi = 1/2, and of D >= doubt:
    w = 2 (1-p) (p / (1-p))^(q (1 - 2p)) for p < 1/2. The loss value is the weighted cross-entropy, which has this
    derivative where the factor is held constant. "integral" (Eq. 8) leaves it as it is: cross-entropy's is 1.

    Our own; docs/defaults.md has the trials that chose it.

    Args:
        q: In [0, 1], the power of p / p_max where network and batch are certain. 0 is cross-entropy.
        doubt: In [0, 1], the mean of p_max - p from which on the labels are doubted in full. 0: always.
    """

    q: float = 1.0
    doubt: float = 0.2
    _bounds: ClassVar = {"q": (0.0, 1.0), "doubt": (0.0, 1.0)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Log w of two classes, equally frequent, in full doubt."""
        return CCE().log_weight(log_p, log_q, xp) + self._log_trust(log_p, log_q, xp)

    def _log_trust(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        if self.q == 0.0:
            return xp.zeros_like(log_p)
        certainty = xp.clip(xp.exp(log_q) - xp.exp(log_p), 0.0, 1.0)
        return self.q * certainty * xp.clip(log_p - log_q, -math.inf, 0.0)

    @property
    def trust(self) -> tuple[float, float]:
        """(q, doubt)."""
        return self.q, self.doubt

    @property
    def where_agreed(self) -> Weighting:
        """Cross-entropy."""
        return CCE()

    @property
    def log_integral(self) -> float:
        """0, that of cross-entropy."""
        return 0.0

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        log_p, log_q = log_sigmoid(margin, xp), log_sigmoid(-margin, xp)
        return -log_p * xp.exp(self._log_trust(log_p, log_q, xp))
