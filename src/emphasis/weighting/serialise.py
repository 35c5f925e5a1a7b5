"""Weightings from dictionaries, names and functions: what recipes, the command line and front ends accept."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.weighting.base import Scaled, Sum, Weighting, WeightingLike
from emphasis.weighting.families import (
    CCE,
    DM,
    GCE,
    IMAE,
    MAE,
    MSE,
    SCE,
    Beta,
    Exponential,
    Focal,
    Normal,
    Uniform,
)
from emphasis.weighting.function import from_function, from_loss, import_function
from emphasis.weighting.spline import Spline

FAMILIES: dict[str, Callable[..., Weighting]] = {
    family.__name__: family for family in (CCE, MAE, MSE, GCE, DM, Normal, Exponential, Beta, SCE, Focal, IMAE, Uniform)
}
"""The built-in families by name; calling an entry with its parameters gives the weighting."""

DEFAULT_WEIGHTING = DM(lam=0.5, beta=4.0, vanishing=True)
"""What estimators and the command use unless told: it holds back where p is small, and its push ends at p = 1."""


def from_dict(mapping: Mapping[str, Any]) -> Weighting:
    """Return the weighting of a dictionary such as {"family": "DM", "lam": 0.5, "beta": 12}.

    Splines, sums, scalings and importable functions are understood as `Weighting.to_dict` writes them.

    Raises:
        ValueError: The family is unknown, a parameter is unknown or out of bounds.
        TypeError: Not a mapping, or a parameter is of the wrong kind.
    """
    if not isinstance(mapping, Mapping):
        raise EmphasisTypeError(f"a weighting's dictionary must be a mapping, got {mapping!r}")
    values = dict(mapping)
    name = values.pop("family", None)
    match name:
        case "Sum":
            _check_names(name, values, {"terms"})
            return Sum(tuple(from_dict(term) for term in values["terms"]))
        case "Scaled":
            _check_names(name, values, {"factor", "weighting"})
            return Scaled(values["factor"], from_dict(values["weighting"]))
        case "function":
            _check_names(name, values, {"function"})
            return from_function(import_function(values["function"]))
        case "from_loss":
            _check_names(name, values, {"loss"}, {"derivative"})
            slope = values.get("derivative")
            return from_loss(import_function(values["loss"]), None if slope is None else import_function(slope))
        case "Spline":
            _check_names(name, values, {"points"})
            return Spline(values["points"])
    if name not in FAMILIES:
        known = [*FAMILIES, "Spline", "Sum", "Scaled", "function", "from_loss"]
        raise EmphasisValueError(
            f"family={name!r} is unknown{did_you_mean(str(name), known)} Known: {', '.join(known)}"
        )
    family = FAMILIES[name]
    _check_names(name, values, set(), set(inspect.signature(family).parameters))
    return family(**values)


def as_weighting(weighting: WeightingLike, of_function: Callable[..., Weighting] = from_function) -> Weighting:
    """Return a weighting from itself, a dictionary, a family's name or a function p -> w or (p, q) -> w.

    Args:
        weighting: One of these.
        of_function: Makes a weighting of a function; a front end's own, for functions of its arrays.

    Raises:
        TypeError: Anything else.
        ValueError: As `from_dict` and `from_function`.
    """
    if isinstance(weighting, Weighting):
        return weighting
    if isinstance(weighting, Mapping):
        return from_dict(weighting)
    if isinstance(weighting, str):
        return from_dict({"family": weighting})
    if inspect.isclass(weighting) and issubclass(weighting, Weighting):
        raise EmphasisTypeError(
            f"got the class {weighting.__name__}; make a weighting of it: {weighting.__name__}(...)"
        )
    if callable(weighting):
        return of_function(weighting)
    raise EmphasisTypeError(
        f"got {weighting!r} as weighting; pass one such as DM(lam=0.5, beta=12), a dictionary, a family's name, "
        "or a function p -> w"
    )


def did_you_mean(name: str, known: Iterable[str], show: Callable[[str], str] = repr) -> str:
    """Return "; did you mean 'GCE'?" for the known name nearest to a mistyped one, "" if none is near."""
    by_folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, 1, 0.5)
    return f"; did you mean {show(by_folded[close[0]])}?" if close else ""


def _check_names(family: str, values: Mapping[str, Any], required: set[str], optional: set[str] | None = None) -> None:
    allowed = required | (optional or set())
    unknown = sorted(set(values) - allowed)
    if unknown:
        raise EmphasisValueError(
            f"{family} has no parameter {unknown[0]!r}; it takes {', '.join(sorted(allowed)) or 'none'}"
        )
    missing = sorted(required - set(values))
    if missing:
        raise EmphasisValueError(f"{family} needs the parameter {missing[0]!r}")
