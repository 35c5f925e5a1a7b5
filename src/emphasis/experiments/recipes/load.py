"""Recipes by name, from a file and as plain data, and back."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from emphasis.experiments.recipes.convert import RecipeError, build, merged
from emphasis.experiments.recipes.recipe import Recipe, Table
from emphasis.experiments.recipes.settings import digest
from emphasis.json_files import too_deep
from emphasis.texts import did_you_mean


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("emphasis.experiments.recipes")
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
        except UnicodeDecodeError as error:
            raise RecipeError(f"{name}: not valid TOML: it is not UTF-8") from error
    else:
        text = _text_of(name)
    return parse_recipe(text, name)


def _text_of(name: str) -> str:
    known = recipe_names()
    if name not in known:
        raise RecipeError(
            f"unknown recipe {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}, or the path of a "
            ".toml file"
        )
    return (resources.files("emphasis.experiments.recipes") / f"{name}.toml").read_text(encoding="utf-8")


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Return the recipe that a TOML text describes; `where` opens every error message."""
    return recipe_from_tables(_tables_of(text, where), where)


def _tables_of(text: str, where: str) -> Table:
    try:
        tables = tomllib.loads(text)
        deep = too_deep(tables)
    except RecursionError:
        deep = True
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise RecipeError(f"{where}: not valid TOML: {error}") from error
    if deep:
        raise RecipeError(f"{where}: its lists and tables are nested too deep")
    if "extends" not in tables:
        return tables
    base = tables.pop("extends")
    if base not in recipe_names():
        known = ", ".join(recipe_names())
        raise RecipeError(f"{where}: extends: {base!r} is no recipe of the package; use one of {known}")
    extended = _tables_of(_text_of(base), base)
    if isinstance(tables.get("methods"), dict):
        tables["methods"] = _changed_rows(extended["methods"], tables["methods"], where)
    return merged(extended, tables)


def _changed_rows(rows: list[Table], changes: Table, where: str) -> list[Table]:
    """Return the rows of methods with changes, which are given by the names of the rows."""
    names = [row["name"] for row in rows]
    for name, change in changes.items():
        if name not in names:
            raise RecipeError(f"{where}: methods: there is no method {name!r}{did_you_mean(name, names)}")
        if not isinstance(change, dict):
            raise RecipeError(f"{where}: methods.{name}={change!r} is not allowed; use a table of settings")
    return [merged(row, changes.get(row["name"], {})) for row in rows]


def recipe_from_tables(tables: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Return the recipe that tables describe, all of it checked but for code of one's own that it names."""
    recipe = build(Recipe, tables, where)
    quoted = {row.name: row.values for row in recipe.reported}
    known = [*(method.name for method in recipe.methods), *quoted]
    places = {f"paper.{metric}": table for metric, table in recipe.paper.items()}
    for place, table in {**places, "paper_spread": recipe.paper_spread, "reported": quoted}.items():
        for name, values in table.items():
            if name not in known:
                raise RecipeError(f"{where}: {place}: there is no method {name!r}{did_you_mean(name, known)}")
            if len(values) != len(recipe.conditions):
                raise RecipeError(
                    f"{where}: {place}: {name} has {len(values)} figures for {len(recipe.conditions)} "
                    "conditions; give one for each, nan where there is none"
                )
    try:
        for variant in (recipe, recipe.scaled_down()) if recipe.scaled else (recipe,):
            for _ in variant.cells():
                pass
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error
    return recipe


def recipe_to_tables(recipe: Recipe) -> Table:
    """Return plain data from which `recipe_from_tables` makes the same recipe."""
    tables: Table = json.loads(json.dumps(dataclasses.asdict(recipe)))
    if tables["scaled"] is None:
        del tables["scaled"]
    for method in tables["methods"]:
        for key in ("training", "schedule"):
            if method[key] is None:
                del method[key]
        for key in ("normalization", "max_margin"):
            method[key] = "none" if method[key] is None else method[key]
    return tables


def recipe_digest(recipe: Recipe) -> str:
    """Return 16 hexadecimal digits that differ if a cell does."""
    return digest([cell.key for cell in recipe.cells()])
