"""Families of bounded losses that were published after the paper: asymmetric losses and Taylor cross-entropy.

Each family is w(p) = 2 p (1-p) |L'(p)| of a loss L(p), in log space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from emphasis.validation import check, checked_number
from emphasis.weighting._checked import Checked
from emphasis.weighting._numerics import Array, ArrayModule, log_power, log_sigmoid
from emphasis.weighting.base import Weighting

_LOG_2 = math.log(2.0)
_LARGEST_SHIFT, _LARGEST_EXPONENT = 1e6, 50.0  # (a+1)^q is finite
_LARGEST_ORDER = 10_000.0


@dataclass(frozen=True, repr=False, kw_only=True)
class AGCE(Checked, Weighting):
    """Asymmetric generalized cross-entropy, w = 2 p (1-p) (a+p)^(q-1). Loss ((a+1)^q - (a+p)^q) / q.

    X. Zhou et al., Asymmetric Loss Functions for Learning with Noisy Labels, ICML 2021. GCE is the special case a = 0.
    The defaults are those of the authors' release (hitcszx/ALFs, lnl/losses.py). Its q is positive; q = 0 is the limit,
    the loss log((a+1) / (a+p)), which is cross-entropy for a = 0.

    Args:
        a: Shift of p, in [0, 1e6].
        q: Exponent, in [0, 50].
    """

    a: float = 1.0
    q: float = 2.0
    _bounds: ClassVar = {"a": (0.0, _LARGEST_SHIFT), "q": (0.0, _LARGEST_EXPONENT)}

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = log 2 + log p + log(1-p) + (q-1) log(a+p)."""
        if self.a == 0.0:
            return _LOG_2 + log_power(self.q, log_p) + log_q
        return _LOG_2 + log_p + (self.q - 1.0) * xp.log(self.a + xp.exp(log_p)) + log_q

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        top, wrong = self.a + 1.0, xp.exp(log_sigmoid(-margin, xp))
        log_ratio = log_sigmoid(margin, xp) if self.a == 0.0 else xp.log1p(-wrong / top)  # log((a+p) / (a+1))
        if self.q == 0.0:
            return -log_ratio
        return -(top**self.q) * xp.expm1(self.q * log_ratio) / self.q


@dataclass(frozen=True, repr=False, kw_only=True)
class AUL(Checked, Weighting):
    """Asymmetric unhinged loss, w = 2 p (1-p) (a-p)^(q-1). Loss ((a-p)^q - (a-1)^q) / q.

    X. Zhou et al., Asymmetric Loss Functions for Learning with Noisy Labels, ICML 2021. The defaults are those of the
    authors' release (hitcszx/ALFs, lnl/losses.py, AUELoss).

    Args:
        a: Shift of p, in [1, 1e6].
        q: Exponent, in (0, 50].
    """

    a: float = 1.5
    q: float = 0.9
    _bounds: ClassVar = {"a": (1.0, _LARGEST_SHIFT), "q": (0.0, _LARGEST_EXPONENT)}
    _positive: ClassVar = frozenset({"q"})

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = log 2 + log p + log(1-p) + (q-1) log(a-p)."""
        if self.a == 1.0:
            return _LOG_2 + log_p + self.q * log_q
        return _LOG_2 + log_p + log_q + (self.q - 1.0) * xp.log(self.a - 1.0 + xp.exp(log_q))

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        log_wrong, least = log_sigmoid(-margin, xp), self.a - 1.0
        if least == 0.0:
            return xp.exp(self.q * log_wrong) / self.q
        return least**self.q * xp.expm1(self.q * xp.log1p(xp.exp(log_wrong) / least)) / self.q


@dataclass(frozen=True, repr=False)
class AEL(Checked, Weighting):
    """Asymmetric exponential loss, w = 2 p (1-p) exp(-p/a) / a. Loss exp(-p/a).

    X. Zhou et al., Asymmetric Loss Functions for Learning with Noisy Labels, ICML 2021. The default is that of the
    authors' release (hitcszx/ALFs, lnl/losses.py, AExpLoss).

    Args:
        a: Scale of p, > 0.
    """

    a: float = 3.0
    _bounds: ClassVar = {"a": (0.0, math.inf)}
    _positive: ClassVar = frozenset({"a"})

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = log 2 + log p + log(1-p) - p/a - log a."""
        return _LOG_2 + log_p + log_q - xp.exp(log_p) / self.a - math.log(self.a)

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        return xp.exp(-xp.exp(log_sigmoid(margin, xp)) / self.a)


@dataclass(frozen=True, repr=False)
class Taylor(Weighting):
    """Taylor cross-entropy, w = 2 (1-p) (1 - (1-p)^order). Loss sum_{i=1}^order (1-p)^i / i, the series of -log p.

    L. Feng et al., Can Cross Entropy Loss Be Robust to Label Noise?, IJCAI 2020. Order 1 is MAE, and the higher the
    order, the nearer it is to cross-entropy. The default, 2, is our choice.

    Args:
        order: Number of terms of the series, a whole number from 1 to 10,000.
    """

    order: int = 2

    def __post_init__(self) -> None:
        number = checked_number("Taylor", "order", self.order, 1.0, _LARGEST_ORDER)
        check(number.is_integer(), "Taylor: order", self.order, "use a whole number from 1 to 10,000")
        object.__setattr__(self, "order", int(number))

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = log 2 + log(1-p) + log(1 - (1-p)^order)."""
        # With x = -order log(1-p) this is log(1 - exp(-x)); near p = 0, where x is order p, log(order p).
        x = xp.where(log_p < -40.0, 1.0, -self.order * log_q)
        risen = xp.where(log_p < -40.0, log_p + math.log(self.order), xp.log(-xp.expm1(-x)))
        return _LOG_2 + log_q + risen

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array:
        log_wrong = log_sigmoid(-margin, xp)
        loss = xp.exp(log_wrong)
        for i in range(2, self.order + 1):
            loss = loss + xp.exp(i * log_wrong) / i
        return loss
