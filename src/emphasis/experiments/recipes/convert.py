"""Conversion of TOML tables to frozen dataclasses; errors give the place and what to write instead."""

from __future__ import annotations

import copy
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from emphasis.errors import EmphasisError, EmphasisValueError
from emphasis.experiments.recipes.settings import MethodSpec
from emphasis.texts import did_you_mean
from emphasis.training.settings import Objective
from emphasis.weighting.schedule import schedule_from_dict
from emphasis.weighting.serialise import named_from_dict

T = TypeVar("T")

_LARGEST = 2**1000  # whole numbers that are numbers to float, too

OBJECTIVE = ("weighting", "normalization", "max_margin", "arithmetic", "schedule", "training")
_OF_WEIGHTINGS = {"normalization": None, "max_margin": "auto", "arithmetic": "exact", "schedule": None}  # with defaults
"""The settings of an objective, in a recipe and in a result."""


class RecipeError(EmphasisValueError):
    """A recipe that cannot be read; the message says where and what to do."""


def build(kind: type[T], table: Any, where: str) -> T:
    """Return the dataclass `kind` from a table, converting each value to its field's type.

    Keys that are no fields go into the field `options`, if there is one.

    Raises:
        RecipeError: A setting is unknown, missing, of the wrong type or not allowed.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where} must be a table, got {table!r}")
    hints = _type_hints(kind)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in table if key not in fields]
    if unknown and "options" in fields:
        table = {**{k: v for k, v in table.items() if k in fields}, "options": {k: table[k] for k in unknown}}
        for key in unknown:
            _check_plain(table["options"][key], f"{where}: {key}")
    elif unknown:
        raise RecipeError(f"{where}: unknown setting {unknown[0]!r}{did_you_mean(unknown[0], list(fields))}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in table and required:
            raise RecipeError(f"{where}: the setting {name!r} is missing")
    values = {key: convert(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except EmphasisError as error:
        raise error if isinstance(error, RecipeError) else RecipeError(f"{where}: {error}") from error


@cache
def _type_hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def build_objective(table: Mapping[str, Any], where: str) -> Objective | MethodSpec:
    """Return the objective that `weighting`, `schedule` and the like of a table describe, or `training`.

    TOML has no null, so "none" stands for None. Functions that the weighting names are not imported.
    """
    if table.get("training") is not None:
        if table.get("weighting") is not None:
            raise RecipeError(f"{where}: give 'weighting' or 'training', not both")
        for key, default in _OF_WEIGHTINGS.items():
            if table.get(key, default) not in (default, "none"):
                raise RecipeError(f"{where}: {key!r} belongs to a 'weighting', and 'training' has none; omit it")
        return build(MethodSpec, table["training"], f"{where}: training")
    if table.get("weighting") is None:
        raise RecipeError(
            f"{where}: the setting 'weighting' is missing, e.g. {{ family = \"GCE\", q = 0.7 }}, or "
            "'training', e.g. { name = \"elr\" }"
        )
    settings = {key: table[key] for key in OBJECTIVE if key in table and key != "training"}
    settings = {key: None if value == "none" else value for key, value in settings.items()}
    schedule = settings.pop("schedule", None)
    if not isinstance(schedule, Mapping | None):
        raise RecipeError(
            f"{where}: schedule must be a table such as {{ lam = {{ start = 0, end = 1 }} }}, got {schedule!r}"
        )
    try:
        settings["weighting"] = named_from_dict(settings["weighting"])
        if schedule is not None:
            settings["schedule"] = schedule_from_dict(schedule)
        return Objective(**settings)
    except EmphasisError as error:
        raise RecipeError(f"{where}: {error}") from error


def convert(kind: Any, value: Any, where: str) -> Any:
    """Return a TOML value as a field's type.

    Raises:
        RecipeError: It is of another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        return convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise RecipeError(f"{where} must be one of {', '.join(map(repr, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where} must be a list, got {value!r}")
        return tuple(convert(arguments[0], one, f"{where}[{number}]") for number, one in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} must be a table, got {value!r}")
        return {key: convert(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < _LARGEST else math.inf
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        article = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}
        raise RecipeError(f"{where} must be {article.get(kind.__name__, kind.__name__)}, got {value!r}")
    return value


def _check_plain(value: Any, where: str) -> None:
    """Raise RecipeError unless JSON can represent a value; TOML has dates and times as well."""
    if isinstance(value, (list, tuple, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            _check_plain(inner, where)
    elif value is not None and not isinstance(value, (str, int, float)):
        raise RecipeError(
            f"{where} must be a text, a number, true or false, or a list or table of these, got {value!r}"
        )


def merged(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables as one, later ones winning, tables within them merged alike."""
    result: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            inner = result.get(key)
            both = isinstance(inner, Mapping) and isinstance(value, Mapping) and not _is_another(inner, value)
            result[key] = merged(inner, value) if both and inner is not None else copy.deepcopy(value)
    return result


def overridden(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a part as one, later ones winning; one that names another thing replaces the earlier."""
    part: dict[str, Any] = merged(*({"part": table} for table in tables))["part"]
    return part


_NAMING = ("family", "policy", "kind", "name")  # what a table with one of these is, so that its other keys belong to it


def _is_another(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether `new` names another thing than `old`, whose settings must then not be inherited."""
    return "family" in new or any(key in new and new[key] != old.get(key, new[key]) for key in _NAMING)
