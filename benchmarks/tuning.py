"""What `emphasis tune`, which trusts no label, loses against tuning with labels known to be right, and what it gains.

Four tasks (digits, MNIST, IMDB vectors, and clinc150 with 150 classes) at 0, 20, 40 and 60 % symmetric noise and 30 %
of labels flipped to the next class, each with a learning rate that falls to 0. Cross-entropy and the default loss are
not searched: their learning rate is the best of five, by held-out noisy labels. Three times, with another seed of the
sampler, 24 trials search the settings of DM:

    tune          what `emphasis tune` recommends: the DM of the next way if it is clearly better, else cross-entropy
    DM            lam by the estimated noise rate; beta, form, normalization and learning rate by noisy labels
    free          the same, with lam searched too
    clean         the same as free, by true labels
    DM, CCE's     the same as DM, at cross-entropy's learning rate
    default, CCE's, default, CCE      not searched; the first has cross-entropy's learning rate

Each is then trained on the whole training part with three seeds, and tested. The regret of a way is the test accuracy
of `clean` less its own, sampler by sampler; its gain is its own less that of cross-entropy. Besides, Spearman's rank
correlation over a grid of 48 settings, at cross-entropy's learning rate, between their accuracy on the held-out fifth
with noisy and with true labels, both with two seeds.

    python benchmarks/tuning.py --data DATA      # resumable

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
from emphasis.experiments.runs.store import Row
from emphasis.experiments.studies.accuracy import final_accuracies, final_accuracy
from emphasis.experiments.studies.own_data import single_method_recipe
from emphasis.experiments.studies.rates import CHOSEN_BY_DATA, best_of, train_at_rates, with_rate
from emphasis.experiments.studies.search import search
from emphasis.experiments.studies.space import Vary
from emphasis.experiments.studies.tune import SPACE, more_space, tune
from emphasis.experiments.studies.tuning_result import RATE, numbers, weighting_of
from emphasis.files import write_text
from emphasis.learning_rate import HELD_OUT

TASKS = {
    "digits": "digits 40 %",
    "MNIST": "MNIST 60 %",
    "IMDB": "IMDB vectors 40 %",
    "clinc150": "clinc150 40 %",
}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--noises", nargs="+", default=list(NOISES), choices=list(NOISES))
    parser.add_argument("--out", type=Path, default=Path("results/tuning.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task, noise in product(options.tasks, options.noises):
        path = options.runs / f"{task}-{noise.split()[0]}{'-flip' if 'flip' in noise else ''}" / "found.json"
        if not path.exists():
            found = of_task(recipe_of(task, noise), path.parent, options)
            write_text(path, json.dumps({"task": task, "noise": noise, **found, "revision": revision()}) + "\n")
        print(task, noise, summary(json.loads(path.read_text(encoding="utf-8"))), flush=True)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in options.runs.glob("*/found.json")]
    parts.sort(key=lambda part: (list(TASKS).index(part["task"]), list(NOISES).index(part["noise"])))
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
    """Return a task of the recipe noisy-benchmark with other noise, and a learning rate that is to be chosen.

    MNIST has a perceptron, which trains faster.
    """
    kind, rate = NOISES[noise]
    recipe = load_recipe("noisy-benchmark").limited([TASKS[task]])
    changes: dict[str, Any] = {"noise.kind": kind, "noise.rate": rate}
    if task == "MNIST":
        changes |= {"network.name": "mlp", "network.hidden": [96, 96], "solver.iterations": 1000}
    changes |= {f"solver.{name}": value for name, value in CHOSEN_BY_DATA.items()}
    recipe = recipe.changed(changes)
    iterations = next(recipe.cells()).solver.iterations
    return recipe.changed({"evaluation.every": iterations})


def of_task(recipe: Recipe, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings and test accuracies of each way, and the rank correlation."""
    context = RunContext(options.data, workers=options.workers, threads=1)
    cross_entropy, default = recipe.limited(methods=["CCE", "Relative, warm-up"]).methods
    open_base, split = single_method_recipe(recipe, default, context)
    at_rates = train_at_rates(open_base, folder / "default", context, folds=FOLDS)
    ways: dict[str, list[dict[str, Any]]] = {}
    for seed in range(SAMPLERS):
        settings: dict[str, Any] = {"trials": TRIALS, "folds": FOLDS, "seed": seed}
        tuned = tune(recipe, folder / "tune", context, **settings)
        rate = tuned.baseline.settings[RATE]
        of_rate = more_space(SPACE, rate, split.num_classes, tuned.noise_rate)
        of_lam = more_space(SPACE, None, split.num_classes, None)  # of two classes, as in `tune`
        base = tuned.recipe  # DM with the lam of the noise rate, at cross-entropy's learning rate
        (dm,) = base.methods
        found = {"DM": tuned.search.best.settings}
        for way, space in {
            "DM, CCE's": [*SPACE, *of_lam],
            "free": [LAM, *SPACE, *of_rate],
            "clean": [LAM, *SPACE, *of_rate],
        }.items():
            how = {"validation": HELD_OUT, "noisy_validation": way != "clean", "retrain": False, **settings}
            found[way] = search(base, folder / way, context, method="DM", space=space, **how).best.settings
        chosen = {
            way: (
                replace(dm, weighting=weighting_of(tuned.lam, one).to_dict(), normalization=one["normalization"]),
                one.get(RATE, rate),
            )
            for way, one in found.items()
        }
        chosen["CCE"] = cross_entropy, rate
        chosen["default, CCE's"] = default, rate
        chosen["default"] = default, best_of(at_rates)
        chosen["tune"] = chosen["DM" if tuned.clearly_better else "CCE"]
        for way, (method, at) in chosen.items():
            accuracies = tested(with_rate(base, at), method, folder / "test", context)
            described = {"weighting": method.weighting, "normalization": method.normalization, "learning_rate": at}
            ways.setdefault(way, []).append({**described, "test": accuracies})
    return {
        "estimate": {**numbers(tuned), "true": base.conditions[0].noise.get("rate", 0.0)},
        "ways": ways,
        "rank_correlation": rank_correlation(base, folder / "grid", context),
    }


