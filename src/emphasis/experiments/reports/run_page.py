"""The page of a run: one self-contained HTML file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from emphasis.diagnostics.plots.pages import Chart, page_environment
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import load_recipe, recipe_digest, recipe_names, recipe_to_tables
from emphasis.experiments.recipes.recipe import PARTS, Recipe
from emphasis.experiments.recipes.settings import MethodSpec
from emphasis.experiments.reports.ranking import compared, rank, rank_text, verdict
from emphasis.experiments.reports.recipe_figures import by_group, file_name
from emphasis.experiments.reports.summary import METRICS, NOT_SCALED, Summary, findings, metric_title, signed
from emphasis.experiments.reports.table import caption, paper_text, short_outcome
from emphasis.experiments.runs.store import SUSPECTS, Row
from emphasis.training.settings import Objective

_EXTRAS = {"imdb-vectors": "text", "table": "table"}  # data sets that need more than the extra "experiments"


def page(summary: Summary, drawings: Mapping[str, Chart], beside: Sequence[str] = ()) -> str:
    """Return the page with its figures embedded.

    Args:
        summary: The results.
        drawings: Charts by name, from `recipe_figures.draw`.
        beside: Files in the same folder to link to: the table, the figures, and the page of suspect labels.
    """
    environment = page_environment("emphasis.experiments.reports")
    environment.filters["signed"] = signed
    recipe = summary.recipe
    command = run_command(recipe)
    ranked = rank(summary) if recipe.compare else []
    return environment.get_template("report.html.j2").render(
        summary=summary,
        recipe=recipe,
        findings=findings(summary),
        caption=caption(summary),
        metrics=METRICS,
        metric_title=metric_title,
        main_metrics=list(dict.fromkeys([recipe.metric, *recipe.paper])),
        paper_heading=NOT_SCALED if summary.scaled else "paper (difference)",
        paper_text=paper_text,
        short_outcome=short_outcome,
        charts=drawings,
        file_name=file_name,
        shared_curves=not by_group(summary) and len(recipe.conditions) > 1,
        quoted=_quoted(summary),
        failed=[entry for entry in summary.entries if entry.outcome],
        settings=_settings(summary),
        config=json.dumps(recipe_to_tables(recipe), indent=2, ensure_ascii=False),
        command=command,
        folder=shlex.quote(recipe.name),
        files=[name for name in beside if not name.startswith(SUSPECTS)],
        suspects=next((name for name in beside if name.startswith(SUSPECTS)), ""),
        further=shlex.quote(shlex.split(command)[2]) if command and recipe.status != "data-unavailable" else "",
        install=f"pip install '.[{','.join(_extras(recipe))}]'  # in a checkout of emphasis",
        provenance=_provenance(summary),
        ranked=ranked,
        rank_text=rank_text,
        compared=compared(ranked),
        rank_verdict=verdict(summary, ranked),
    )


def run_command(recipe: Recipe) -> str:
    """Return the command that gives these results; "" if the command's options cannot express the settings."""
    base, scaled = recipe.name.removesuffix("-scaled"), recipe.name.endswith("-scaled")
    known = base in recipe_names()
    command = f"emphasis run {shlex.quote(base if known else base + '.toml')}" + (" --scaled" if scaled else "")
    if not known:
        return command
    try:
        original = load_recipe(base)
        original = original.scaled_down() if scaled else original
        original, command = _limit(original, recipe, command)
        settings = _changes(original, recipe)
        is_same = recipe_digest(original.changed(settings)) == recipe_digest(recipe)
    except RecipeError:  # for example, of another version of the package
        return ""
    for name, value in settings.items():
        command += f" --{name} {value}" if name in ("seeds", "precision") else f" --set {name}={_quoted_value(value)}"
    return command if is_same else ""


def _limit(original: Recipe, recipe: Recipe, command: str) -> tuple[Recipe, str]:
    """Return the package's recipe limited to the conditions and methods of `recipe`, and the command that does so."""
    for option, attribute in (("only", "conditions"), ("methods", "methods")):
        names = [item.name for item in getattr(recipe, attribute)]
        if names != [item.name for item in getattr(original, attribute)]:
            original = original.limited(**{attribute: names})
            command += f" --{option} " + shlex.join(names)
    return original, command


