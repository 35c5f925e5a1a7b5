"""What `emphasis tune`, which trusts no label, loses against tuning with labels known to be right.

Three tasks (digits, MNIST, IMDB vectors) at 0, 20, 40 and 60 % symmetric noise and 30 % of labels flipped to the next
class. For each, three times with another seed of the sampler:

    tune          lam by the estimated noise rate; beta, form and normalization searched on noisy labels: 24 trials
    free          the same, with lam searched too
    clean         lam, beta, form and normalization searched on true labels: the same folds, the same 24 trials
    default       no tuning: DM(lam=0.5, beta=4, vanishing=True), integral
    CCE           cross-entropy

each then trained on the whole training part with three seeds and tested. The regret of a way is the test accuracy of
`clean` less its own, sampler by sampler. Besides, Spearman's rank correlation over a grid of 48 settings between their
accuracy on the held-out fifth with noisy and with true labels, both with two seeds.

    python benchmarks/tuning.py --data DATA      # about 70 minutes on two cores; resumable

Writes results/tuning.json. On IMDB, with two classes, 60 % symmetric noise makes most labels wrong: no method can know.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.recipes.recipe import Method, Recipe
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.provenance import revision, versions
from emphasis.experiments.runs.runner import run
from emphasis.experiments.studies.own_data import single_method_recipe
from emphasis.experiments.studies.search import search
from emphasis.experiments.studies.space import Vary
from emphasis.experiments.studies.tune import SPACE, tune
from emphasis.experiments.studies.tuning_result import numbers
from emphasis.files import write_text
from emphasis.weighting import DEFAULT_WEIGHTING

TASKS = {"digits": "digits 40 %", "MNIST": "MNIST 60 %", "IMDB": "IMDB vectors 40 %"}
NOISES = {
    "0 %": ("none", 0.0),
    "20 %": ("symmetric", 0.2),
    "40 %": ("symmetric", 0.4),
    "60 %": ("symmetric", 0.6),
    "30 % pair flip": ("pair_flip", 0.3),
}
SAMPLERS, SEEDS, TRIALS, FOLDS = 3, 3, 24, 3
LAM = Vary("weighting.lam", low=0.0, high=2.0)
GRID = {"lam": (0.0, 0.5, 1.0, 2.0), "beta": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), "vanishing": (False, True)}
UNTUNED = {
    "default": Method("default", weighting=DEFAULT_WEIGHTING.to_dict(), normalization="integral"),
    "CCE": Method("CCE", weighting={"family": "CCE"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path("results/tuning.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task, noise in product(options.tasks, NOISES):
        path = options.runs / f"{task}-{noise.split()[0]}{'-flip' if 'flip' in noise else ''}" / "found.json"
        if not path.exists():
            found = of_task(recipe_of(task, noise), path.parent, options)
            write_text(path, json.dumps({"task": task, "noise": noise, **found, "revision": revision()}) + "\n")
        print(task, noise, summary(json.loads(path.read_text(encoding="utf-8"))), flush=True)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.runs.glob("*/found.json"))]
    report = {
        "samplers": SAMPLERS,
        "seeds": SEEDS,
        "trials": TRIALS,
        "folds": FOLDS,
        "versions": versions(),
        "tasks": [{**part, "summary": summary(part)} for part in parts],
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")


def recipe_of(task: str, noise: str) -> Recipe:
    """Return the task of the recipe noisy-benchmark with other noise; MNIST with a perceptron, which trains faster."""
    kind, rate = NOISES[noise]
    recipe = load_recipe("noisy-benchmark").limited([TASKS[task]])
    changes: dict[str, Any] = {"noise.kind": kind, "noise.rate": rate}
    if task == "MNIST":
        changes |= {
            "network.name": "mlp",
            "network.hidden": [96, 96],
            "solver.iterations": 1000,
            "solver.schedule.at": [500, 750],
            "solver.learning_rate": 0.1,
            "evaluation.every": 500,
        }
    return recipe.changed(changes)


def of_task(recipe: Recipe, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings and test accuracies of each way, and the rank correlation."""
    context = RunContext(options.data, workers=options.workers, threads=1)
    first = Method("DM", weighting={"family": "DM", "lam": 0.5, "beta": 4}, normalization="integral")
    base, _ = single_method_recipe(recipe, first, context)
    ways: dict[str, list[dict[str, Any]]] = {}
    for seed in range(SAMPLERS):
        settings = {"trials": TRIALS, "folds": FOLDS, "seed": seed}
        tuned = tune(recipe, folder / "tune", context, **settings)
        free = tune(recipe, folder / "free", context, **settings, space=(LAM, *SPACE), assumed_rate=tuned.noise_rate)
        clean = search(base, folder / "clean", context, method="DM", space=(LAM, *SPACE), retrain=False, **settings)
        given = {**clean.best.settings}
        normalization = given.pop("normalization")
        weighting = {"family": "DM", **{name.partition(".")[2]: value for name, value in given.items()}}
        for way, method in {
            "tune": Method("tune", weighting=tuned.weighting.to_dict(), normalization=tuned.normalization),
            "free": Method("free", weighting=free.weighting.to_dict(), normalization=free.normalization),
            "clean": Method("clean", weighting=weighting, normalization=normalization),
            **UNTUNED,
        }.items():
            ways.setdefault(way, []).append(
                {
                    "weighting": method.weighting,
                    "normalization": method.normalization,
                    "test": tested(base, method, folder / "test", context),
                }
            )
    return {
        "estimate": {**numbers(tuned), "true": base.conditions[0].noise.get("rate", 0.0)},
        "ways": ways,
        "rank_correlation": rank_correlation(base, folder / "grid", context),
    }


