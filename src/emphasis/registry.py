"""Registries of objects that are known by name and imported on first use.

    METHODS = Registry("method", {"elr": "emphasis.baselines.elr:ELR", ...})
    METHODS.find("elr")(problem, lam=3.0)

Reading names and option names does not import the objects, so that help, errors for mistyped names and recipes are
fast.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Generic, TypeVar, cast

from emphasis.errors import EmphasisValueError
from emphasis.texts import did_you_mean

T = TypeVar("T")

REQUIRED = ...
"""Stands for the default of an option that has none."""


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to objects of one kind, such as methods or data sets.

    Args:
        kind: Name of the kind in messages, such as "data set".
        paths: Import path "module:attribute" of each object by name.
        otherwise: Text about alternatives to names, which ends the message for unknown names.
    """

    def __init__(self, kind: str, paths: Mapping[str, str], otherwise: str = "") -> None:
        self.kind, self._paths, self._otherwise = kind, dict(paths), otherwise

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, in order."""
        return tuple(self._paths)

    def __getitem__(self, name: str) -> T:
        return cast(T, pkgutil.resolve_name(self._paths[name]))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def check(self, name: object) -> None:
        """Check that a name is registered, without importing its object.

        Raises:
            ValueError: It is not; the message suggests a similar name and lists all.
        """
        if name not in self:
            raise EmphasisValueError(
                f"unknown {self.kind} {name!r}{did_you_mean(str(name), self)}; known: {', '.join(self)}"
                f"{self._otherwise}"
            )

    def find(self, name: str) -> T:
        """Import and return the object with a name.

        Raises:
            ValueError: The name is unknown.
        """
        self.check(name)
        return self[name]

    def options(self, name: str) -> dict[str, Any]:
        """Return the keyword-only parameters of an entry and their defaults, `...` for those without one.

        Raises:
            ValueError: The name is unknown.
        """
        return keyword_options(self.find(name))

    def check_options(self, name: str, options: Mapping[str, object]) -> None:
        """Check the names of an entry's options, and that none is missing, without importing the entry.

        Raises:
            ValueError: The entry's name is unknown, or an option is unknown or missing.
        """
        self.check(name)
        check_option_names(name, options, self.required_options(name))

    def required_options(self, name: str) -> dict[str, bool]:
        """Return whether each option of an entry is required, from its source where it is not imported yet."""
        module, _, attribute = self._paths[name].partition(":")
        known = None if module in sys.modules else _options_in_source(module, attribute)
        if known is None:
            known = {option: default is REQUIRED for option, default in keyword_options(self[name]).items()}
        return known


def keyword_options(function: Any) -> dict[str, Any]:
    """Return the keyword-only parameters of a function or class and their defaults, `...` for those without one."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_option_names(
    owner: str, options: Mapping[str, object], required: Mapping[str, bool], noun: str = "option"
) -> None:
    """Check that `owner` has every option that is given, and that every required one is given.

    Args:
        owner: Name of the object that has the options.
        options: The given options.
        required: Whether each option of `owner` is required, by name.
        noun: Name of an option in messages, such as "parameter".

    Raises:
        ValueError: An option is unknown or missing; the message lists all options.
    """
    takes = f"it takes {', '.join(required)}" if required else f"it takes no {noun}s"
    for option in options:
        if option not in required:
            raise EmphasisValueError(f"{owner} has no {noun} {option!r}{did_you_mean(str(option), required)}; {takes}")
    for option, needed in required.items():
        if needed and option not in options:
            raise EmphasisValueError(f"{owner} needs the {noun} {option!r}; {takes}")


@cache
def _options_in_source(module: str, attribute: str) -> dict[str, bool] | None:
    """Return whether each keyword-only parameter of a function or class is required, None if the source does not say.

    Importing the module could import torch, which costs seconds.
    """
    spec = importlib.util.find_spec(module)
    source = getattr(spec and spec.loader, "get_source", lambda _: None)(module)
    if source is None:
        return None
    body: list[ast.stmt] = ast.parse(source).body
    for name in (attribute, "__init__"):
        definition = next((node for node in body if getattr(node, "name", None) == name), None)
        if isinstance(definition, ast.FunctionDef):
            arguments = definition.args
            return {a.arg: d is None for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)}
        if not isinstance(definition, ast.ClassDef):
            return None
        body = definition.body
    return None
