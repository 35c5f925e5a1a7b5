"""What an objective in Python costs a booster: python benchmarks/boosting_speed.py --data DIR (xgboost, lightgbm).

All 60,000 MNIST digits, 784 pixels each, ten classes. The library's own multi-class objective and ours take turns, on
a data set made ready beforehand, so that the figures are of boosting rounds alone; with DM vanishing, whose trees are
others, and with CCE, whose trees are the same. Ratios are of neighbors in time: median (least to largest).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import lightgbm
import numpy as np
import xgboost
from tqdm import tqdm

from emphasis import CCE, DM
from emphasis.boosting import Objective
from emphasis.boosting.lightgbm import objective as lightgbm_objective
from emphasis.boosting.xgboost import objective as xgboost_objective
from emphasis.datasets import load
from emphasis.files import write_text

OUT = Path(__file__).parent.parent / "results" / "boosting_speed"
WEIGHTINGS = {"CCE": CCE(), "DM 0.5/4 vanishing": DM(lam=0.5, beta=4, vanishing=True)}


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def rounds_of(library: str, X: np.ndarray, y: np.ndarray, rounds: int, threads: int) -> dict[str, Callable[[], object]]:
    """Return what trains, by name; "own" is the library's own objective."""
    if library == "XGBoost":
        params = {"objective": "multi:softprob", "num_class": 10, "nthread": threads}
        matrix = xgboost.QuantileDMatrix(X, y, nthread=threads)
        own = {"own": lambda: xgboost.train(params, matrix, rounds)}
        return own | {
            name: lambda w=w: xgboost.train(params, matrix, rounds, obj=xgboost_objective(w))
            for name, w in WEIGHTINGS.items()
        }
    fixed = {"num_class": 10, "num_threads": threads, "verbose": -1}
    data = lightgbm.Dataset(X, y, params={"num_threads": threads, "verbose": -1}, free_raw_data=False).construct()
    own = {"own": lambda: lightgbm.train({**fixed, "objective": "multiclass"}, data, rounds)}
    return own | {
        name: lambda w=w: lightgbm.train({**fixed, "objective": lightgbm_objective(w)}, data, rounds)
        for name, w in WEIGHTINGS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds MNIST")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    split = load("mnist", options.data.resolve())
    X = split.train_inputs.reshape(len(split.train_inputs), -1).astype(np.float32)
    y = split.train_labels
    measured: dict[str, dict[str, list[float]]] = {}
    bar = tqdm(total=2 * 3 * (options.repeats + 1))
    for library in ("XGBoost", "LightGBM"):
        trainings = rounds_of(library, X, y, options.rounds, options.threads)
        times = measured[library] = {name: [] for name in trainings}
        for repeat in range(options.repeats + 1):
            for name, training in trainings.items():
                elapsed = seconds(training)
                if repeat:  # the first warms up
                    times[name].append(elapsed)
                bar.update()
    bar.close()
    scores = np.random.default_rng(0).normal(size=(len(y), 10)).astype(np.float32)
    alone = [seconds(lambda: Objective(WEIGHTINGS["CCE"]).gradient_hessian(y, scores)) for _ in range(20)]
    versions = {name: version(name) for name in ("xgboost", "lightgbm", "numpy")}
    machine = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": options.threads,
        **versions,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "times.json", json.dumps({"seconds": measured, "objective": alone, **machine}, indent=1))
    said = ", ".join(f"{name} {value}" for name, value in machine.items())
    about = (
        f"MNIST, {len(y)} x {X.shape[1]}, ten classes, {options.rounds} rounds, n = {options.repeats}: median (least "
        "to largest) of the ratios of neighbors in time. Written by `python benchmarks/boosting_speed.py --data DIR`. "
        f"{said}."
    )
    rows = [
        "# Time of a booster's rounds with an objective of ours, over those with its own",
        "",
        about,
        "",
        "| | own, seconds a round | " + " | ".join(WEIGHTINGS) + " |",
        "|---|---|" + "---|" * len(WEIGHTINGS),
    ]
    for library, times in measured.items():
        own = np.array(times["own"])
        cells = [f"{np.median(own) / options.rounds:.2f}"]
        for name in WEIGHTINGS:
            ratios = np.array(times[name]) / own
            cells.append(f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")
        rows.append(f"| {library} | " + " | ".join(cells) + " |")
    rows += ["", f"The gradient and curvature of all examples take {1000 * np.median(alone):.0f} ms of each round.", ""]
    write_text(options.out / "README.md", "\n".join(rows))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