def tested(base: Recipe, method: Method, folder: Path, context: RunContext) -> list[float]:
    """Return the test accuracies of networks trained on the whole training part, one a seed."""
    named = replace(base, name="tested", methods=(method,), baseline=method.name, seeds=SEEDS)
    return list(final_accuracies(run(named, folder, context)))


def rank_correlation(base: Recipe, folder: Path, context: RunContext) -> float:
    """Return Spearman's between the grid's accuracies on held-out labels, noisy and true."""
    grid = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    methods = tuple(
        Method(str(number), weighting={"family": "DM", **one}, normalization="integral")
        for number, one in enumerate(grid)
    )
    means: list[Sequence[float]] = []
    for labels in ("noisy", "true"):
        part = base.changed({"dataset.validation": HELD_OUT, "dataset.validation_labels": labels})
        rows = run(replace(part, name="grid", methods=methods, baseline="0", seeds=2), folder, context)
        by_method: dict[str, list[Row]] = {}
        for row in rows:
            by_method.setdefault(row["method"], []).append(row)
        means.append([final_accuracy(by_method[method.name])[0] for method in methods])
    return float(spearmanr(*means).statistic)


def summary(part: dict[str, Any]) -> dict[str, Any]:
    """Return each way's test accuracy, regret and gain, mean and standard deviation over samplers, and the rest."""
    means = {way: [statistics.mean(one["test"]) for one in found] for way, found in part["ways"].items()}

    def spread(values: Sequence[float]) -> list[float]:
        return [statistics.mean(values), statistics.stdev(values)]

    def less(values: Sequence[float], others: Sequence[float]) -> list[float]:
        return spread([value - other for value, other in zip(values, others, strict=True)])

    return {
        "noise_rate": {name: part["estimate"][name] for name in ("true", "noise_rate", "mixture_rate")},
        "rank_correlation": part["rank_correlation"],
        "accuracy": {way: spread(values) for way, values in means.items()},
        "regret": {way: less(means["clean"], values) for way, values in means.items() if way != "clean"},
        "gain": {way: less(values, means["CCE"]) for way, values in means.items() if way != "CCE"},
    }


if __name__ == "__main__":
    main()
