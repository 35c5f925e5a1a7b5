"""Every setting has a source, or is said to be our own: in the docs' table, in recipes and in docstrings."""

import re
import tomllib
from ast import get_docstring, parse, walk
from pathlib import Path

import pytest

import emphasis.baselines as package
import emphasis.experiments.recipes as recipes
from emphasis.baselines import names, options_of
from emphasis.experiments.recipes.load import load_recipe, recipe_names
from emphasis.experiments.recipes.settings import MethodSpec

ROOT = Path(__file__).parents[2]
PERSONS = ("osm-caa", "drsa", "cae")  # their files name their sources
TABLES = ("table1", "table2", "table3")
ROW = re.compile(
    r"^\| `(?P<method>[a-z0-9-]+)` \| `(?P<option>\w+)` \| `(?P<default>.*?)` \| (?P<source>.*?) \| (?P<there>.*?) ?\|$"
)
SOURCE = re.compile(
    r"our choice|[Rr]ecipes? \w+\d|[Tt]ables? \d|[Ss]ections? \d|Eqs?\. ?\(?\d|Appendix|Figure \d|Theorem|Algorithm|"
    r"\w+\.(py|sh|cpp|m|md)\b|"
    r"release|et al\.,? \d{4}|\(\d{4}|, \d{4}"
)
CLAIM = re.compile(r"\b[Pp]ublished\b|\bas in\b|authors' default|\busual constants\b")


def table():
    text = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    found = [match.groupdict() for line in text.splitlines() if (match := ROW.match(line))]
    assert len(found) > 50
    return {(row["method"], row["option"]): row for row in found}


def shown(default):
    return "required" if default is ... else f'"{default}"' if isinstance(default, str) else repr(default)


@pytest.mark.parametrize("name", [name for name in names() if name not in PERSONS])
def test_the_table_has_every_setting_with_its_default_and_its_source(name):
    rows = {option: row for (method, option), row in table().items() if method == name}
    options = options_of(name)
    assert list(rows) == list(options)
    for option, default in options.items():
        assert rows[option]["default"] == shown(default)
        assert SOURCE.search(rows[option]["source"]) or rows[option]["source"].startswith("the same"), option


@pytest.mark.parametrize("recipe", TABLES)
def test_the_table_has_what_the_recipes_of_the_papers_tables_set(recipe):
    rows = table()
    objectives = [cell.objective for cell in load_recipe(recipe).cells() if isinstance(cell.objective, MethodSpec)]
    assert objectives
    for objective in objectives:
        for option, value in objective.options.items():
            there = rows[objective.name, option]["there"]
            parts = [part for part in re.split(r"; (?=table\d)", there) if recipe in part.partition(": ")[0]]
            assert len(parts) == 1, (objective.name, option)
            assert f"`{value}`" in parts[0], (objective.name, option, value)
            assert re.search(r"the same|likewise|paper's", parts[0]) or SOURCE.search(parts[0]), parts[0]


def claims(text):
    """Sentences that appeal to a publication."""
    sentences = re.split(r"(?<=[.;:?])\s+(?=[A-Z'\"(])|\n\n", " ".join(text.split()))
    return [sentence for sentence in sentences if CLAIM.search(sentence)]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_that_appeals_to_a_publication_names_the_place(name):
    text = (Path(recipes.__file__).parent / f"{name}.toml").read_text(encoding="utf-8")
    said = [value for value in tomllib.loads(text).values() if isinstance(value, str)]
    for sentence in (claim for value in said for claim in claims(value)):
        assert SOURCE.search(sentence), sentence


@pytest.mark.parametrize("path", sorted(Path(package.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_a_docstring_that_appeals_to_a_publication_names_the_place(path):
    if path.stem.replace("_", "-").strip("-") in (*PERSONS, "instance-matching", "protocol", "registry", "learner"):
        return
    for node in walk(parse(path.read_text(encoding="utf-8"))):
        if type(node).__name__ in ("Module", "ClassDef", "FunctionDef"):
            for sentence in claims(get_docstring(node) or ""):
                assert SOURCE.search(sentence), sentence
