"""Boosting with wrong labels: python benchmarks/noisy_tables.py --data DIR (extras xgboost, lightgbm, catboost).

Breast cancer, wine and digits from scikit-learn, and the pixels of 1,500 MNIST digits (scaled: a fortieth of them).
0, 20 and 40 % of the training labels are wrong (symmetric), five seeds, each with a split and noise of its own. Every
booster learns with its own objective and with weightings, all else equal. A fifth of the training rows, noise
included, is held out for early stopping; the test labels are true.

Two numbers for each training: the test accuracy after the last round, and after the round that is best by accuracy on
the noisy held-out rows. Weightings are the same everywhere, and none was chosen by these splits: GCE's q is its
authors', and lam and beta of DM were settled by a look at two other splits of digits at 40 %.

What is trained already is not trained again. `--report` writes the tables alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from lines import Cell, read_lines, without_line
from noisy_tables_report import write_report
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from emphasis import CCE, DM, GCE, MAE
from emphasis.corruption import symmetric
from emphasis.datasets import load

OUT = Path(__file__).parent.parent / "results" / "noisy_tables"
SEEDS, RATES = range(5), (0.0, 0.2, 0.4)
METHODS: dict[str, Any] = {
    "own objective": None,
    "CCE": CCE(),
    "GCE 0.7": GCE(0.7),
    "MAE": MAE(),
    "DM 1/4": DM(lam=1, beta=4),
    "DM 1/4 vanishing": DM(lam=1, beta=4, vanishing=True),
    "DM 0.5/4 vanishing": DM(lam=0.5, beta=4, vanishing=True),
}
ROUNDS = {"default trees": 100, "small trees": 150}
AT = (1, 2, 4, 7, 10, 15, 20, 30, 40, 60, 80, 100, 125, 150)  # rounds at which models are judged
PARAMETERS: dict[str, dict[str, dict[str, Any]]] = {
    "XGBoost": {"default trees": {}, "small trees": {"max_depth": 3, "learning_rate": 0.1}},
    "LightGBM": {"default trees": {}, "small trees": {"num_leaves": 8, "learning_rate": 0.1}},
    # CatBoost's own learning rate depends on the objective: the same for all.
    "CatBoost": {"default trees": {"learning_rate": 0.1}, "small trees": {"depth": 3, "learning_rate": 0.1}},
}
DATA = {"breast cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits, "MNIST pixels (scaled)": None}
Predict = Callable[[Any, int], Any]


@cache
def data_of(name: str, seed: int, root: Path) -> tuple[Any, Any, Any, Any]:
    """Return training inputs and labels, and test ones."""
    loader = DATA[name]
    if loader is None:
        split = load("mnist", root)
        inputs = split.train_inputs.reshape(len(split.train_inputs), -1).astype(np.float32)
        chosen, _ = train_test_split(
            np.arange(len(inputs)), train_size=1500, stratify=split.train_labels, random_state=seed
        )
        test = split.test_inputs.reshape(len(split.test_inputs), -1).astype(np.float32)
        return inputs[chosen], split.train_labels[chosen], test, split.test_labels
    X, y = loader(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    return X, y, X_test, y_test


def fitted(booster: str, method: str, parameters: dict[str, Any], rounds: int, X: Any, y: Any) -> Predict:
    """Return a function of inputs and a number of rounds to class numbers."""
    weighting = METHODS[method]
    own = {} if weighting is None else {"weighting": weighting}
    if booster == "XGBoost":
        from xgboost import XGBClassifier

        from emphasis.boosting import EmphasisXGBClassifier

        kind = XGBClassifier if weighting is None else EmphasisXGBClassifier
        model = kind(n_estimators=rounds, n_jobs=1, **parameters, **own).fit(X, y)
        return lambda inputs, count: model.predict(inputs, iteration_range=(0, count))
    if booster == "LightGBM":
        from lightgbm import LGBMClassifier

        from emphasis.boosting import EmphasisLGBMClassifier

        kind = LGBMClassifier if weighting is None else EmphasisLGBMClassifier
        model = kind(n_estimators=rounds, n_jobs=1, verbose=-1, **parameters, **own).fit(X, y)
        return lambda inputs, count: model.predict(inputs, num_iteration=count)
    from catboost import CatBoostClassifier

    from emphasis.boosting import EmphasisCatBoostClassifier

    kind = CatBoostClassifier if weighting is None else EmphasisCatBoostClassifier
    fixed = {"verbose": 0, "thread_count": 1, "random_seed": 0, "allow_writing_files": False}
    model = kind(iterations=rounds, **fixed, **parameters, **own).fit(X, y)
    return lambda inputs, count: np.ravel(model.predict(inputs, ntree_end=count))


def train(data: str, rate: float, booster: str, trees: str, method: str, seed: int, root: Path) -> dict[str, Any]:
    """Train one model and return its line."""
    warnings.simplefilter("ignore")  # LightGBM warns that arrays have no column names
    X, y, X_test, y_test = data_of(data, seed, root)
    noisy = symmetric(y, rate, num_classes=int(y.max()) + 1, seed=seed).labels
    part, held_out = train_test_split(np.arange(len(y)), test_size=0.2, stratify=noisy, random_state=seed)
    rounds = ROUNDS[trees]
    predict = fitted(booster, method, PARAMETERS[booster][trees], rounds, X[part], noisy[part])
    at = [count for count in AT if count <= rounds]
    validation = [float(np.mean(predict(X[held_out], count) == noisy[held_out])) for count in at]
    test = [float(np.mean(predict(X_test, count) == y_test)) for count in at]
    best = int(np.argmax(validation))  # the first of equals
    memorised = float(np.mean((predict(X[part], rounds) == noisy[part])[noisy[part] != y[part]])) if rate else None
    return {
        "data": data,
        "rate": rate,
        "booster": booster,
        "trees": trees,
        "method": method,
        "seed": seed,
        "last": test[-1],
        "stopped": test[best],
        "stopped_at": at[best],
        "memorised": memorised,
        "rows": len(part),
        "weighting": None if METHODS[method] is None else repr(METHODS[method]),
    }


def cells() -> Iterator[Cell]:
    """Every training, MNIST's with small trees alone: the others would take hours."""
    for data, trees, seed, rate, booster, method in product(DATA, ROUNDS, SEEDS, RATES, PARAMETERS, METHODS):
        if trees == "small trees" or DATA[data] is not None:
            cell = {"data": data, "rate": rate, "booster": booster, "trees": trees, "method": method}
            yield cell | {"seed": seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds MNIST")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--report", action="store_true", help="write the tables of what there is")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    lines = read_lines(results)
    missing = [] if options.report else without_line(cells(), lines)
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=OUT.parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    with results.open("a") as file, ProcessPoolExecutor(options.workers) as pool:
        futures = [pool.submit(train, **cell, root=options.data.resolve()) for cell in missing]
        for future in tqdm(as_completed(futures), total=len(futures), disable=not futures):
            lines.append({**future.result(), "revision": revision})
            file.write(json.dumps(lines[-1]) + "\n")
            file.flush()
    versions = {name: version(name) for name in ("xgboost", "lightgbm", "catboost", "scikit-learn", "numpy")}
    machine = {"python": platform.python_version(), "machine": platform.machine(), **versions}
    write_report(options.out, lines, list(METHODS), machine)


if __name__ == "__main__":
    main()
