"""Weightings from dictionaries, names and functions, as recipes, the command line and front ends accept them."""

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
        "CCE": "emphasis.weighting.losses:CCE",
        "MAE": "emphasis.weighting.losses:MAE",
        "MSE": "emphasis.weighting.losses:MSE",
        "GCE": "emphasis.weighting.losses:GCE",
        "DM": "emphasis.weighting.families:DM",
        "Normal": "emphasis.weighting.families:Normal",
        "Exponential": "emphasis.weighting.families:Exponential",
        "Beta": "emphasis.weighting.families:Beta",
        "SCE": "emphasis.weighting.losses:SCE",
        "Focal": "emphasis.weighting.losses:Focal",
        "IMAE": "emphasis.weighting.families:IMAE",
        "Uniform": "emphasis.weighting.families:Uniform",
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
_PARAMETERS = {  # of dictionaries that are not of a family; whether each parameter is required
    "Sum": {"terms": True},
    "Scaled": {"factor": True, "weighting": True},
    "Spline": {"points": True},
    "function": {"function": True},
    "from_loss": {"loss": True, "derivative": False},
}
_DEEPEST = 50  # nesting of sums and scaled weightings

DEFAULT_WEIGHTING = Relative()
"""The default of losses, estimators and commands for any number of classes; see docs/defaults.md."""


def from_dict(mapping: Mapping[str, Any], *, trusted: bool = False) -> Weighting:
    """Return the weighting of a dictionary such as {"family": "DM", "lam": 0.5, "beta": 12}.

    Dictionaries of splines, sums and scaled weightings are those of `Weighting.to_dict`. Dictionaries that name
    functions of the user are read if `trusted`.

    Args:
        mapping: The dictionary.
        trusted: Whether functions that the dictionary names as "module:name" are imported, which runs code of the
            module.

    Raises:
        ValueError: The family is unknown, a parameter is unknown or out of bounds, or a function is named and the
            dictionary is not trusted.
        TypeError: `mapping` is not a mapping, or a parameter has the wrong type.

    Examples:
        >>> from emphasis import from_dict
        >>> from_dict({"family": "DM", "lam": 0.5, "beta": 12})
        DM(lam=0.5, beta=12.0)
    """
    return _from_dict(mapping, _imported if trusted else _refused)


def named_from_dict(mapping: Mapping[str, Any]) -> Weighting:
    """Return the weighting of a dictionary without importing the user's functions, which become `NamedWeighting`s."""
    return _from_dict(mapping, NamedWeighting)


def imported(weighting: Weighting) -> Weighting:
    """Return a weighting with the functions of its `NamedWeighting`s imported; the weighting itself if it has none."""
    return from_dict(weighting.to_dict(), trusted=True) if is_named(weighting) else weighting


def is_named(weighting: Weighting) -> bool:
    """Return whether a weighting or a part of it is a `NamedWeighting`, which cannot be evaluated."""
    parts = weighting.terms if isinstance(weighting, Sum) else (getattr(weighting, "weighting", None),)
    return isinstance(weighting, NamedWeighting) or any(isinstance(p, Weighting) and is_named(p) for p in parts)


def _from_dict(mapping: Any, of_names: Callable[[str, Names], Weighting], depth: int = 0) -> Weighting:
    """Return the weighting of a dictionary; `of_names` makes one from "function" or "from_loss" and named functions."""
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
        f"family={family!r} names {names[0][1]!r}, and importing it runs code; call "
        "emphasis.from_dict(..., trusted=True) if you trust its source"
    )


def _imported(family: str, names: Names) -> Weighting:
    functions = {key: import_function(name) for key, name in names}
    try:
        if family == "function":
            return from_function(functions["function"])
        return from_loss(functions["loss"], functions.get("derivative"))
    except EmphasisError:
        raise
    except Exception as error:  # a function of the user may raise anything
        raise EmphasisValueError(
            f"function {names[0][1]!r} is not a weighting: {type(error).__name__}: {error}"
        ) from error


def as_weighting(weighting: WeightingLike, of_function: Callable[..., Weighting] = from_function) -> Weighting:
    """Return a weighting from a weighting, a dictionary, the name of a family, or a function p -> w or (p, 1-p) -> w.

    Args:
        weighting: The weighting, dictionary, name or function.
        of_function: Converts a function to a weighting; front ends have their own for functions of their arrays.

    Raises:
        TypeError: `weighting` is something else.
        ValueError: `from_dict` or `from_function` does not accept it; dictionaries may not name functions.
    """
    if isinstance(weighting, Weighting):
        return weighting
    if isinstance(weighting, Mapping):
        return from_dict(weighting)
    if isinstance(weighting, str):
        return from_dict({"family": weighting})
    if inspect.isclass(weighting) and issubclass(weighting, Weighting):
        raise EmphasisTypeError(f"got the class {weighting.__name__}; pass an instance: {weighting.__name__}(...)")
    if callable(weighting):
        return of_function(weighting)
    raise EmphasisTypeError(
        f"got {weighting!r} as weighting; pass one such as DM(lam=0.5, beta=12), a dictionary, a family's name, "
        "or a function p -> w"
    )
