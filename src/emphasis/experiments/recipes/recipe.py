"""Recipes: an experiment as TOML data. A table of the paper is conditions (columns) times methods (rows) times seeds.

[dataset] [noise] [network] [solver] [evaluation]    settings of all cells
[[conditions]]   name, and the settings of these five tables that differ in this column
[[methods]]      name, group; weighting, normalization, max_margin, arithmetic and schedule, or training; and the
                 settings of [network] and [solver] that differ
[methods.at."r = 0.2"]    the same for one column
[paper.METRIC]   METHOD = [the paper's figures, one per condition, in percent; nan where there is none]
[[reported]]     rows that the paper quotes and that this recipe does not run
[scaled]         what `--scaled` changes, for a run on a CPU
extends          the name of a recipe of the package, from which everything is taken that is not stated here: tables
                 are merged, lists and weightings are replaced
[methods.NAME]   with `extends`, instead of [[methods]]: settings that differ in one row; the other rows stay
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from emphasis.errors import EmphasisError
from emphasis.experiments.recipes.convert import OBJECTIVE, RecipeError, build, build_objective, convert, overridden
from emphasis.experiments.recipes.settings import (
    Cell,
    Dataset,
    Evaluation,
    Network,
    Noise,
    Status,
)
from emphasis.texts import did_you_mean
from emphasis.training.settings import PRECISIONS, ClipSolver
from emphasis.validation import check

Table = dict[str, Any]
Figures = dict[str, tuple[float, ...]]
_Named = TypeVar("_Named", "Condition", "Method")

PARTS: dict[str, type] = {
    "dataset": Dataset,
    "noise": Noise,
    "network": Network,
    "solver": ClipSolver,
    "evaluation": Evaluation,
}
_MOST = 100_000  # networks of a recipe: a slip of the pen must not fill the memory
FIGURES = ("curves", "fits", "probabilities", "emphasis", "modes")


@dataclass(frozen=True)
class Condition:
    """A column of the table: its name, the tables that replace settings of the recipe's, and seeds (0: as many)."""

    name: str = ""
    seeds: int = 0
    dataset: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A row of the table: its objective, and its changes to network and solver; `at` gives changes by condition."""

    name: str
    group: str = ""
    weighting: Any = None
    normalization: Any = None
    max_margin: Any = "auto"
    arithmetic: str = "exact"
    schedule: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    network: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=dict)
    at: dict[str, dict[str, Any]] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def objective_in(self, condition: str) -> Table:
        """Return the settings of its objective in one condition."""
        here = self.at.get(condition, {})
        return {key: here.get(key, getattr(self, key)) for key in OBJECTIVE}


@dataclass(frozen=True)
class Reported:
    """A row of the paper's table that it quotes from elsewhere."""

    name: str
    group: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Scaled:
    """Changes of a scaled-down run: settings, columns, rows and seeds. Empty lists keep all."""

    title: str
    cost: str
    deviations: str
    expected: str = ""
    seeds: int = 2
    conditions: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    dataset: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)

    def limited(self, conditions: set[str], methods: set[str]) -> Scaled | None:
        """Return this for a recipe of these columns and rows alone; None if it has none of them."""
        columns = tuple(name for name in self.conditions if name in conditions)
        rows = tuple(name for name in self.methods if name in methods)
        if (self.conditions and not columns) or (self.methods and not rows):
            return None
        return replace(self, conditions=columns, methods=rows)