def _changes(original: Recipe, recipe: Recipe) -> dict[str, Any]:
    """Return the settings of every condition that differ from the package's recipe, as `Recipe.changed` takes them."""
    changes: dict[str, Any] = {
        n: getattr(recipe, n) for n in ("seeds", "precision") if getattr(recipe, n) != getattr(original, n)
    }
    for part in PARTS:
        before, after = _flat(getattr(original.conditions[0], part)), _flat(getattr(recipe.conditions[0], part))
        changes |= {f"{part}.{key}": value for key, value in after.items() if before.get(key) != value}
    return changes


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one table with dotted keys, such as {"schedule.factor": 0.1}."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _quoted_value(value: Any) -> str:
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def _extras(recipe: Recipe) -> list[str]:
    names = {cell.dataset.name for cell in recipe.cells()}
    return ["experiments", *sorted({_EXTRAS[name] for name in names if name in _EXTRAS})]


def _quoted(summary: Summary) -> dict[str, list[str]]:
    """Return the methods that the paper quotes, by group."""
    groups: dict[str, list[str]] = {}
    for row in summary.recipe.reported:
        groups.setdefault(row.group, []).append(row.name)
    return groups


def _settings(summary: Summary) -> list[dict[str, Any]]:
    """Return each method's objective, with the conditions that share it."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for entry in summary.entries:
        cells = (entry.cell.method, *_objective(entry.cell.objective))
        lines.setdefault(cells, {"cells": cells, "conditions": []})["conditions"].append(entry.cell.condition)
    every = len(summary.recipe.conditions)
    order = [method.name for method in summary.recipe.methods]
    for line in lines.values():
        line["where"] = "" if len(line["conditions"]) == every else ", ".join(line["conditions"])
    return sorted(lines.values(), key=lambda line: order.index(line["cells"][0]))


def _objective(objective: Objective | MethodSpec) -> tuple[str, str, str]:
    """Return the weighting or method, the normalization and the largest margin as texts."""
    if isinstance(objective, MethodSpec):
        options = ", ".join(f"{key}={value!r}" for key, value in objective.options.items())
        return f"{objective.name}({options})", "", ""
    margin = "none (bare formula)" if objective.max_margin is None else str(objective.max_margin)
    if objective.arithmetic != "exact":
        margin = f"{margin}, arithmetic {objective.arithmetic!r}"
    schedule = "; ".join(f"{name}: {values!r}" for name, values in objective.schedule.items())
    return repr(objective.weighting) + (f", {schedule}" if schedule else ""), objective.normalization or "none", margin


def _provenance(summary: Summary) -> str:
    """Return the provenance of the results: networks, time, devices, revision and versions."""
    rows: dict[str, Row] = {row["key"]: row for entry in summary.entries for row in entry.rows}
    if not rows:
        return "Nothing has been trained yet."
    seconds = sum(row["seconds"] / row["networks_at_once"] for row in rows.values())
    together = sorted({row["networks_at_once"] for row in rows.values()})
    seeds = sorted({row["seed"] for row in rows.values()})
    parts = [
        f"{len(rows)} networks trained, {' or '.join(map(str, together))} at once, seeds {seeds[0]} to {seeds[-1]}",
        f"{_duration(seconds)} of computing in total",
        "on " + ", ".join(sorted({_where(row) for row in rows.values()})),
        "revision " + ", ".join(sorted({str(row["revision"] or "unknown") for row in rows.values()})),
    ]
    versions = sorted({f"{name} {version}" for row in rows.values() for name, version in row["versions"].items()})
    return "; ".join([*parts, ", ".join(versions)]) + "."


def _where(row: Row) -> str:
    threads = f", {row['threads']} thread{'s' if row['threads'] != 1 else ''}" if row["device"] == "cpu" else ""
    return f"{row['device']}{threads}{', compiled' if row['compiled'] else ''}, precision {row['precision']}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
