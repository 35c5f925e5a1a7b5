"""The weightings of the usual losses, each one formula in log space.

Equation numbers refer to "Derivative Manipulation for General Example Weighting". Constants are those of the original
losses, so that w is the L1 norm of the derivative of the loss with respect to the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from emphasis.errors import EmphasisValueError
from emphasis.weighting._checked import Checked
from emphasis.weighting._numerics import Array, ArrayModule, log_of_minus_log_p, log_power, log_sigmoid
from emphasis.weighting.base import Weighting

_LOG_2 = math.log(2.0)


def _sigmoid(margin: Array, xp: ArrayModule) -> Array:
    return xp.exp(log_sigmoid(margin, xp))


@dataclass(frozen=True, repr=False)
class CCE(Weighting):
    """Categorical cross-entropy, w = 2 (1-p): Eq. 1 and 6. Mode 0, integral 1, loss -log p.

    Examples:
        >>> from emphasis import CCE
        >>> CCE()([0.0, 0.5, 1.0])
        array([2., 1., 0.])
        >>> CCE().mode, CCE().integral
        (0.0, 1.0)
    """

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Return log w = log 2 + log(1-p)."""
        return _LOG_2 + log_q

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode 0: the hardest examples."""
        return (0.0,)

    @property
    def log_integral(self) -> float:
        """The logarithm of the integral, log 1 = 0."""
        return 0.0

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        return -log_sigmoid(margin, xp)


@dataclass(frozen=True, repr=False)
class GCE(Checked, Weighting):
    """Generalized cross-entropy, w = 2 p^q (1-p): Eq. 4 and 6. Mode q/(q+1), loss (1-p^q)/q.

    Args:
        q: Exponent in [0, 1]. q = 0 is CCE, q = 1 is MAE. The published default is 0.7 (Zhang and Sabuncu, 2018).

    Examples:
        >>> from emphasis import CCE, GCE
        >>> GCE(q=1.0)([0.0, 0.5, 1.0])
        array([0. , 0.5, 0. ])
        >>> GCE(q=1.0).mode
        0.5
        >>> bool(GCE(q=0.0)(0.3) == CCE()(0.3))
        True
    """

    q: float = 0.7
    _bounds: ClassVar = {"q": (0.0, 1.0)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Return log w = log 2 + q log p + log(1-p)."""
        return _LOG_2 + log_power(self.q, log_p) + log_q

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode q/(q+1)."""
        return (self.q / (self.q + 1.0),)

    @property
    def log_integral(self) -> float:
        """The logarithm of the integral, 2 B(q+1, 2) = 2 / ((q+1)(q+2))."""
        return math.log(2.0 / ((self.q + 1.0) * (self.q + 2.0)))

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        log_p = log_sigmoid(margin, xp)
        return -xp.expm1(self.q * log_p) / self.q if self.q else -log_p


@dataclass(frozen=True, repr=False)
class MAE(Weighting):
    """Mean absolute error, w = 2 p (1-p): Eq. 2 and 6. Mode 1/2, integral 1/3, loss 1-p.

    Examples:
        >>> from emphasis import MAE
        >>> MAE()([0.0, 0.5, 1.0])
        array([0. , 0.5, 0. ])
        >>> MAE().mode
        0.5
    """

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Return log w = log 2 + log p + log(1-p)."""
        return _LOG_2 + log_p + log_q

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode 1/2."""
        return (0.5,)

    @property
    def log_integral(self) -> float:
        """The logarithm of the integral, log 1/3."""
        return -math.log(3.0)

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        return _sigmoid(-margin, xp)


@dataclass(frozen=True, repr=False)
class MSE(Weighting):
    """Mean square error, w = 4 p (1-p)^2: Eq. 3 and 6. Mode 1/3, integral 1/3, loss (1-p)^2."""

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Return log w = log 4 + log p + 2 log(1-p)."""
        return 2.0 * _LOG_2 + log_p + 2.0 * log_q

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode 1/3."""
        return (1.0 / 3.0,)

    @property
    def log_integral(self) -> float:
        """The logarithm of the integral, 4 B(2, 3) = 1/3."""
        return -math.log(3.0)

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        return _sigmoid(-margin, xp) ** 2


@dataclass(frozen=True, repr=False, kw_only=True)
class SCE(Checked, Weighting):
    """Symmetric cross-entropy, w = 2 mu (1-p) + 2 nu |A| p (1-p). Loss -mu log p + nu |A| (1-p).

    mu is the weight of cross-entropy, nu that of reverse cross-entropy, in which log 0 is set to A (Wang et al., 2019).

    Args:
        mu: Weight of cross-entropy, >= 0.
        nu: Weight of reverse cross-entropy, >= 0; mu and nu are not both 0.
        A: Value of log 0, <= 0; not 0 if mu is 0.
    """

    mu: float = 0.1
    nu: float = 1.0
    A: float = -4.0
    _bounds: ClassVar = {"mu": (0.0, math.inf), "nu": (0.0, math.inf), "A": (-math.inf, 0.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mu == 0.0 and self._reverse == 0.0:
            raise EmphasisValueError(
                f"SCE: mu={self.mu}, nu={self.nu}, A={self.A} give no term a weight; one must be > 0"
            )

    @property
    def _reverse(self) -> float:
        return self.nu * abs(self.A)

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = log 2 + log(1-p) + log(mu + nu |A| p)."""
        if self.mu == 0.0:
            return _LOG_2 + math.log(self._reverse) + log_p + log_q
        return _LOG_2 + log_q + xp.log(self.mu + self._reverse * xp.exp(log_p))

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode max(0, (nu |A| - mu) / (2 nu |A|))."""
        return (max(0.0, 0.5 - 0.5 * self.mu / self._reverse) if self._reverse else 0.0,)

    @property
    def log_integral(self) -> float:
        """Log (mu + nu |A| / 3)."""
        return math.log(self.mu + self._reverse / 3.0)

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        return -self.mu * log_sigmoid(margin, xp) + self._reverse * _sigmoid(-margin, xp)


@dataclass(frozen=True, repr=False)
class Focal(Checked, Weighting):
    """Focal loss, w = 2 (1-p)^gamma ((1-p) - gamma p log p). Loss -(1-p)^gamma log p (Lin et al., 2017).

    w = 2 p (1-p) |L'(p)|. Its mode is small but above 0 for gamma > 0 and has no closed form.

    Args:
        gamma: Exponent of 1-p, >= 0; 0 is CCE. The published default is 2.
    """

    gamma: float = 2.0
    _bounds: ClassVar = {"gamma": (0.0, math.inf)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = log 2 + gamma log(1-p) + log((1-p) + gamma p (-log p))."""
        if self.gamma == 0.0:
            return _LOG_2 + log_q
        pull = math.log(self.gamma) + log_p + log_of_minus_log_p(log_p, log_q, xp)
        # p log p -> 0 as p -> 0, but -inf + inf is NaN.
        pull = xp.where(log_p == -math.inf, -math.inf, pull)
        return _LOG_2 + self.gamma * log_q + xp.logaddexp(log_q, pull)

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        return -xp.exp(self.gamma * log_sigmoid(-margin, xp)) * log_sigmoid(margin, xp)
