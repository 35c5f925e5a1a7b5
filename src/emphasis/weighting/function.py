"""Weightings made from a user's own function p -> w(p), or from a loss L(p)."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from emphasis.errors import EmphasisRuntimeError, EmphasisTypeError, EmphasisValueError
from emphasis.weighting._numerics import Array, ArrayModule
from emphasis.weighting.base import Weighting

_PROBE = np.linspace(0.0, 1.0, 1025)
_RELATIVE_STEP = 1e-8  # of a complex step, whose relative error is the square of this


@dataclass(frozen=True, repr=False)
class FunctionWeighting(Weighting):
    """A user's function as a weighting; made by `from_function`.

    The function sees p (and 1-p, if it takes two arguments, which keeps the digits of 1-p near p = 1) as arrays of
    whatever module is in use: written with operators (`lambda p: p * (1 - p)`) it works everywhere.

    Args:
        function: p -> w or (p, q) -> w, elementwise, w >= 0, finite inside (0, 1).
    """

    function: Callable[..., Array]
    _rounding: ClassVar[float]  # how far below 0 a value counts as 0; set by each instance

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise EmphasisTypeError(f"a weighting function must be callable, got {self.function!r}")
        object.__setattr__(self, "_rounding", _probe(self, self.values(_PROBE, 1.0 - _PROBE, np)))

    def values(self, p: Array, q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Return w(p) from the user's function."""
        return self.call(self.function, p, q)

    def call(self, function: Callable[..., Array], p: Array, q: Array) -> Array:
        """Return function(p) or function(p, q), as it takes; a front end's subclass may convert the arrays."""
        with np.errstate(all="ignore"):  # infinities at the ends are judged by value, not by warning
            return function(p, q) if _takes_two(function) else function(p)

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Log of the function's value; a negative value gives NaN, never a silent number."""
        value = xp.zeros_like(log_p) + self.values(xp.exp(log_p), xp.exp(log_q), xp)
        # sin(pi p) at p = 1 is -9e-8 in float32: rounding, which means 0.
        return xp.log(xp.where((value < 0.0) & (value >= -self._rounding), xp.zeros_like(value), value))

    def to_dict(self) -> dict[str, Any]:
        """{"family": "function", "function": "module:name"}; ValueError if it cannot be imported by name."""
        return {"family": "function", "function": _import_name(self.function)}

    def __repr__(self) -> str:
        return f"from_function({_display_name(self.function)})"


@dataclass(frozen=True, repr=False)
class LossWeighting(FunctionWeighting):
    """w = 2 p (1-p) |L'(p)| of a loss L(p); made by `from_loss`."""

    slope: Callable[..., Array] | None = None

    def __post_init__(self) -> None:
        if self.slope is None:
            _check_complex_step(self)
        super().__post_init__()

    def values(self, p: Array, q: Array, xp: ArrayModule) -> Array:
        """Return 2 p (1-p) |L'(p)|, L' by its given formula or by the complex step Im L(p + ih) / h."""
        # L' is often infinite at p = 0 while w is not: the limit is taken, at a p whose square is still a number.
        p = xp.clip(p, float(xp.finfo(p.dtype).tiny) ** 0.5, 1.0)
        return 2.0 * p * q * abs(self.slope_at(p, q))

    def slope_at(self, p: Array, q: Array) -> Array:
        """Return L'(p)."""
        if self.slope is not None:
            return self.call(self.slope, p, q)
        step = _RELATIVE_STEP * p * (q + _RELATIVE_STEP)
        return self.call(self.function, p + 1j * step, q - 1j * step).imag / step

    def to_dict(self) -> dict[str, Any]:
        """{"family": "from_loss", "loss": "module:name"} and the derivative's name if one was given."""
        result = {"family": "from_loss", "loss": _import_name(self.function)}
        return result if self.slope is None else {**result, "derivative": _import_name(self.slope)}

    def __repr__(self) -> str:
        derivative = "" if self.slope is None else f", derivative={_display_name(self.slope)}"
        return f"from_loss({_display_name(self.function)}{derivative})"