@dataclass(frozen=True)
class Recipe:
    """An experiment.

    Attributes:
        name: Name by which it is run.
        title: One line.
        question: The question that it answers.
        source: Section of the paper that describes it.
        cost: Training time, and the machine.
        choices: Sources of the settings.
        baseline: The method that the others are compared with.
        dataset: Settings that all cells share, as a table; likewise `noise`, `network`, `solver` and `evaluation`.
        methods: Rows of the table.
        conditions: Columns of the table.
        seeds: Networks per cell of the table, seeded 0, 1, ...
        precision: Precision of the arithmetic, one of `PRECISIONS`.
        expected: Earlier results.
        deviations: Differences from the paper.
        status: "full"; "scaled": smaller than the paper's, or changed; "data-unavailable": nobody can download the
            data freely.
        figures: Figures of the report, any of `FIGURES`.
        metric: Metric of the main table: "final_test_accuracy" or "best_test_accuracy".
        compare: Methods that all others are compared with, seed by seed, in a table of ranks; empty: no such table.
        paper: For each metric, for each method, the paper's figures by condition, in percent; NaN where none.
        paper_spread: For each method the paper's standard deviations, where it has them.
        reported: Rows that the paper quotes from elsewhere.
        scaled: Settings of a scaled-down run.
    """

    name: str
    title: str
    question: str
    source: str
    cost: str
    choices: str
    baseline: str
    dataset: dict[str, Any]
    network: dict[str, Any]
    solver: dict[str, Any]
    methods: tuple[Method, ...]
    noise: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = (Condition(),)
    seeds: int = 5
    precision: str = "32-true"
    expected: str = ""
    deviations: str = ""
    status: Status = "full"
    figures: tuple[str, ...] = ("curves", "emphasis")
    metric: str = "final_test_accuracy"
    compare: tuple[str, ...] = ()
    paper: dict[str, Figures] = field(default_factory=dict)
    paper_spread: Figures = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()
    scaled: Scaled | None = None

    def __post_init__(self) -> None:
        check(self.seeds >= 1, "seeds", self.seeds, "use a whole number >= 1")
        check(self.precision in PRECISIONS, "precision", self.precision, f"use one of {', '.join(PRECISIONS)}")
        for figure in self.figures:
            check(figure in FIGURES, "figures", figure, f"use any of {', '.join(FIGURES)}")
        for metric in (self.metric, *self.paper):
            check(metric.startswith(("best_", "final_")), "metric", metric, "use one that begins with best_ or final_")
        networks = sum(condition.seeds or self.seeds for condition in self.conditions) * len(self.methods)
        check(networks <= _MOST, "seeds", self.seeds, f"they make {networks:,} networks, and {_MOST:,} is the most")
        names = [method.name for method in self.methods]
        columns = [condition.name for condition in self.conditions]
        for what, values in (("methods", names), ("conditions", columns)):
            check(bool(values), what, values, "name at least one")
            check(len(set(values)) == len(values), what, values, "give each its own name")
        for what, wanted in (("baseline", (self.baseline,)), ("compare", self.compare)):
            for name in wanted:
                check(name in names, what, name, f"use a method's name: {', '.join(names)}")
        for condition in self.conditions:
            check(condition.seeds >= 0, f"{condition.name}: seeds", condition.seeds, "use a whole number >= 0")
        for method in self.methods:
            for column in (*method.at, *method.only):
                check(column in columns, f"{method.name}: condition", column, f"use one of {', '.join(columns)}")

    def cells(self) -> Iterator[Cell]:
        """Iterate over every network of the recipe: by condition, then by method, then by seed.

        Raises:
            RecipeError: A setting is unknown, missing or not allowed.
        """
        return iter(self._cells)

    @cached_property
    def _cells(self) -> tuple[Cell, ...]:
        return tuple(self._make_cells())

    def _make_cells(self) -> Iterator[Cell]:
        for condition in self.conditions:
            shared: dict[str, Any] = {}  # the parts of this condition that no method changes
            for method in self.methods:
                if method.only and condition.name not in method.only:
                    continue
                changes = method.at.get(condition.name, {})
                where = " / ".join(filter(None, (self.name, condition.name, method.name)))
                unknown = [key for key in changes if key not in (*OBJECTIVE, "network", "solver")]
                if unknown:
                    raise RecipeError(
                        f"{where}: unknown setting {unknown[0]!r}; a method may set its objective, network and solver "
                        "by condition"
                    )
                parts: dict[str, Any] = {}
                for part, kind in PARTS.items():
                    own = [table for table in (getattr(method, part, {}), changes.get(part, {})) if table != {}]
                    if own or part not in shared:
                        table = overridden(getattr(self, part), getattr(condition, part), *own)
                        settings: Any = build(kind, table, f"{where}: {part}")
                        parts[part] = settings.simplified() if isinstance(settings, ClipSolver) else settings
                    else:
                        parts[part] = shared[part]
                    if not own:
                        shared[part] = parts[part]
                objective = build_objective(method.objective_in(condition.name), where)
                for seed in range(condition.seeds or self.seeds):
                    yield Cell(
                        condition.name,
                        method.name,
                        method.group,
                        seed,
                        **parts,
                        objective=objective,
                        precision=self.precision,
                    )

    @cached_property
    def condition_names(self) -> list[str]:
        """The columns, in order."""
        return [condition.name for condition in self.conditions]

    def seeds_of(self, condition: str) -> int:
        """Return how many networks a cell of a column has."""
        return self.conditions[self._paper_column(condition)].seeds or self.seeds

    def paper_value(self, metric: str, method: str, condition: str) -> float:
        """Return the paper's figure in percent, NaN where it has none."""
        values = self.paper.get(metric, {}).get(method)
        return values[self._paper_column(condition)] if values else float("nan")

    def _paper_column(self, condition: str) -> int:
        return self.condition_names.index(condition)

    def limited(self, conditions: Sequence[str] = (), methods: Sequence[str] = ()) -> Recipe:
        """Return the recipe with these columns and rows alone; none given keeps all.

        Raises:
            RecipeError: There is no such column or row.
        """
        columns = _named(self.name, "condition", self.conditions, conditions)
        remaining = {condition.name for condition in columns}
        rows = tuple(
            replace(
                method,
                at={name: table for name, table in method.at.items() if name in remaining},
                only=tuple(name for name in method.only if name in remaining),
            )
            for method in _named(self.name, "method", self.methods, methods)
            if not method.only or remaining & set(method.only)
        )
        if not rows:
            raise RecipeError(f"{self.name} has no method {', '.join(methods)} in {', '.join(remaining)}")
        left = [method.name for method in rows]
        gone = {method.name for method in self.methods}.difference(left)
        kept = [self._paper_column(condition.name) for condition in columns]

        def figures(table: Figures) -> Figures:
            return {
                name: tuple(values[column] for column in kept) for name, values in table.items() if name not in gone
            }

        return replace(
            self,
            conditions=columns,
            methods=rows,
            baseline=self.baseline if self.baseline in left else left[0],
            compare=tuple(name for name in self.compare if name in left),
            paper={metric: figures(table) for metric, table in self.paper.items()},
            paper_spread=figures(self.paper_spread),
            reported=tuple(replace(row, values=tuple(row.values[column] for column in kept)) for row in self.reported),
            scaled=self.scaled and self.scaled.limited(remaining, set(left)),
        )

    def scaled_down(self) -> Recipe:
        """Return the recipe as `--scaled` runs it.

        Raises:
            RecipeError: It has no scaled form.
        """
        scaled = self.scaled
        if scaled is None:
            raise RecipeError(f"{self.name} has no scaled form; run it as it is ({self.cost})")
        recipe = self.limited(scaled.conditions, scaled.methods)
        parts: Table = {part: overridden(getattr(self, part), getattr(scaled, part)) for part in PARTS}
        return replace(
            recipe,
            **parts,
            name=f"{self.name}-scaled",
            title=scaled.title,
            cost=scaled.cost,
            seeds=scaled.seeds,
            deviations=scaled.deviations,
            expected=scaled.expected,
            status="scaled",
            scaled=None,
        )

    def changed(self, settings: Mapping[str, Any]) -> Recipe:
        """Return the recipe with settings replaced, such as {"seeds": 2, "noise.rate": 0.6, "solver.iterations": 300}.

        A setting of a part holds for every condition, over what the conditions say.

        Raises:
            RecipeError: There is no such part, or the number of seeds or the precision is not allowed. What a part does
                not allow, `cells` reports.
        """
        recipe = self
        for name, value in settings.items():
            part, _, rest = name.partition(".")
            if name in ("seeds", "precision"):
                value = convert(int if name == "seeds" else str, value, f"{self.name}: {name}")
                columns = recipe.conditions
                if name == "seeds":
                    columns = tuple(replace(column, seeds=0) for column in columns)
                try:
                    recipe = replace(recipe, conditions=columns, **{name: value})
                except EmphasisError as error:
                    raise RecipeError(f"{self.name}: {error}") from error
            elif part in PARTS and rest:
                table: Table = {}
                inner = table
                *path, last = rest.split(".")
                for key in path:
                    inner = inner.setdefault(key, {})
                inner[last] = value
                conditions = []
                for condition in recipe.conditions:
                    changed: Table = {part: overridden(getattr(condition, part), table)}
                    conditions.append(replace(condition, **changed))
                recipe = replace(recipe, conditions=tuple(conditions))
            else:
                raise RecipeError(
                    f"unknown setting {name!r}; use seeds, precision, or PART.KEY with a part of "
                    f"{', '.join(PARTS)}, such as solver.iterations"
                )
        other = [name for name in settings if name not in ("seeds", "precision")]
        if recipe.paper and other:  # no longer the paper's experiment, and its figures no measure for this one
            changes = ", ".join(f"{name} = {settings[name]}" for name in other)
            about = f"Scaled: not the paper's experiment, since {changes}."
            recipe = replace(recipe, status="scaled", deviations=f"{about} {recipe.deviations}")
        return recipe


def _named(recipe: str, what: str, have: tuple[_Named, ...], wanted: Sequence[str]) -> tuple[_Named, ...]:
    """Return the items of `have` whose names are `wanted`, in their order; all if `wanted` is empty."""
    names = [item.name for item in have]
    for name in wanted:
        if name not in names:
            raise RecipeError(
                f"{recipe} has no {what} {name!r}{did_you_mean(name, names)}; it has {', '.join(map(repr, names))}"
            )
    return tuple(item for item in have if not wanted or item.name in wanted)
