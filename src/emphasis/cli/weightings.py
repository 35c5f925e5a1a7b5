"""Weightings as the command line spells them: a family's name and its parameters as options or in one text."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from emphasis.cli.options import Parser, UsageError, join_negative_numbers
from emphasis.texts import did_you_mean
from emphasis.weighting import FAMILIES, Weighting, from_dict


def weighting_from_options(family: str, options: Sequence[str]) -> Weighting:
    """Return the weighting of a family and its options, which are the parameters of the family's signature."""
    names = {name.casefold(): name for name in FAMILIES}
    name = names.get(family.casefold())
    if name is None:
        hint = did_you_mean(family, FAMILIES, str)
        raise UsageError(f"unknown family {family!r}{hint}; known: {', '.join(FAMILIES)}")
    parameters = inspect.signature(FAMILIES[name]).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    return from_dict({"family": name, **_parse_parameters(name, defaults, options)})


def weighting_from_text(text: str) -> Weighting:
    """Return the weighting of a text such as "DM lam=0.5 beta=4 vanishing"."""
    family, *options = text.split() or [""]
    arguments = [part for option in options for part in f"--{option.lstrip('-')}".split("=", 1)]
    return weighting_from_options(family, join_negative_numbers(arguments))


def weighting_or_derivative_view(name: str, options: Sequence[str]) -> Weighting:
    """Return the weighting of a family, or the derivative view of a method such as label smoothing."""
    if name.casefold() in {family.casefold() for family in FAMILIES}:
        return weighting_from_options(name, options)
    from emphasis import baselines

    if ":" not in name and name not in baselines.names():
        known = [*FAMILIES, *(method for method in baselines.names() if baselines.find(method).has_view())]
        raise UsageError(f"unknown family {name!r}{did_you_mean(name, known, str)}; known: {', '.join(known)}")
    defaults = {key: value for key, value in baselines.options_of(name).items() if key != "matrix"}
    values = _parse_parameters(name, {"num_classes": 10, **defaults}, options)
    changed = {key: value for key, value in values.items() if key == "num_classes" or value != defaults[key]}
    return baselines.view(name, **changed)


def families_help() -> str:
    """Return the families with their parameters as options, one family per line."""
    lines = []
    for name, family in FAMILIES.items():
        options = [
            f"--{parameter.name}" if parameter.default is False else f"--{parameter.name} {parameter.default:g}"
            for parameter in inspect.signature(family).parameters.values()
        ]
        lines.append(f"  {name:<12} {'  '.join(options)}".rstrip())
    return "\n".join(lines)


def _parse_parameters(name: str, defaults: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """Return the values of the parameters of a family or method, each of its default's type."""
    parser = Parser(prog=f"emphasis show {name}", add_help=False)
    for key, default in defaults.items():
        if default is False:
            parser.add_argument(f"--{key}", action="store_true")
        else:
            kind = type(default) if type(default) in (str, int) else float
            parser.add_argument(f"--{key}", type=kind, default=default)
    values, unknown = parser.parse_known_args(options)
    if unknown:
        known = ", ".join(f"--{key}" for key in defaults) or "no parameters"
        hint = did_you_mean(unknown[0].lstrip("-"), defaults, "--{}".format)
        raise UsageError(f"{name} has no option {unknown[0]}{hint}; it takes {known}")
    return vars(values)
