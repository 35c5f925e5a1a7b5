"""Weightings from dictionaries, names and functions: what recipes, the command line and front ends accept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from emphasis.errors import EmphasisError, EmphasisTypeError, EmphasisValueError
from emphasis.texts import did_you_mean
from emphasis.weighting.base import Scaled, Sum, Weighting, WeightingLike
from emphasis.weighting.bounded import AEL, AGCE, AUL, Taylor
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
from emphasis.weighting.function import (
    NamedWeighting,
    check_function_name,
    from_function,
    from_loss,
    import_function,
)
from emphasis.weighting.relative import Relative
from emphasis.weighting.spline import Spline

FAMILIES: dict[str, Callable[..., Weighting]] = {
    family.__name__: family
    for family in (
        CCE,
        MAE,
        MSE,
        GCE,
        DM,
        Normal,
        Exponential,
        Beta,
        SCE,
        Focal,
        IMAE,
        Uniform,
        Relative,
        AGCE,
        AUL,
        AEL,
        Taylor,
    )
}
"""The built-in families by name; calling an entry with its parameters gives the weighting."""

Names = tuple[tuple[str, str], ...]
_FUNCTIONS: dict[str, tuple[set[str], set[str]]] = {  # what names users' functions: parameters needed, and others
    "function": ({"function"}, set()),
    "from_loss": ({"loss"}, {"derivative"}),
}
_DEEPEST = 50  # sums and scalings within each other

DEFAULT_WEIGHTING = Relative()
"""What losses, estimators and the command use unless told, for any number of classes: see docs/defaults.md."""


def from_dict(mapping: Mapping[str, Any], *, trusted: bool = False) -> Weighting:
    """Return the weighting of a dictionary such as {"family": "DM", "lam": 0.5, "beta": 12}.

    Splines, sums and scalings are understood as `Weighting.to_dict` writes them, and where `trusted`, users' functions.

    Args:
        mapping: The dictionary.
        trusted: Whether it may name functions, "module:name", which are then imported: that runs the module's code.

    Raises:
        ValueError: The family is unknown, a parameter is unknown or out of bounds, or a function is named and the
            dictionary is not trusted.
        TypeError: Not a mapping, or a parameter is of the wrong kind.
    """
    return _from_dict(mapping, _imported if trusted else _refused)


def named_from_dict(mapping: Mapping[str, Any]) -> Weighting:
    """Return `from_dict(mapping)` that imports nothing: users' functions become `NamedWeighting`s."""
    return _from_dict(mapping, NamedWeighting)


def imported(weighting: Weighting) -> Weighting:
    """Return a weighting whose users' functions are imported if they were only named; itself if none was."""
    return from_dict(weighting.to_dict(), trusted=True) if is_named(weighting) else weighting


def is_named(weighting: Weighting) -> bool:
    """Return whether a weighting, or a part of it, is known by name only and has no values."""
    parts = weighting.terms if isinstance(weighting, Sum) else (getattr(weighting, "weighting", None),)
    return isinstance(weighting, NamedWeighting) or any(isinstance(p, Weighting) and is_named(p) for p in parts)


def _from_dict(mapping: Any, of_names: Callable[[str, Names], Weighting], depth: int = 0) -> Weighting:
    """Return the weighting of a dictionary; `of_names` makes one of the family and the functions that it names."""
    if not isinstance(mapping, Mapping):
        raise EmphasisTypeError(f"a weighting's dictionary must be a mapping, got {mapping!r}")
    if depth > _DEEPEST:
        raise EmphasisValueError(f"a weighting's dictionary is nested more than {_DEEPEST} deep")
    values = dict(mapping)
    name = values.pop("family", None)
    match name:
        case "Sum":
            _check_names(name, values, {"terms"})
            terms = values["terms"]
            if not isinstance(terms, (list, tuple)):
                raise EmphasisTypeError(f"Sum: terms must be a list of weightings' dictionaries, got {terms!r}")
            return Sum(tuple(_from_dict(term, of_names, depth + 1) for term in terms))
        case "Scaled":
            _check_names(name, values, {"factor", "weighting"})
            return Scaled(values["factor"], _from_dict(values["weighting"], of_names, depth + 1))
        case "function" | "from_loss":
            _check_names(name, values, *_FUNCTIONS[name])
            named = tuple((key, value) for key, value in values.items() if value is not None)
            for _, function in named:
                check_function_name(function)
            return of_names(name, named)
        case "Spline":
            _check_names(name, values, {"points"})
            return Spline(values["points"])
    if not isinstance(name, str) or name not in FAMILIES:
        known = [*FAMILIES, "Spline", "Sum", "Scaled", *_FUNCTIONS]
        raise EmphasisValueError(
            f"family={name!r} is unknown{did_you_mean(str(name), known)} Known: {', '.join(known)}"
        )
    family = FAMILIES[name]
    _check_names(name, values, set(), set(inspect.signature(family).parameters))
    return family(**values)


def _refused(family: str, names: Names) -> Weighting:
    raise EmphasisValueError(
        f"family={family!r} names {names[0][1]!r}, which to import would run code; call "
        "emphasis.from_dict(..., trusted=True) if you trust whoever wrote it"
    )


def _imported(family: str, names: Names) -> Weighting:
    functions = {key: import_function(name) for key, name in names}
    try:
        if family == "function":
            return from_function(functions["function"])
        return from_loss(functions["loss"], functions.get("derivative"))
    except EmphasisError:
        raise
    except Exception as error:  # whatever a function of the user's may raise
        raise EmphasisValueError(
            f"function {names[0][1]!r} is no weighting: {type(error).__name__}: {error}"
        ) from error


def as_weighting(weighting: WeightingLike, of_function: Callable[..., Weighting] = from_function) -> Weighting:
    """Return a weighting from itself, a dictionary, a family's name or a function p -> w or (p, q) -> w.

    Args:
        weighting: One of these.
        of_function: Makes a weighting of a function; a front end's own, for functions of its arrays.

    Raises:
        TypeError: Anything else.
        ValueError: As `from_dict`, which does not import, and `from_function`.
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


def _check_names(family: str, values: Mapping[str, Any], required: set[str], optional: set[str] | None = None) -> None:
    allowed = required | (optional or set())
    unknown = sorted(set(values) - allowed, key=str)
    if unknown:
        raise EmphasisValueError(
            f"{family} has no parameter {unknown[0]!r}; it takes {', '.join(sorted(allowed)) or 'none'}"
        )
    missing = sorted(required - set(values))
    if missing:
        raise EmphasisValueError(f"{family} needs the parameter {missing[0]!r}")
