"""Videos of persons, some frames of which show nothing, half of somebody, or another person: does DM help?

    python benchmarks/planted_tracklets.py        # about 70 minutes on one CPU core; resumable

A scaled stand-in for Table 4, whose data must be asked for: the tests' planted MARS (tests/planted_mars.py), videos of
scans of handwritten digits, one scan a person, seen by three cameras that differ more than persons do. 0, 20, 40 and
60 % of training frames are wrong, a third each background, a detector's misses and other persons. Trained by each
method as Table 4 is, with a small network, and judged by retrieval of persons that nobody trained on: mean average
precision and CMC at rank 1, three seeds. Learning rates are 0.1, but for the methods that learn nothing then. Prints,
and writes to results/planted_tracklets.json, mean, standard deviation and each seed's figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs.context import Printer, RunContext
from emphasis.experiments.runs.provenance import revision, versions
from emphasis.experiments.runs.runner import run
from emphasis.files import write_text

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from planted_mars import write_planted_mars

SHARES = (0.0, 0.2, 0.4, 0.6)
PLANTED = {"train_persons": 100, "test_persons": 60, "distractors": 20, "junk": 20, "seed": 0}
METRICS = {"mAP": "final_mean_average_precision", "CMC 1": "final_cmc_1"}
RECIPE = """
name = "planted-tracklets"
title = "Planted tracklets of digits, scaled"
question = "Do weightings help where frames do not show their person?"
source = "Scaled after Table 4 of 'Derivative Manipulation for General Example Weighting'."
cost = "a quarter of an hour on one core"
choices = "As table4 where not stated otherwise."
deviations = "Digits in place of persons, a small network, 3,000 iterations."
baseline = "CCE"
seeds = 3
status = "scaled"
metric = "final_mean_average_precision"
figures = []
[dataset]
name = "mars"
augment = true
resize = 20
size = 18
[network]
name = "small-cnn"
widths = [16, 32, 64]
[solver]
iterations = 3000
batch_size = 60
learning_rate = 0.1
momentum = 0.9
weight_decay = 5e-4
clip = 3
schedule = { policy = "step", at = [1500, 2250], factor = 0.1 }
[evaluation]
every = 1500
[[conditions]]
name = ""
"""
DM = 'weighting = {{ family = "DM", lam = {}, beta = {} }}\nnormalization = "batch"\nmax_margin = 16.6'
METHODS = {
    "CCE": 'weighting = { family = "CCE" }',
    "GCE": 'weighting = { family = "GCE", q = 0.7 }',
    "MAE": 'weighting = { family = "MAE" }',
    "MSE": 'weighting = { family = "MSE" }',
    "DM 1/2": DM.format(1, 2),  # as Table 4
    "DM 0.5/4": DM.format(0.5, 4),
    "DM 0/1": DM.format(0, 1),
    "OSM+CAA": 'training = { name = "osm-caa" }',
    "DRSA": 'training = { name = "drsa" }\nsolver = { learning_rate = 0.03 }',  # learns more than at 0.1
    "CAE": 'training = { name = "cae" }\nsolver = { learning_rate = 1e-3, clip = 4, videos = 2, batch_size = 64 }',
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/planted-tracklets"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--out", type=Path, default=Path("results/planted_tracklets.json"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    path = options.runs / "planted-tracklets.toml"
    rows = "".join(f'[[methods]]\nname = "{name}"\ngroup = ""\n{how}\n' for name, how in METHODS.items())
    write_text(path, RECIPE.replace("seeds = 3", f"seeds = {options.seeds}") + rows)
    report: dict[str, Any] = {
        "planted": PLANTED,
        "seeds": options.seeds,
        "revision": revision(),
        "versions": versions(),
        "recipe": path.read_text(encoding="utf-8"),
        "shares": {},
    }
    for share in options.shares:
        data = options.runs / f"data-{share:.0%}"
        if not (data / "info" / "query_IDX.mat").exists():
            write_planted_mars(data, wrong_share=share, **PLANTED)
        context = RunContext(data, workers=options.workers, threads=1)
        found = run(load_recipe(str(path)), options.runs / f"run-{share:.0%}", context, Printer())
        report["shares"][f"{share:.0%}"] = {
            name: of_method([row for row in found if row["method"] == name]) for name in METHODS
        }
        print(
            f"{share:.0%}", {name: one["mAP"][:2] for name, one in report["shares"][f"{share:.0%}"].items()}, flush=True
        )
    write_text(options.out, json.dumps(report, indent=1) + "\n")


def of_method(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for short, name in METRICS.items():
        values = [row[name] for row in sorted(rows, key=lambda row: row["seed"])]
        found[short] = [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, values]
    made = {f"{name}s": sorted({str(row[name]) for row in rows}) for name in ("device", "revision")}
    return {**found, "outcomes": [row["outcome"] for row in rows], **made}


if __name__ == "__main__":
    main()