def tested(base: Recipe, method: Method, folder: Path, context: RunContext) -> list[float]:
    """Return the test accuracies of networks trained on the whole training part, one a seed."""
    named = replace(base, name="tested", methods=(method,), baseline=method.name, seeds=SEEDS)
    return [row["final_test_accuracy"] or 0.0 for row in run(named, folder, context)]


def rank_correlation(base: Recipe, folder: Path, context: RunContext) -> float:
    """Return Spearman's between the grid's accuracies on held-out labels, noisy and true."""
    grid = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    methods = tuple(
        Method(str(number), weighting={"family": "DM", **one}, normalization="integral")
        for number, one in enumerate(grid)
    )
    means: list[Sequence[float]] = []
    for labels in ("noisy", "true"):
        part = base.changed({"dataset.validation": 0.2, "dataset.validation_labels": labels})
        rows = run(replace(part, name="grid", methods=methods, baseline="0", seeds=2), folder, context)
        by_method: dict[str, list[float]] = {}
        for row in rows:
            by_method.setdefault(row["method"], []).append(row["final_test_accuracy"] or 0.0)
        means.append([statistics.mean(by_method[method.name]) for method in methods])
    return float(spearmanr(*means).statistic)


def summary(part: dict[str, Any]) -> dict[str, Any]:
    """Return each way's test accuracy and regret, mean and standard deviation over samplers, and what else is said."""
    means = {way: [statistics.mean(one["test"]) for one in found] for way, found in part["ways"].items()}
    regrets = {
        way: [clean - own for clean, own in zip(means["clean"], values, strict=True)]
        for way, values in means.items()
        if way != "clean"
    }
    return {
        "noise_rate": {name: part["estimate"][name] for name in ("true", "noise_rate", "mixture_rate")},
        "rank_correlation": part["rank_correlation"],
        "accuracy": {way: [statistics.mean(v), statistics.stdev(v)] for way, v in means.items()},
        "regret": {way: [statistics.mean(v), statistics.stdev(v)] for way, v in regrets.items()},
    }


if __name__ == "__main__":
    main()
