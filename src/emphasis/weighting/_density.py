"""`WeightFunction`: values, modes, integral and density of w(p)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from emphasis.errors import EmphasisValueError
from emphasis.validation import checked_number
from emphasis.weighting._modes import numerical_modes
from emphasis.weighting._numerics import Array, ArrayModule, checked_probabilities
from emphasis.weighting._quadrature import log_integral

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


class WeightFunction:
    """The part of `Weighting` that concerns w(p) alone, without logits."""

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w(p), the formula that defines a family.

        Args:
            log_p: Logarithm of p = sigmoid(u) with u the margin z_y - logsumexp_{j != y} z_j, of any shape.
            log_q: Logarithm of 1-p = sigmoid(-u), of the same shape.
            xp: Module of the arrays: numpy, torch or jax.numpy.
        """
        raise NotImplementedError

    # --- values ----------------------------------------------------------------------------------

    def __call__(self, p: Array) -> FloatArray:
        """Return w(p) in float64.

        Args:
            p: Probabilities in [0, 1], of any shape.

        Raises:
            ValueError: A probability is NaN or out of range.
        """
        with np.errstate(over="ignore"):
            return np.exp(self.log(p))

    def log(self, p: Array) -> FloatArray:
        """Return log w(p) in float64, which is finite where w overflows and -inf where w is 0; see `__call__`."""
        p = checked_probabilities(p)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.asarray(self.log_weight(np.log(p), np.log1p(-p), np))[()]

    @cached_property
    def modes(self) -> tuple[float, ...]:
        """Every p that maximizes w, in ascending order (Definition 1); () if w is constant and has no mode."""
        return numerical_modes(lambda log_p, log_q: self.log_weight(log_p, log_q, np))

    @property
    def mode(self) -> float | None:
        """The emphasis mode psi = argmax w (Definition 1): the smallest of `modes`; None if w is constant."""
        return self.modes[0] if self.modes else None

    @cached_property
    def log_peak(self) -> float:
        """The maximum of log w over [0, 1]; inf if w is unbounded."""
        mode = self.modes[0] if self.modes else 0.5
        return float(self.log(mode))

    @cached_property
    def vanishes(self) -> bool:
        """Whether w(1) = 0, so that the derivative of an example that has been learned vanishes."""
        return float(self(1.0)) == 0.0

    # --- the emphasis density function -----------------------------------------------------------

    def _log_mass(self, lower: float, upper: float) -> float:
        """Return the logarithm of the integral of w over [lower, upper] by quadrature."""
        return log_integral(lambda log_p, log_q: self.log_weight(log_p, log_q, np), repr(self), lower, upper)

    @cached_property
    def log_integral(self) -> float:
        """The logarithm of the integral of w over [0, 1], the normalizer of Eq. 8; inf if the integral diverges."""
        return self._log_mass(0.0, 1.0)

    @property
    def integral(self) -> float:
        """The integral of w over [0, 1] (Eq. 8); inf if it diverges or exceeds the range of float64."""
        return math.exp(self.log_integral) if self.log_integral < 709.0 else math.inf

    @property
    def log_normalizer(self) -> float:
        """The finite `log_integral`.

        Raises:
            ValueError: The integral is infinite, so that Eq. 8 is not defined.
        """
        if self.log_integral == math.inf:
            raise EmphasisValueError(
                f"{self!r} has an infinite integral over [0, 1], so its density (Eq. 8) does not exist; "
                'use normalization="batch" or None, or parameters that keep w integrable'
            )
        return self.log_integral

    def density(self, p: Array) -> FloatArray:
        """Return the emphasis density function (EDF) h(p) = w(p) / integral of w (Eq. 8).

        Args:
            p: Probabilities in [0, 1], of any shape.

        Raises:
            ValueError: A probability is out of range, or the integral is infinite.
        """
        with np.errstate(over="ignore"):
            return np.exp(self.log(p) - self.log_normalizer)

    def mass(self, a: float, b: float) -> float:
        """Return the integral of the EDF over [a, b], a number in [0, 1].

        Raises:
            ValueError: 0 <= a <= b <= 1 does not hold, or the integral of w is infinite.
        """
        a = checked_number("mass", "a", a, 0.0, 1.0)
        b = checked_number("mass", "b", b, a, 1.0)
        return math.exp(min(self._log_mass(a, b) - self.log_normalizer, 0.0)) if a < b else 0.0

    @cached_property
    def edf_variance(self) -> float:
        """The variance of p under the EDF, which is not the emphasis variance of Definition 2."""

        def log_moment(k: int) -> float:
            return log_integral(
                lambda log_p, log_q: self.log_weight(log_p, log_q, np) + k * log_p, f"p^{k} times {self!r}"
            )

        mean, square = (math.exp(min(log_moment(k) - self.log_normalizer, 0.0)) for k in (1, 2))
        return square - mean * mean

    def emphasis_variance(self, p: Array) -> float:
        """Return the emphasis variance sigma = E((w - E(w))^2) over a batch of probabilities (Definition 2).

        Args:
            p: Probabilities in [0, 1], of any shape with at least one element.

        Raises:
            ValueError: A probability is out of range, or there is none.
        """
        p = checked_probabilities(p)
        if p.size == 0:
            raise EmphasisValueError("emphasis_variance needs at least one probability, got none")
        return float(np.var(self(p)))
