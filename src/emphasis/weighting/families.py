"""The weighting families of the paper, each one formula in log space.

Equation numbers refer to "Derivative Manipulation for General Example Weighting". p in [0, 1] is the probability
of the example's label. Constants are those of the original losses, so that w is the L1 norm of the derivative of the
loss with respect to the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.validation import checked_number
from emphasis.weighting._numerics import (
    Array,
    ArrayModule,
    log_of_expm1_exp,
    log_of_minus_log_p,
    log_power,
    log_sigmoid,
)
from emphasis.weighting.base import Weighting

_LOG_2 = math.log(2.0)


def _sigmoid(margin: Array, xp: ArrayModule) -> Array:
    return xp.exp(log_sigmoid(margin, xp))


class _Checked:
    """Converts the parameters of a frozen dataclass to floats and checks their bounds."""

    _bounds: ClassVar[dict[str, tuple[float, float]]]
    _positive: ClassVar[frozenset[str]] = frozenset()  # the parameters whose lower bound is not allowed itself

    def __post_init__(self) -> None:
        for name, (low, high) in self._bounds.items():
            ends = "(]" if name in self._positive else "[]"
            value = checked_number(type(self).__name__, name, getattr(self, name), low, high, ends=ends)
            object.__setattr__(self, name, value)


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
class GCE(_Checked, Weighting):
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


@dataclass(frozen=True, repr=False)
class DM(_Checked, Weighting):
    """Derivative Manipulation, w = exp(beta p^lam (1-p)): Eq. 12. Mode lam/(lam+1) if beta > 0.

    Because w(1) = 1, the derivative of an example that has been learned does not vanish, and plain networks diverge.
    Front ends therefore stop it at a margin of 16.6 by default (`max_margin`); `vanishing=True` is the alternative. For
    beta < 0 the mode is 1 if lam = 0, and 0 and 1 otherwise. Neither the loss nor, except at lam = 0, the integral has
    a closed form.

    Args:
        lam: Sets the emphasis mode, >= 0: the values 0, 1/2, 1 and 2 put it at p = 0, 1/3, 1/2 and 2/3. Noisier labels
            need a larger value.
        beta: Sets how much the mode is emphasized, any finite number. With 0 all examples have the same weight.
        vanishing: Whether w(1) is subtracted: w = exp(beta p^lam (1-p)) - 1, so that the derivative of a learned
            example vanishes and the loss is finite. Needs beta > 0. Tends to beta/2 times GCE(q=lam) as beta -> 0.

    Examples:
        >>> from emphasis import DM
        >>> weighting = DM(lam=1, beta=8)
        >>> weighting.mode
        0.5
        >>> weighting([0.0, 0.5, 1.0]).round(2)
        array([1.  , 7.39, 1.  ])
        >>> DM(lam=1, beta=8, vanishing=True)([0.0, 0.5, 1.0]).round(2)
        array([0.  , 6.39, 0.  ])
        >>> round(weighting.mass(0.4, 0.6), 2)  # share of the emphasis on examples with p in [0.4, 0.6]
        0.33
    """

    lam: float = 0.5
    beta: float = 12.0
    vanishing: bool = False
    _bounds: ClassVar = {"lam": (0.0, math.inf), "beta": (-math.inf, math.inf)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.vanishing, bool):
            raise EmphasisTypeError(f"DM: vanishing must be True or False, got {self.vanishing!r}")
        if self.vanishing and self.beta <= 0.0:
            raise EmphasisValueError(
                f"DM: beta={self.beta!r} is not allowed with vanishing=True: the weight w(p) - w(1) would not be "
                "positive; use beta > 0, or vanishing=False"
            )

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = beta p^lam (1-p), or log(expm1(...)) of it if vanishing."""
        log_shape = log_power(self.lam, log_p) + log_q
        if self.vanishing:
            return log_of_expm1_exp(math.log(self.beta) + log_shape, xp)
        return self.beta * xp.exp(log_shape)

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode lam/(lam+1) for beta > 0; none for 0; 1, or 0 and 1, for beta < 0."""
        if self.beta == 0.0:
            return ()
        if self.beta > 0.0:
            return (self.lam / (self.lam + 1.0),)
        return (0.0, 1.0) if self.lam else (1.0,)

    @cached_property
    def log_integral(self) -> float:
        """The logarithm of the integral, in closed form at lam = 0 or beta = 0 and by quadrature otherwise."""
        if not self.vanishing and (self.lam == 0.0 or self.beta == 0.0):
            return _log_integral_of_exp(self.beta)
        return self._log_mass(0.0, 1.0)


def _log_integral_of_exp(beta: float) -> float:
    """Return the logarithm of the integral of exp(beta s) over [0, 1], (e^beta - 1)/beta."""
    if beta == 0.0:
        return 0.0
    size = abs(beta)
    return max(beta, 0.0) + math.log(-math.expm1(-size) / size)


def IMAE(T: float = 8.0) -> DM:  # noqa: N802
    """Return the weighting of IMAE, w = exp(T p (1-p)) = DM(lam=1, beta=T) (reference [54] of the paper).

    Args:
        T: Any finite number. The larger it is, the more examples around p = 1/2 count.
    """
    return DM(lam=1.0, beta=T)


def Uniform() -> DM:  # noqa: N802
    """Return w = 1, DM(lam=0, beta=0): all examples have the same weight (the italic rows of Tables 1 and 2)."""
    return DM(lam=0.0, beta=0.0)


@dataclass(frozen=True, repr=False, kw_only=True)
class Normal(_Checked, Weighting):
    """Normal distribution variant, w = exp(-beta p (p - 2 psi)): Eq. 9. Mode psi for beta > 0, cut at 1.

    Args:
        psi: Emphasis mode, >= 0.
        beta: Any finite number; 1/(2 beta) is the variance of the bell. For beta < 0 the ends of [0, 1] are emphasized.

    Examples:
        >>> from emphasis import Normal
        >>> Normal(psi=0.3, beta=12).mode
        0.3
    """

    psi: float = 0.5
    beta: float = 12.0
    _bounds: ClassVar = {"psi": (0.0, math.inf), "beta": (-math.inf, math.inf)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Return log w = -beta p (p - 2 psi)."""
        p = xp.exp(log_p)
        return -self.beta * p * (p - 2.0 * self.psi)

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode min(psi, 1) for beta > 0; none for 0; the end farther from psi, or both ends, for beta < 0."""
        if self.beta == 0.0:
            return ()
        if self.beta > 0.0:
            return (min(self.psi, 1.0),)
        if self.psi == 0.5:
            return (0.0, 1.0)
        return (1.0,) if self.psi < 0.5 else (0.0,)


@dataclass(frozen=True, repr=False)
class Exponential(_Checked, Weighting):
    """Exponential distribution variant, w = exp(beta (1-p)): Eq. 10, the same function as DM(lam=0, beta).

    Args:
        beta: Any finite number. Harder examples count more if beta > 0, less if beta < 0.
    """

    beta: float = 2.0
    _bounds: ClassVar = {"beta": (-math.inf, math.inf)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Return log w = beta (1-p)."""
        return self.beta * xp.exp(log_q)

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode 0 for beta > 0, none for 0, and 1 for beta < 0."""
        return () if self.beta == 0.0 else (0.0,) if self.beta > 0.0 else (1.0,)

    @property
    def log_integral(self) -> float:
        """The logarithm of the integral, (e^beta - 1)/beta."""
        return _log_integral_of_exp(self.beta)


@dataclass(frozen=True, repr=False, kw_only=True)
class Beta(_Checked, Weighting):
    """Beta distribution variant, w = p^(alpha-1) (1-p)^(eta-1): Eq. 11. Covers CCE, MAE, MSE and GCE up to scale.

    For alpha < 1 w is unbounded as p -> 0, so that the worst labels count most, and for eta < 1 as p -> 1. Front ends
    then saturate the weight near the largest finite number of the dtype. With alpha = 0 or eta = 0 the integral is
    infinite: there is no density, and normalization="integral" raises an error. With alpha = 1 or eta = 1 the factor is
    1 at the ends (0^0 = 1).

    Args:
        alpha: Exponent of p plus 1, >= 0.
        eta: Exponent of 1-p plus 1, >= 0.
    """

    alpha: float = 2.0
    eta: float = 2.0
    _bounds: ClassVar = {"alpha": (0.0, math.inf), "eta": (0.0, math.inf)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = (alpha-1) log p + (eta-1) log(1-p)."""
        return log_power(self.alpha - 1.0, log_p) + log_power(self.eta - 1.0, log_q) + xp.zeros_like(log_p)

    @property
    def modes(self) -> tuple[float, ...]:
        """The mode (alpha-1)/(alpha+eta-2) inside [0, 1], or the ends where w is largest or infinite."""
        rise, fall = self.alpha - 1.0, self.eta - 1.0
        if rise == 0.0 and fall == 0.0:
            return ()
        if rise >= 0.0 and fall >= 0.0:
            return (rise / (rise + fall),)
        if rise < 0.0 and fall < 0.0:
            return (0.0, 1.0)
        return (0.0,) if rise < 0.0 else (1.0,)

    @property
    def log_integral(self) -> float:
        """The logarithm of the integral, B(alpha, eta); inf if alpha or eta is 0."""
        if self.alpha == 0.0 or self.eta == 0.0:
            return math.inf
        return math.lgamma(self.alpha) + math.lgamma(self.eta) - math.lgamma(self.alpha + self.eta)


@dataclass(frozen=True, repr=False, kw_only=True)
class SCE(_Checked, Weighting):
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
class Focal(_Checked, Weighting):
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
