"""Parameters of a weighting as nested parameters of an estimator, such as `weighting__beta`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from emphasis.errors import EmphasisError
from emphasis.weighting.base import Weighting, WeightingLike
from emphasis.weighting.serialise import DEFAULT_WEIGHTING, FAMILIES, as_weighting, from_dict

PREFIX = "weighting__"


def nested_parameters(weighting: WeightingLike | None) -> dict[str, Any]:
    """Return the parameters of a weighting of a family, with the prefix `weighting__`; {} for anything else."""
    try:
        resolved: Any = _resolved(weighting)  # families are dataclasses
    except EmphasisError:  # parameters are checked when the estimator is fitted
        return {}
    if type(resolved).__name__ not in FAMILIES:
        return {}
    return {PREFIX + field.name: getattr(resolved, field.name) for field in fields(resolved)}


def without_nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without those of the weighting."""
    return {name: value for name, value in parameters.items() if not name.startswith(PREFIX)}


def resolve_nested(parameters: Mapping[str, Any], weighting: WeightingLike | None) -> dict[str, Any]:
    """Return the parameters to set of an estimator, with those of its weighting as one changed weighting.

    Args:
        parameters: What is to be set, such as {"weighting__beta": 2.0}.
        weighting: The estimator's weighting, unless `parameters` has another; None stands for the default weighting.

    Raises:
        ValueError: If the weighting has no such parameter, or a value is not allowed.
    """
    own = without_nested(parameters)
    nested = {name.removeprefix(PREFIX): value for name, value in parameters.items() if name.startswith(PREFIX)}
    if nested:
        own["weighting"] = from_dict({**_resolved(own.get("weighting", weighting)).to_dict(), **nested})
    return own


def _resolved(weighting: WeightingLike | None) -> Weighting:
    return DEFAULT_WEIGHTING if weighting is None else as_weighting(weighting)
