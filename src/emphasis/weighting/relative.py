"""`Relative`: a weighting of the label's probability in units of the largest, the default of every front end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from emphasis.weighting._numerics import Array, ArrayModule, log_sigmoid
from emphasis.weighting.base import Weighting
from emphasis.weighting.families import CCE, _Checked


@dataclass(frozen=True, repr=False)
class Relative(_Checked, Weighting):
    """Cross-entropy held back where the network is sure of another class: w = 2 (1-p) (p / p_max)^(q p_max^certainty).

    p_max is the largest probability that the network gives to any class. Where that is the label's, w is
    cross-entropy's; and so it nearly is for all examples of a network that knows nothing yet, whatever the number of
    classes. The surer the network is of another class, the less the label counts. Since w is never above
    cross-entropy's, a learning rate that suits cross-entropy suits it.

    Unlike all other weightings it depends on p_max, not on p alone. As a function of p (`w(p)`, modes, figures) it is
    that of two classes, where p_max = max(p, 1-p); losses of C classes use their own p_max. The loss value is the
    weighted cross-entropy, which has this derivative where the factor is held constant. "integral" (Eq. 8) leaves it as
    it is, for cross-entropy's integral is 1.

    Our own; docs/defaults.md has the trials that chose its parameters.

    Args:
        q: In [0, 1], the power of p / p_max where the network is certain, p_max = 1. 0 is cross-entropy.
        certainty: >= 0, how certain the network has to be for that. 0: not at all.
    """

    q: float = 0.7
    certainty: float = 1.5
    _bounds: ClassVar = {"q": (0.0, 1.0), "certainty": (0.0, math.inf)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Log w of two classes."""
        return CCE().log_weight(log_p, log_q, xp) + self._log_trust(log_p, log_q, xp)

    def _log_trust(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        if self.q == 0.0:
            return xp.zeros_like(log_p)
        p_max = xp.exp(xp.maximum(log_p, log_q))
        return self.q * p_max**self.certainty * xp.clip(log_p - log_q, -math.inf, 0.0)

    @property
    def trust(self) -> tuple[float, float]:
        """(q, certainty)."""
        return self.q, self.certainty

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
