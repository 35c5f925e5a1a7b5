"""Recipes: an experiment as TOML data, read into frozen dataclasses with errors that name the cure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from emphasis.training.settings import Objective, Solver
from emphasis.weighting import did_you_mean, from_dict

T = TypeVar("T")


class RecipeError(ValueError):
    """A recipe that cannot be read; the message says where and what to do."""


@dataclass(frozen=True)
class Dataset:
    """Which data: `name` is "digits"; see `emphasis.datasets.load_digits`."""

    name: str
    test_size: int = 500
    split_seed: int = 0

    def __post_init__(self) -> None:
        _check(self.name == "digits", "name", self.name, 'use "digits"')


@dataclass(frozen=True)
class Noise:
    """Label noise: `kind` is "symmetric", `rate` in [0, 1]; see `emphasis.corruption.symmetric`."""

    rate: float
    kind: str = "symmetric"

    def __post_init__(self) -> None:
        _check(self.kind == "symmetric", "kind", self.kind, 'use "symmetric"')
        _check(0.0 <= self.rate <= 1.0, "rate", self.rate, "use a number in [0, 1]")


@dataclass(frozen=True)
class Network:
    """A perceptron with these hidden layers."""

    hidden: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(all(width >= 1 for width in self.hidden), "hidden", self.hidden, "use widths >= 1")


@dataclass(frozen=True)
class Evaluation:
    """`seeds` networks per method, seeded 0, 1, ...; evaluated at every `every`-th iteration."""

    seeds: int = 5
    every: int = 50

    def __post_init__(self) -> None:
        _check(self.seeds >= 1, "seeds", self.seeds, "use a whole number >= 1")
        _check(self.every >= 1, "every", self.every, "use a whole number >= 1")


@dataclass(frozen=True)
class Method:
    """One row of the table: a name, the panel of the figure it belongs to, and its objective."""

    name: str
    group: str
    objective: Objective

    def as_dict(self) -> dict[str, Any]:
        """Return what the results say about the method."""
        return {
            "method": self.name,
            "group": self.group,
            "weighting": self.objective.weighting.to_dict(),
            "normalization": self.objective.normalization,
            "max_margin": self.objective.max_margin,
        }


@dataclass(frozen=True)
class Recipe:
    """An experiment. The texts say why and what to expect; the rest determines every number of the results."""

    name: str
    title: str
    question: str
    source: str
    command: str
    cost: str
    expected: str
    choices: str
    baseline: str
    dataset: Dataset
    noise: Noise
    network: Network
    solver: Solver
    evaluation: Evaluation
    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        _check(bool(names), "methods", names, "name at least one")
        _check(len(set(names)) == len(names), "methods", names, "give each its own name")
        _check(self.baseline in names, "baseline", self.baseline, f"use a method's name: {', '.join(names)}")

    @property
    def seeds(self) -> range:
        """The seeds, 0 to evaluation.seeds - 1."""
        return range(self.evaluation.seeds)

    def config(self) -> dict[str, Any]:
        """Return what determines the results, as plain data."""
        parts = ("dataset", "noise", "network", "solver", "evaluation")
        settings: dict[str, Any] = {part: dataclasses.asdict(getattr(self, part)) for part in parts}
        settings["methods"] = [method.as_dict() for method in self.methods]
        plain: dict[str, Any] = json.loads(json.dumps({"recipe": self.name, **settings}))
        return plain

    def config_hash(self) -> str:
        """Return 16 hexadecimal digits that differ if `config` does."""
        text = json.dumps(self.config(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def changed(
        self, seeds: int | None = None, noise_rate: float | None = None, iterations: int | None = None
    ) -> Recipe:
        """Return the recipe with the settings given replaced, and its command to match."""
        changes: dict[str, Any] = {"command": self.command}
        for part, name, value, option in (
            ("evaluation", "seeds", seeds, "--seeds"),
            ("noise", "rate", noise_rate, "--noise-rate"),
            ("solver", "iterations", iterations, "--iterations"),
        ):
            if value is not None:
                changes[part] = dataclasses.replace(getattr(self, part), **{name: value})
                changes["command"] += f" {option} {value}"
        return dataclasses.replace(self, **changes)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("emphasis.experiments") / "recipes"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """Return a recipe of the package by name, or one of your own by the path of its .toml file.

    Raises:
        RecipeError: There is none, or it says something that cannot be.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"cannot read the recipe {name}: {error.strerror}") from error
    else:
        known = recipe_names()
        if name not in known:
            raise RecipeError(
                f"unknown recipe {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}, or the path of a "
                ".toml file"
            )
        text = (resources.files("emphasis.experiments") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_recipe(text, name)


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Return the recipe that a TOML text describes; `where` opens every error message."""
    try:
        return _build(Recipe, tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from error


def _build(kind: type[T], table: Any, where: str) -> T:
    """Return the dataclass `kind` from a TOML table, converting each value to its field's type."""
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where} must be a table, got {table!r}")
    if kind is Method:
        table = _with_objective(dict(table), where)
    types = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise RecipeError(f"{where}: unknown setting {key!r}{did_you_mean(key, list(fields))}")
    for name, field in fields.items():
        if name not in table and field.default is dataclasses.MISSING:
            raise RecipeError(f"{where}: the setting {name!r} is missing")
    values = {key: _convert(types[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, RecipeError) else RecipeError(f"{where}: {error}") from error


def _with_objective(table: dict[str, Any], where: str) -> dict[str, Any]:
    """Gather the settings of a method's loss into its Objective; TOML has no null, so "none" stands for None."""
    if "weighting" not in table:
        raise RecipeError(f"{where}: the setting 'weighting' is missing, e.g. {{ family = \"GCE\", q = 0.7 }}")
    settings = {key: table.pop(key) for key in ("weighting", "normalization", "max_margin") if key in table}
    settings = {key: None if value == "none" else value for key, value in settings.items()}
    try:
        settings["weighting"] = from_dict(settings["weighting"])
        table["objective"] = Objective(**settings)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{where} {table.get('name', '')!r}: {error}") from error
    return table


def _convert(kind: Any, value: Any, where: str) -> Any:
    if kind is Objective:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where} must be a list, got {value!r}")
        item = typing.get_args(kind)[0]
        return tuple(_convert(item, one, f"{where}[{number}]") for number, one in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        article = {"int": "a whole number", "float": "a number", "str": "a text"}.get(kind.__name__, kind.__name__)
        raise RecipeError(f"{where} must be {article}, got {value!r}")
    return value


def _check(holds: bool, name: str, value: Any, cure: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} is not allowed; {cure}")  # `_build` says where
