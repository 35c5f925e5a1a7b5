"""The families of weightings that the paper designs, each one formula in log space; `losses` has those of usual losses.

Equation numbers refer to "Derivative Manipulation for General Example Weighting". p in [0, 1] is the probability
of the example's label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.weighting._checked import Checked
from emphasis.weighting._numerics import Array, ArrayModule, log_of_expm1_exp, log_power
from emphasis.weighting.base import Weighting


@dataclass(frozen=True, repr=False)
class DM(Checked, Weighting):
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
class Normal(Checked, Weighting):
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
class Exponential(Checked, Weighting):
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
class Beta(Checked, Weighting):
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
