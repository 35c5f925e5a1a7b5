"""Rows as a run would write them, without training."""

import json

import numpy as np

from emphasis.experiments.recipes.load import parse_recipe

TABLE = """
name = "synthetic"
title = "A synthetic table"
question = "Do the reports agree?"
source = "none"
cost = "nothing"
choices = "none"
deviations = "It is made up."
baseline = "CCE"
seeds = 2
figures = ["curves", "probabilities", "emphasis", "modes"]
[dataset]
name = "digits"
[network]
name = "mlp"
hidden = [8]
[solver]
iterations = 100
batch_size = 10
learning_rate = 0.1
[evaluation]
every = 50
[[conditions]]
name = "r = 0"
[[conditions]]
name = "r = 0.4"
noise = { kind = "symmetric", rate = 0.4 }
[[methods]]
name = "CCE"
group = "Losses"
weighting = { family = "CCE" }
[[methods]]
name = "GCE"
group = "Losses"
weighting = { family = "GCE", q = 0.7 }
[[methods]]
name = "DM"
group = "Derivative manipulation"
weighting = { family = "DM", lam = 0.5, beta = 8 }
[[methods]]
name = "Vanishing DM"
group = "Vanishing DM"
weighting = { family = "DM", lam = 1, beta = 8, vanishing = true }
[paper.final_test_accuracy]
CCE = [90.0, 60.0]
GCE = [88.5, nan]
DM = [91.0, 80.0]
[paper.final_fit_true]
CCE = [99.0, 64.4]
[[reported]]
name = "Boot [hard]"
group = "Quoted"
values = [63.7, nan]
[scaled]
title = "A synthetic table, scaled"
cost = "nothing"
deviations = "It is scaled down."
seeds = 2
"""


def recipe(scaled=False):
    whole = parse_recipe(TABLE)
    return whole.scaled_down() if scaled else whole


def make_rows(recipe, final, diverged=()):
    """One row per cell of the recipe; `final(condition, method, seed)` in [0, 1]; `diverged` holds such triples."""
    rows = []
    for cell in recipe.cells():
        where = (cell.condition, cell.method, cell.seed)
        bad, end = where in diverged, final(*where)
        noisy = cell.noise.rate > 0
        curve = [0.1, 0.6] if bad else [0.1, 0.6, end]
        curves = dict.fromkeys(("test_accuracy", "fit_noisy", "fit_true", "p_clean", "largest_share"), curve)
        curves |= {"iteration": [0, 50] if bad else [0, 50, 100], "p_noisy": curve if noisy else [None] * len(curve)}
        last = None if bad else end
        rows.append(
            {
                "key": cell.key,
                "condition": cell.condition,
                "method": cell.method,
                "group": cell.group,
                **cell.config(),
                "realised_noise_rate": cell.noise.rate,
                "best_test_accuracy": 0.6 if bad else max(0.6, end),
                **dict.fromkeys(("final_test_accuracy", "final_fit_noisy", "final_fit_true", "final_p_clean"), last),
                "final_p_noisy": last if noisy else None,
                "final_largest_share": last,
                "outcome": "diverged" if bad else "learned",
                "diverged_at": 73 if bad else None,
                "diverged_batch": list(range(40, 50)) if bad else None,
                "curves": curves,
                "p_histogram": {"clean": [0] * 19 + [60], "noisy": [40 * noisy] + [0] * 19},
                "n_train": 100,
                "n_test": 50,
                "num_classes": 10,
                "networks_at_once": 4,
                "seconds": 8.0,
                "threads": 1,
                "device": "cpu",
                "compiled": False,
                "revision": "abc123",
                "versions": {"torch": "2.13"},
            }
        )
    return json.loads(json.dumps(rows))


def plain(condition, method, seed):
    """Final accuracies that differ by method, condition and seed."""
    base = {"CCE": 0.80, "GCE": 0.85, "DM": 0.86, "Vanishing DM": 0.84}[method]
    return round(float(base - 0.2 * (condition == "r = 0.4") + np.array([0.0, 0.02])[seed]), 6)
