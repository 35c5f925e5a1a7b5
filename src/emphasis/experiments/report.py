"""Figures and page of a run, from what its folder holds."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from emphasis.diagnostics.figures import Panel, accuracy_curves, emphasis_panels, save
from emphasis.experiments.recipe import Recipe
from emphasis.experiments.store import CURVES_PNG, EMPHASIS_PNG, REPORT, Probabilities, Row
from emphasis.experiments.summary import Summary, finding, methods_of, rows_of, summarise
from emphasis.files import write_text
from emphasis.weighting import from_dict


def write_report(folder: Path, recipe: Recipe, rows: Sequence[Row], probabilities: Probabilities) -> None:
    """Write curves.png, emphasis.png and report.html into `folder`."""
    summaries = summarise(rows, recipe.baseline)
    save(_curves(rows, recipe.baseline), folder / CURVES_PNG)
    save(emphasis_panels(_panels(rows, probabilities, summaries)), folder / EMPHASIS_PNG)
    write_text(folder / REPORT, _page(folder, recipe, rows, summaries))


def _curves(rows: Sequence[Row], baseline: str) -> Any:
    accuracies = {
        name: np.array([row["curves"]["test_accuracy"] for row in rows_of(rows, name)], dtype=np.float64)
        for name in methods_of(rows)
    }
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        groups.setdefault(row["group"], {})[row["method"]] = accuracies[row["method"]]
    reference = (baseline, accuracies[baseline])
    return accuracy_curves(rows[0]["curves"]["iteration"], groups, chance=rows[0]["chance"], reference=reference)


def _panels(rows: Sequence[Row], probabilities: Probabilities, summaries: Sequence[Summary]) -> list[Panel]:
    """Return one panel per method, the examples of all its seeds together."""
    status = {summary.method: summary.status for summary in summaries}
    seeds = len(probabilities.noisy)
    panels = []
    for number, method in enumerate(methods_of(rows)):
        p = probabilities.p[number * seeds : (number + 1) * seeds]
        weighting = from_dict(rows_of(rows, method)[0]["weighting"])
        noisy = probabilities.noisy
        panels.append(Panel(method, weighting, p[~noisy], p[noisy], status[method]))
    return panels


def _page(folder: Path, recipe: Recipe, rows: Sequence[Row], summaries: Sequence[Summary]) -> str:
    environment = Environment(
        loader=PackageLoader("emphasis.experiments"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    first = rows[0]
    return environment.get_template("report.html.j2").render(
        recipe=recipe,
        summaries=summaries,
        finding=finding(summaries, recipe.baseline),
        failed=[summary for summary in summaries if summary.status],
        methods=[rows_of(rows, summary.method)[0] for summary in summaries],
        weightings={row["method"]: repr(from_dict(row["weighting"])) for row in rows},
        curves=_data_uri(folder / CURVES_PNG),
        emphasis=_data_uri(folder / EMPHASIS_PNG),
        config=json.dumps(recipe.config(), indent=2, ensure_ascii=False),
        realised=np.mean([row["realised_noise_rate"] for row in rows]),
        first=first,
    )


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
