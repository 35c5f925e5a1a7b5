"""Chooses the hyperparameters of the recipe noisy-benchmark for which nothing is published.

A fifth of the training part is held out, with noisy labels: noise is put on it as on the rest. Every candidate is
trained on the rest and judged by its accuracy on the held-out noisy labels; the test set is not looked at. Writes
results/noisy_benchmark_choices.json and prints the best of each.

    python benchmarks/noisy_benchmark_choices.py        # about 40 minutes on two cores, resumable
    python benchmarks/noisy_benchmark_choices.py --only "clinc150 40 %"      # the others stay as they are in the file
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.recipes.recipe import Method
from emphasis.experiments.runs.context import Printer, RunContext
from emphasis.experiments.runs.runner import run
from emphasis.files import write_text

SHARE = 0.2
SEEDS = 2
DM_GRID = [(0.5, 2), (0.5, 4), (0.5, 8), (0.5, 12), (1, 8)]


def candidates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the row of the benchmark and what is tried for it."""
    for dropout in (0.2, 0.5, 0.8):
        yield "Forgetting", {"training": {"name": "forgetting", "dropout": dropout}}
    for end in (0.5, 0.75, 1.0):
        yield "Self-paced", {"training": {"name": "self-paced", "end": end}}
    for percentile in (0.5, 0.75, 0.9):
        yield "MentorNet PD", {"training": {"name": "mentornet-pd", "percentile": percentile}}
    for name, more in (("Forward", {}), ("Backward", {"backward": True})):
        for restart in (True, False):
            yield name, {"training": {"name": "loss-correction", **more, "restart": restart}}
    for gradual in (0.05, 0.5):  # published in epochs; a share of few is too few steps
        yield "Co-teaching", {"training": {"name": "co-teaching", "gradual": gradual}}
    for first in (0.21, 0.5):  # likewise
        yield "MentorNet DD", {"training": {"name": "mentornet-dd", "updates": [first, 0.75]}}
    for refine in (0.035, 0.1):  # likewise
        yield "PES", {"training": {"name": "pes", "refine": refine}}
    for bound in (0.67, 1.5, 4.0, 10.0):  # Wei et al. 2023 choose it on held-out labels
        yield "LC", {"training": {"name": "logit-clipping", "bound": bound}}
    for name, more in (("DM", {}), ("Vanishing DM", {"vanishing": True})):
        for lam, beta in DM_GRID:
            yield name, {"weighting": {"family": "DM", "lam": lam, "beta": beta, **more}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where the data is")
    parser.add_argument("--runs", type=Path, default=Path("runs/noisy-benchmark-choices"))
    parser.add_argument("--out", type=Path, default=Path("results/noisy_benchmark_choices.json"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="conditions")
    parser.add_argument("--methods", nargs="+", default=[], help="rows; the choices of others stay as they are")
    options = parser.parse_args()

    recipe = load_recipe("noisy-benchmark").limited(options.only, [])
    rows = {method.name: method for method in recipe.methods}
    wanted = options.methods or list(rows)
    tried = [(name, settings, f"{name} {json.dumps(settings)}") for name, settings in candidates() if name in wanted]
    methods = tuple(
        replace(
            rows[name],
            name=title,
            **settings,
            at={one: _settings_at(rows[name], one, settings) for one in recipe.condition_names},
        )
        for name, settings, title in tried
    )
    conditions = tuple(replace(one, seeds=SEEDS) for one in recipe.conditions)
    changed = replace(
        recipe,
        name="noisy-benchmark-choices",
        methods=methods,
        conditions=conditions,
        baseline=methods[0].name,
        compare=(),
    )
    held_out = changed.changed({"dataset.validation": SHARE, "dataset.validation_labels": "noisy"})
    results = run(held_out, options.runs, RunContext(options.data, workers=options.workers), Printer())

    partly = bool(options.only or options.methods)
    before = json.loads(options.out.read_text()) if partly else {"revisions": [], "chosen": {}}
    found: dict[str, Any] = before["chosen"]
    for condition in recipe.condition_names:
        found.setdefault(condition, {})
        for name in dict.fromkeys(name for name, _, _ in tried):
            scored = [
                {
                    **_settings_at(rows[name], condition, settings),
                    "accuracy": _accuracies(results, condition, title),
                }
                for row, settings, title in tried
                if row == name
            ]
            best = max(scored, key=lambda one: statistics.mean(one["accuracy"]))
            found[condition][name] = {"best": _settings(best), "tried": scored}
            print(f"{condition}: {name}: {_settings(best)}")
    revisions = sorted({*before["revisions"], *(row["revision"] for row in results)})
    report = {"revisions": revisions, "held_out": SHARE, "chosen": found}
    write_text(options.out, json.dumps(report, indent=1) + "\n")


def _settings_at(row: Method, condition: str, tried: dict[str, Any]) -> dict[str, Any]:
    """Return what is tried, and what the row is given besides in that condition, as co-teaching the rate of noise."""
    if "training" not in tried:
        return tried
    return {"training": {**row.objective_in(condition)["training"], **tried["training"]}}


def _accuracies(results: list[dict[str, Any]], condition: str, method: str) -> list[float]:
    """Return the final accuracies on the held-out noisy labels; a network that diverged is right about nothing."""
    own = [row for row in results if (row["condition"], row["method"]) == (condition, method)]
    return [row["final_test_accuracy"] if row["diverged_at"] is None else 0.0 for row in own]


def _settings(candidate: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in candidate.items() if key != "accuracy"}


if __name__ == "__main__":
    main()