@dataclass(frozen=True, repr=False)
class NamedWeighting(Weighting):
    """A weighting that is known by name only: a file names a user's functions, and reading it imported nothing.

    It prints and goes back to the same dictionary, and raises where its values are asked for.

    Args:
        family: "function" or "from_loss".
        names: The parameters of its dictionary: "module:name" for each function.
    """

    family: str
    names: tuple[tuple[str, str], ...]

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Raise EmphasisRuntimeError: the function was not imported."""
        raise EmphasisRuntimeError(
            f"{self!r} was read and not imported, so it has no values; emphasis.from_dict(..., trusted=True) imports it"
        )

    def parameters(self) -> dict[str, Any]:
        """Return the functions' names."""
        return dict(self.names)

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary that it was read from."""
        return {"family": self.family, **self.parameters()}

    def __repr__(self) -> str:
        first, *others = self.names
        maker = "from_function" if self.family == "function" else self.family
        return f"{maker}({', '.join([first[1], *(f'{key}={name}' for key, name in others)])})"


def from_function(function: Callable[..., Array]) -> FunctionWeighting:
    """Return the weighting w(p) = function(p), or function(p, q) with q = 1-p.

    Raises:
        TypeError: Not callable, or needs neither one nor two arguments, or does not map arrays elementwise.
        ValueError: Negative or NaN somewhere in [0, 1], infinite inside (0, 1), or 0 everywhere.
    """
    return FunctionWeighting(function)


def from_loss(loss: Callable[..., Array], derivative: Callable[..., Array] | None = None) -> LossWeighting:
    """Return the weighting of a loss L(p): w = 2 p (1-p) |L'(p)| (Section 3.1 turned round).

    Args:
        loss: p -> L or (p, q) -> L with q = 1-p, elementwise. Without `derivative` it is differentiated by a complex
            step, exact to rounding, so it must be analytic: +, *, **, exp, log, sin, ..., but no abs, max or where.
        derivative: p -> L' or (p, q) -> L'; needed where the loss is not analytic.

    Raises:
        TypeError, ValueError: As `from_function`; ValueError also if the complex step disagrees with differences.
    """
    return LossWeighting(loss, derivative)


@lru_cache(maxsize=256)
def _takes_two(function: Callable[..., Array]) -> bool:
    """Whether the function needs a second argument; ufuncs and the like, without a signature, take one."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [x for x in parameters if x.default is inspect.Parameter.empty and x.kind in kinds]
    if len(required) > 2:
        raise EmphasisTypeError(f"{function!r} needs {len(required)} arguments; a weighting takes p, or p and 1-p")
    return len(required) == 2


def _probe(weighting: FunctionWeighting, values: Array) -> float:
    """Return how far below 0 is rounding, or raise a clear error unless the values on [0, 1] can be weights."""
    name = repr(weighting)
    values = np.asarray(values, dtype=np.float64)
    if values.shape not in ((), _PROBE.shape):
        raise EmphasisTypeError(
            f"{name} returned shape {values.shape} for p of shape {_PROBE.shape}; it must work elementwise"
        )
    values = np.broadcast_to(values, _PROBE.shape)
    # 1e-6 of the largest finite value, the size of what may be rounding in float32.
    rounding = 1e-6 * float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(values >= -rounding))
    if bad.size:
        p = _PROBE[bad[0]]
        raise EmphasisValueError(
            f"{name} is {values[bad[0]]!r} at p={p:g}; weights must be >= 0 and not NaN on [0, 1]. "
            "Clip the function at 0, or give its limit at the ends"
        )
    if not np.isfinite(values[1:-1]).all():
        raise EmphasisValueError(f"{name} is infinite inside (0, 1); only the ends p = 0 and p = 1 may be infinite")
    if not values.any():
        raise EmphasisValueError(f"{name} is 0 on all of [0, 1]; a weighting of 0 everywhere teaches nothing")
    return rounding


def _check_complex_step(weighting: LossWeighting) -> None:
    """Raise unless the complex-step derivative agrees with central differences: it is wrong for |p| or max."""
    p, h = np.linspace(0.02, 0.98, 97), 1e-6
    step = weighting.slope_at(p, 1.0 - p)
    above = np.asarray(weighting.call(weighting.function, p + h, 1.0 - p - h))
    below = np.asarray(weighting.call(weighting.function, p - h, 1.0 - p + h))
    differences = (above - below) / (2 * h)
    if not np.allclose(step, differences, rtol=1e-4, atol=1e-4 * (1.0 + np.abs(differences).max())):
        raise EmphasisValueError(
            f"{weighting!r} cannot be differentiated by a complex step (it uses abs, max or the like); "
            "pass derivative=, the function p -> L'(p)"
        )


def _display_name(function: Callable[..., Array]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _import_name(function: Callable[..., Array]) -> str:
    """Return "module:qualified.name" if importing it gives this very function, else raise ValueError."""
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', '?')}"
    try:
        found = import_function(name)
    except ValueError:
        found = None
    if found is not function:
        raise EmphasisValueError(
            f"{function!r} cannot be written to a dictionary: it has no importable name. "
            "Define it with def at the top level of a module"
        )
    return name


def import_function(name: str) -> Callable[..., Array]:
    """Return the function called "module:qualified.name", which runs the module's code.

    Raises:
        ValueError: There is none, or its module cannot be imported.
    """
    check_function_name(name)
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a module of the user's may raise when it is run
        raise EmphasisValueError(f"function {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    return found  # type: ignore[no-any-return]


def check_function_name(name: Any) -> None:
    """Raise ValueError unless `name` is a text "module:name"."""
    module_name, separator, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not (separator and module_name and path) or module_name == "None":
        raise EmphasisValueError(f'function name {name!r} must have the form "module:name"')
