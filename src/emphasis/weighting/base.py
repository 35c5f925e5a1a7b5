"""`Weighting`: a function w(p) >= 0 and everything that follows from it.

w(p) is the L1 norm of the derivative of an example's loss with respect to its logits, p being the probability of the
example's label ("Derivative Manipulation for General Example Weighting", DM, Section 3). A family defines one formula,
`log_weight(log_p, log_q, xp)`; everything else is derived from it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np

from emphasis.errors import EmphasisOverflowError, EmphasisTypeError, EmphasisValueError
from emphasis.validation import checked_number
from emphasis.weighting._density import FloatArray, WeightFunction
from emphasis.weighting._numerics import Array, ArrayModule
from emphasis.weighting._potential import PotentialTable, build_table
from emphasis.weighting.derivative import derivative

MaxMargin = float | Literal["auto"] | None

AUTO_MAX_MARGIN = 16.6
"""The margin at which 1-p rounds to 0 in float32: 1-p < 6.2e-8."""


class Weighting(WeightFunction):
    """A weighting function w(p) >= 0 on [0, 1].

    Subclasses are frozen dataclasses of their parameters that define `log_weight`, and that override `modes`,
    `log_integral` and `_closed_form_loss` where there is a closed form. Weightings are compared by value, can be hashed
    and pickled, print as the Python expression that creates them, and can be added (`CCE() + 0.5 * MAE()`) and scaled
    (`2 * CCE()`).
    """

    @property
    def trust(self) -> tuple[float, float]:
        """The parameters (q, level) of the dependence on the batch, see `Relative`; (0, 0) if w depends on p only."""
        return 0.0, 0.0

    @property
    def where_agreed(self) -> Weighting:
        """The weighting where the label is the likeliest class, which depends on p only; `self` if w always does."""
        return self

    # --- derivative and loss ---------------------------------------------------------------------

    def max_margin(self, setting: MaxMargin = "auto") -> float:
        """Return the margin beyond which the derivative is 0; inf if there is no such margin.

        Args:
            setting: A number >= 0; None for no limit; or "auto" for 16.6 if w(1) > 0 and no limit otherwise.

        Raises:
            TypeError: `setting` is not a number.
            ValueError: `setting` is another text, NaN or infinite.
        """
        if setting is None:
            return math.inf
        if isinstance(setting, str):
            if setting != "auto":
                raise EmphasisValueError(f'max_margin={setting!r} is not allowed; use "auto", None or a number')
            return math.inf if self.vanishes else AUTO_MAX_MARGIN
        return checked_number("max_margin", "max_margin", setting)

    def derivative(self, logits: Array, labels: Array, max_margin: MaxMargin = None) -> FloatArray:
        """Return the derivative of the loss with respect to the logits: the float64 reference of Eq. 7 without its 0/0.

        dz_y = -w/2 and dz_j = (w/2) q_j for j != y, q the softmax over the other classes; its L1 norm is w(p).

        Args:
            logits: Finite array of shape (N, C) or (N, C, d1, ...), C >= 2.
            labels: Integers in [0, C), of shape (N,) or (N, d1, ...).
            max_margin: Margin beyond which the derivative is 0, as the method `max_margin` takes it.

        Returns:
            The derivative, float64 and of the shape of the logits, neither averaged nor normalized.

        Raises:
            TypeError: Labels are not integers.
            ValueError: Shapes do not match, a label is out of range or a logit is not finite.
        """
        return derivative(self, logits, labels, self.max_margin(max_margin))

    def potential(self, margin: Array, max_margin: MaxMargin = None) -> FloatArray:
        """Return the loss value L(u), whose derivative with respect to the logits is `derivative`.

        L'(u) = -w(sigmoid(u))/2. Families with a closed form have its usual constant, such as -log p for CCE. The
        others are 0 where the derivative ends: as the margin tends to infinity if w(1) = 0, else at `max_margin`.
        Without `max_margin` the loss of a weighting with w(1) > 0 is 0 at margin 0 and unbounded below.

        Args:
            margin: Margins u = z_y - logsumexp_{j != y} z_j, of any shape.
            max_margin: Margin beyond which the loss is constant, as the method `max_margin` takes it.

        Raises:
            ValueError: A margin is NaN.
            OverflowError: The loss exceeds the range of float64.
        """
        margin = np.asarray(margin, dtype=np.float64)
        if np.isnan(margin).any():
            raise EmphasisValueError("margin holds NaN; margins are real numbers")
        return np.asarray(self.loss(margin, np, np.asarray, self.max_margin(max_margin)))[()]

    def loss(
        self,
        margin: Array,
        xp: ArrayModule,
        asarray: Callable[[Array], Array],
        max_margin: float = math.inf,
        log_normalizer: float = 0.0,
    ) -> Array:
        """Return L(margin) / exp(log_normalizer) in any array module; `potential` is the version for numpy.

        Args:
            margin: Floating array of `xp`; float64 for full precision.
            xp: The array module.
            asarray: Converts a numpy array to the module, device and dtype of `margin`.
            max_margin: Margin beyond which the loss is constant, from `max_margin(...)`.
            log_normalizer: Logarithm of the divisor, which may itself exceed the range of float64.
        """
        if max_margin < math.inf:
            margin = xp.clip(margin, -math.inf, max_margin)
        closed = self._closed_form_loss(margin, xp)
        if closed is not None:
            return closed * math.exp(-log_normalizer)
        table = self.potential_table
        log_unit = table.log_scale - log_normalizer
        if log_unit > 709.0:
            raise EmphasisOverflowError(
                f"the loss value of {self!r} exceeds float64 (w reaches exp({self.log_peak:.0f})); "
                'use normalization="integral" or "batch", or a smaller beta'
            )
        return (table(margin, xp, asarray) - self._potential_end(max_margin)) * math.exp(log_unit)

    def prepare(self, max_margin: float = math.inf) -> None:
        """Compute in numpy what `loss` and front ends need, before a framework traces them."""
        _ = self.vanishes
        self.loss(np.zeros(1), np, np.asarray, max_margin, max(self.log_peak, 0.0))

    def _closed_form_loss(self, margin: Array, xp: ArrayModule) -> Array | None:  # noqa: ARG002
        """Return L(margin), or None if there is no closed form."""
        return None

    @cached_property
    def potential_table(self) -> PotentialTable:
        """The tabulated potential of a family without a closed form."""
        return build_table(lambda log_p, log_q: self.log_weight(log_p, log_q, np), self.log_peak)

    def _potential_end(self, max_margin: float) -> float:
        """Return the value of the table where the derivative ends; 0 if it does not end."""
        if max_margin == math.inf and not self.vanishes:
            return 0.0
        return float(self.potential_table(np.array([min(max_margin, 1e6)]), np, np.asarray)[0])

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters without values computed from them: pickles are small and do not depend on use."""
        computed = {
            name for kind in type(self).__mro__ for name, v in vars(kind).items() if isinstance(v, cached_property)
        }
        return {name: value for name, value in self.__dict__.items() if name not in computed}

    # --- algebra, text, dictionaries -------------------------------------------------------------

    def __add__(self, other: object) -> Weighting:
        if isinstance(other, Weighting):
            return Sum((*_terms(self), *_terms(other)))
        return self if other == 0 else NotImplemented

    __radd__ = __add__

    def __mul__(self, factor: object) -> Weighting:
        if isinstance(factor, (int, float)) and not isinstance(factor, bool):
            return Scaled(float(factor), self)
        return NotImplemented

    __rmul__ = __mul__

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name, without options that are False."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if value is not False}

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary from which `from_dict` makes the weighting, such as {"family": "GCE", "q": 0.7}."""
        return {"family": type(self).__name__, **self.parameters()}

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.parameters().items())
        return f"{type(self).__name__}({inside})"


def _check_depends_on_p_alone(name: str, *weightings: Weighting) -> None:
    for weighting in weightings:
        if weighting.trust[0]:
            raise EmphasisValueError(
                f"{name} takes weightings that depend on p only, got {weighting!r}; scale or add the losses instead"
            )


def _terms(weighting: Weighting) -> tuple[Weighting, ...]:
    return weighting.terms if isinstance(weighting, Sum) else (weighting,)


@dataclass(frozen=True, repr=False)
class Sum(Weighting):
    """w = w_1 + w_2 + ...: the derivative of a sum of losses. Written `CCE() + MAE()`."""

    terms: tuple[Weighting, ...]

    def __post_init__(self) -> None:
        if not self.terms or not all(isinstance(term, Weighting) for term in self.terms):
            raise EmphasisTypeError(f"Sum needs one or more weightings, got {self.terms!r}")
        _check_depends_on_p_alone("Sum", *self.terms)

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return the logarithm of the sum of the terms."""
        first, *rest = (term.log_weight(log_p, log_q, xp) for term in self.terms)
        for log_w in rest:
            first = xp.logaddexp(first, log_w)
        return first

    @cached_property
    def log_integral(self) -> float:
        """The logarithm of the sum of the integrals."""
        return float(np.logaddexp.reduce([term.log_integral for term in self.terms]))

    def loss(
        self,
        margin: Array,
        xp: ArrayModule,
        asarray: Callable[[Array], Array],
        max_margin: float = math.inf,
        log_normalizer: float = 0.0,
    ) -> Array:
        """Return the sum of the losses of the terms, each with its own constant."""
        return sum(term.loss(margin, xp, asarray, max_margin, log_normalizer) for term in self.terms)

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary {"family": "Sum", "terms": [...]}."""
        return {"family": "Sum", "terms": [term.to_dict() for term in self.terms]}

    def __repr__(self) -> str:
        return " + ".join(repr(term) for term in self.terms)


@dataclass(frozen=True, repr=False)
class Scaled(Weighting):
    """w = factor * w_1, factor > 0: the derivative of a scaled loss. Written `0.5 * CCE()`."""

    factor: float
    weighting: Weighting

    def __post_init__(self) -> None:
        factor = checked_number("Scaled", "factor", self.factor, 0.0)
        _check_depends_on_p_alone("Scaled", self.weighting)
        if factor == 0.0:
            raise EmphasisValueError("Scaled: factor=0 is not allowed; use a number > 0")
        if isinstance(self.weighting, Scaled):
            factor *= self.weighting.factor
            object.__setattr__(self, "weighting", self.weighting.weighting)
        object.__setattr__(self, "factor", factor)

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return log w = log factor + log w_1."""
        return math.log(self.factor) + self.weighting.log_weight(log_p, log_q, xp)

    @cached_property
    def modes(self) -> tuple[float, ...]:
        """The modes of w_1."""
        return self.weighting.modes

    @cached_property
    def log_integral(self) -> float:
        """The logarithm of factor times the integral of w_1."""
        return math.log(self.factor) + self.weighting.log_integral

    def loss(
        self,
        margin: Array,
        xp: ArrayModule,
        asarray: Callable[[Array], Array],
        max_margin: float = math.inf,
        log_normalizer: float = 0.0,
    ) -> Array:
        """Return factor times the loss of w_1."""
        return self.weighting.loss(margin, xp, asarray, max_margin, log_normalizer - math.log(self.factor))

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary {"family": "Scaled", "factor": 0.5, "weighting": {...}}."""
        return {"family": "Scaled", "factor": self.factor, "weighting": self.weighting.to_dict()}

    def __repr__(self) -> str:
        inner = repr(self.weighting)
        return f"{self.factor!r} * ({inner})" if isinstance(self.weighting, Sum) else f"{self.factor!r} * {inner}"


WeightingLike = Weighting | Mapping[str, Any] | Callable[..., Any] | str
