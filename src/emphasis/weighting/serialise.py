"""Weightings from dictionaries, names and functions: what recipes, the command line and front ends accept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from emphasis.errors import EmphasisError, EmphasisTypeError, EmphasisValueError
from emphasis.registry import Registry, check_option_names
from emphasis.weighting.base import Scaled, Sum, Weighting, WeightingLike
from emphasis.weighting.function import (
    NamedWeighting,
    check_function_name,
    from_function,
    from_loss,
    import_function,
)
from emphasis.weighting.relative import Relative
from emphasis.weighting.spline import Spline

FAMILIES: Registry[Callable[..., Weighting]] = Registry(
    "family",
    {
        **{
            name: f"emphasis.weighting.families:{name}"
            for name in (
                "CCE",
                "MAE",
                "MSE",
                "GCE",
                "DM",
                "Normal",
                "Exponential",
                "Beta",
                "SCE",
                "Focal",
                "IMAE",
                "Uniform",
            )
        },
        "Relative": "emphasis.weighting.relative:Relative",
        "AGCE": "emphasis.weighting.bounded:AGCE",
        "AUL": "emphasis.weighting.bounded:AUL",
        "AEL": "emphasis.weighting.bounded:AEL",
        "Taylor": "emphasis.weighting.bounded:Taylor",
    },
    otherwise=", Spline, Sum, Scaled, function, from_loss",
)
"""The built-in families by name; calling an entry with its parameters gives the weighting."""

Names = tuple[tuple[str, str], ...]
_PARAMETERS = {  # of what is no family: whether each parameter is required
    "Sum": {"terms": True},
    "Scaled": {"factor": True, "weighting": True},
    "Spline": {"points": True},
    "function": {"function": True},
    "from_loss": {"loss": True, "derivative": False},
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
    if not (isinstance(name, str) and name in _PARAMETERS):
        FAMILIES.check(name)
        parameters = dict.fromkeys(inspect.signature(FAMILIES[name]).parameters, False)
        check_option_names(name, values, parameters, "parameter")
        return FAMILIES[name](**values)
    check_option_names(name, values, _PARAMETERS[name], "parameter")
    match name:
        case "Sum":
            terms = values["terms"]
            if not isinstance(terms, (list, tuple)):
                raise EmphasisTypeError(f"Sum: terms must be a list of weightings' dictionaries, got {terms!r}")
            return Sum(tuple(_from_dict(term, of_names, depth + 1) for term in terms))
        case "Scaled":
            return Scaled(values["factor"], _from_dict(values["weighting"], of_names, depth + 1))
        case "Spline":
            return Spline(values["points"])
    named = tuple((key, value) for key, value in values.items() if value is not None)
    for _, function in named:
        check_function_name(function)
    return of_names(name, named)


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
