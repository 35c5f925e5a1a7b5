"""Weightings from a function p -> w(p) or a loss L(p) of the user."""

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
_RELATIVE_STEP = 1e-8  # of the complex step, the relative error of which is its square


@dataclass(frozen=True, repr=False)
class FunctionWeighting(Weighting):
    """The weighting of a function, as `from_function` returns it.

    The function gets p as an array of the module in use, and 1-p as well if it takes two arguments, which keeps the
    precision of 1-p near p = 1. A function of operators only, such as `lambda p: p * (1 - p)`, works in every module.

    Args:
        function: Elementwise function p -> w or (p, 1-p) -> w; w >= 0 and finite inside (0, 1).

    Raises:
        TypeError, ValueError: See `from_function`.
    """

    function: Callable[..., Array]
    _rounding: ClassVar[float]  # values down to minus this are rounding of 0; set by each instance

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise EmphasisTypeError(f"a weighting function must be callable, got {self.function!r}")
        object.__setattr__(self, "_rounding", _probe(self, self.values(_PROBE, 1.0 - _PROBE, np)))

    def values(self, p: Array, q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Return w(p)."""
        return self.call(self.function, p, q)

    def call(self, function: Callable[..., Array], p: Array, q: Array) -> Array:
        """Return function(p) or function(p, q); subclasses of front ends convert the arrays."""
        with np.errstate(all="ignore"):  # infinite values at the ends are allowed
            return function(p, q) if _takes_two(function) else function(p)

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:
        """Return the logarithm of the function's value; NaN where that is negative."""
        value = xp.zeros_like(log_p) + self.values(xp.exp(log_p), xp.exp(log_q), xp)
        # sin(pi p) at p = 1 is -9e-8 in float32, which is 0 except for rounding.
        return xp.log(xp.where((value < 0.0) & (value >= -self._rounding), xp.zeros_like(value), value))

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary {"family": "function", "function": "module:name"}.

        Raises:
            ValueError: The function cannot be imported by name.
        """
        return {"family": "function", "function": _import_name(self.function)}

    def __repr__(self) -> str:
        return f"from_function({_display_name(self.function)})"


@dataclass(frozen=True, repr=False)
class LossWeighting(FunctionWeighting):
    """The weighting w = 2 p (1-p) |L'(p)| of a loss L(p), as `from_loss` returns it."""

    slope: Callable[..., Array] | None = None

    def __post_init__(self) -> None:
        if self.slope is None:
            _check_complex_step(self)
        super().__post_init__()

    def values(self, p: Array, q: Array, xp: ArrayModule) -> Array:
        """Return 2 p (1-p) |L'(p)|, with L' as given or by the complex step Im L(p + ih) / h."""
        # L' is often infinite at p = 0 while w is not: a small p, the square of which is a normal number, stands for 0.
        p = xp.clip(p, float(xp.finfo(p.dtype).tiny) ** 0.5, 1.0)
        return 2.0 * p * q * abs(self.slope_at(p, q))

    def slope_at(self, p: Array, q: Array) -> Array:
        """Return L'(p)."""
        if self.slope is not None:
            return self.call(self.slope, p, q)
        step = _RELATIVE_STEP * p * (q + _RELATIVE_STEP)
        return self.call(self.function, p + 1j * step, q - 1j * step).imag / step

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary {"family": "from_loss", "loss": "module:name"}, with "derivative" if one was given.

        Raises:
            ValueError: A function cannot be imported by name.
        """
        result = {"family": "from_loss", "loss": _import_name(self.function)}
        return result if self.slope is None else {**result, "derivative": _import_name(self.slope)}

    def __repr__(self) -> str:
        derivative = "" if self.slope is None else f", derivative={_display_name(self.slope)}"
        return f"from_loss({_display_name(self.function)}{derivative})"


@dataclass(frozen=True, repr=False)
class NamedWeighting(Weighting):
    """A weighting of functions that a file names and that have not been imported.

    It can be printed and converted to its dictionary, but not evaluated.

    Args:
        family: The family, "function" or "from_loss".
        names: Parameters of the dictionary, with "module:name" for each function.
    """

    family: str
    names: tuple[tuple[str, str], ...]

    def log_weight(self, log_p: Array, log_q: Array, xp: ArrayModule) -> Array:  # noqa: ARG002
        """Raise EmphasisRuntimeError, as the functions have not been imported."""
        raise EmphasisRuntimeError(
            f"{self!r} was read without importing its functions and has no values; "
            "emphasis.from_dict(..., trusted=True) imports them"
        )

    def parameters(self) -> dict[str, Any]:
        """Return the names of the functions."""
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

    Args:
        function: Elementwise function of arrays.

    Raises:
        TypeError: It is not callable, takes neither one nor two arguments, or is not elementwise.
        ValueError: It is negative or NaN in [0, 1], infinite inside (0, 1), or 0 everywhere.

    Examples:
        >>> import emphasis
        >>> weighting = emphasis.from_function(lambda p: p * (1 - p))
        >>> round(weighting.mode, 4), round(weighting.integral, 4)
        (0.5, 0.1667)
    """
    return FunctionWeighting(function)


def from_loss(loss: Callable[..., Array], derivative: Callable[..., Array] | None = None) -> LossWeighting:
    """Return the weighting of a loss L(p): w = 2 p (1-p) |L'(p)| (Section 3.1).

    Args:
        loss: Elementwise function p -> L or (p, q) -> L with q = 1-p. Without `derivative` it is differentiated by a
            complex step, which is exact to rounding and needs an analytic function: one of +, *, **, exp, log, sin and
            the like, without abs, max or where.
        derivative: Elementwise function p -> L' or (p, q) -> L'. Needed if the loss is not analytic.

    Raises:
        TypeError, ValueError: See `from_function`. ValueError also if the complex step does not agree with finite
            differences.

    Examples:
        >>> import numpy as np
        >>> import emphasis
        >>> weighting = emphasis.from_loss(lambda p: -np.log(p))  # cross-entropy
        >>> weighting([0.1, 0.5, 0.9]).round(4)
        array([1.8, 1. , 0.2])
    """
    return LossWeighting(loss, derivative)


@lru_cache(maxsize=256)
def _takes_two(function: Callable[..., Array]) -> bool:
    """Return whether a function needs two arguments; functions without a signature, such as ufuncs, take one."""
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
    """Check that values on [0, 1] can be weights; return the size of negative values that are rounding."""
    name = repr(weighting)
    values = np.asarray(values, dtype=np.float64)
    if values.shape not in ((), _PROBE.shape):
        raise EmphasisTypeError(
            f"{name} returned shape {values.shape} for p of shape {_PROBE.shape}; it must work elementwise"
        )
    values = np.broadcast_to(values, _PROBE.shape)
    # 1e-6 of the largest finite value, which rounding in float32 may cause.
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
        raise EmphasisValueError(f"{name} is 0 on all of [0, 1]; a weighting must be > 0 somewhere")
    return rounding


def _check_complex_step(weighting: LossWeighting) -> None:
    """Check that the complex-step derivative, which is wrong for |p| or max, agrees with central differences."""
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
    """Return "module:qualified.name" of a function that can be imported so; raise ValueError otherwise."""
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', '?')}"
    try:
        imported = import_function(name)
    except ValueError:
        imported = None
    if imported is not function:
        raise EmphasisValueError(
            f"{function!r} cannot be written to a dictionary: it has no importable name. "
            "Define it with def at the top level of a module"
        )
    return name


def import_function(name: str) -> Callable[..., Array]:
    """Import and return the function "module:qualified.name", which runs code of the module.

    Raises:
        ValueError: The function does not exist, or its module cannot be imported.
    """
    check_function_name(name)
    module_name, _, path = name.partition(":")
    try:
        function: Any = importlib.import_module(module_name)
        for part in path.split("."):
            function = getattr(function, part)
    except Exception as error:  # a module of the user may raise anything
        raise EmphasisValueError(f"function {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    return function  # type: ignore[no-any-return]


def check_function_name(name: Any) -> None:
    """Check that `name` is a text "module:name"; raise ValueError otherwise."""
    module_name, separator, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not (separator and module_name and path) or module_name == "None":
        raise EmphasisValueError(f'function name {name!r} must have the form "module:name"')
