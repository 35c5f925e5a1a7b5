"""Does the default of `emphasis fit` help? python benchmarks/fit_evidence.py --data DIR (extras fit, lightgbm).

Public tables with right labels, wrong labels on the training rows only (none, 20 and 40 % symmetric, 30 % pair flips),
and rare classes: of breast cancer and of wine quality, so many of the rarer of two classes are left that it has 5 or
10 % of the rows. Models, settings, encoder and calibration are those of `emphasis fit`, all defaults; every method
sees the same rows and labels. A third of the rows is held out with right labels, five seeds, each with a split of its
own. All scores of `emphasis.scores`, of probabilities as the model gives them, and calibrated as `fit` does it (by 3
folds) for XGBoost with no and 40 % noise.

What is computed already (results/fit_evidence/results.jsonl) is not computed again, and seeds come one after another.
`--report` writes the tables alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fit_evidence_report import write_report
from lines import Cell, add_lines, read_lines
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import train_test_split

from emphasis import CCE, DM, GCE, Relative
from emphasis.corruption import pair_flip, symmetric
from emphasis.datasets.table_encoder import fit_encoder
from emphasis.scores import METRICS, Held, recall
from emphasis.tabular.calibration import calibrate_held_out
from emphasis.tabular.cross_validation import Trainer, splits
from emphasis.tabular.models import MODELS

OUT = Path(__file__).parent.parent / "results" / "fit_evidence"
SEEDS = range(5)
NOISES = ("0 %", "40 % symmetric", "20 % symmetric", "30 % pair")
METHODS = {
    "CCE": CCE(),
    "Relative": Relative(),
    "Relative 0.5": Relative(q=0.5),
    "GCE 0.4": GCE(0.4),
    "DM 0.5/4 vanishing": DM(lam=0.5, beta=4, vanishing=True),
}
COMPARED = ("CCE", "Relative")  # which nets are trained with, and whose probabilities are calibrated as well
TABLES = ("wine quality", "breast cancer", "wine", "digits")
RARE = tuple(f"{name}, {share} % rare" for name, share in product(("breast cancer", "wine quality"), (5, 10)))
CALIBRATION_FOLDS = 3


@cache
def whole_table(name: str, root: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table without its labels, and the class of each row."""
    if name == "wine quality":
        frame = pd.read_csv(root / "wine_quality_white.csv")
        return frame.drop(columns="class"), np.clip(frame["class"].to_numpy(), 4, 8).astype(np.int64) - 4
    data = {"breast cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}[name](as_frame=True)
    return data.data, data.target.to_numpy().astype(np.int64)


def rows_of(name: str, root: Path, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table of TABLES or RARE; of the latter two classes, class 1 rare: malignant, and quality 7 or more."""
    base, _, share = name.removesuffix(" % rare").partition(", ")
    frame, labels = whole_table(base, root)
    if not share:
        return frame, labels
    rare = labels == 0 if base == "breast cancer" else labels >= 3
    common = np.flatnonzero(~rare)
    number = round(len(common) * int(share) / (100 - int(share)))
    chosen = np.random.default_rng(seed).choice(np.flatnonzero(rare), number, replace=False)
    rows = np.sort(np.r_[common, chosen])
    return frame.iloc[rows], rare[rows].astype(np.int64)


def split_of(name: str, noise: str, root: Path, seed: int) -> tuple[Any, ...]:
    """Return encoded training rows, their labels with noise, encoded test rows and their right labels."""
    frame, labels = rows_of(name, root, seed)
    train, test = train_test_split(np.arange(len(labels)), test_size=1 / 3, stratify=labels, random_state=seed)
    encoder = fit_encoder(frame.iloc[train], list(frame.columns), (), 100)
    noisy, classes = labels[train], int(labels.max()) + 1
    if noise != "0 %":
        corrupt = pair_flip if noise.endswith("pair") else symmetric
        noisy = corrupt(noisy, int(noise.split()[0]) / 100, num_classes=classes, seed=seed).labels
    return encoder.transform(frame.iloc[train]), noisy, encoder.transform(frame.iloc[test]), labels[test]


def scores_of(p: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    held = Held.of(labels, p, np.ones(len(labels)))
    values = {name: metric.score(held)[0] for name, metric in METRICS.items()}
    return values | {"recall": recall(held).tolist()}


def measure(table: str, noise: str, model: str, method: str, seed: int, root: Path) -> dict[str, Any]:
    """Train once on all training rows, and on 3 folds of them where probabilities are calibrated."""
    x, noisy, x_test, labels = split_of(table, noise, root, seed)
    started, weighting = time.process_time(), METHODS[method]
    train = Trainer(MODELS[model], MODELS[model].settings, seed)
    weights = np.ones(len(noisy))
    p = np.asarray(train(weighting, x, noisy, weights).predict_proba(x_test), np.float64)
    line = scores_of(p, labels)
    if model == "xgboost" and method in COMPARED and noise in NOISES[:2]:
        held_out, fold = np.empty((len(noisy), p.shape[1])), np.empty(len(noisy), np.int64)
        for number, (rows, others) in enumerate(splits(noisy, CALIBRATION_FOLDS, seed)):
            fitted = train(weighting, x[rows], noisy[rows], weights[rows])
            held_out[others], fold[others] = fitted.predict_proba(x[others]), number
        fitted_calibration = calibrate_held_out(noisy, held_out, weights, fold)[1]
        line["calibration"] = fitted_calibration and fitted_calibration.method
        line["calibrated"] = scores_of(fitted_calibration.apply(p) if fitted_calibration else p, labels)
    return line | {"cpu_seconds": round(time.process_time() - started, 3)}


def cells() -> Iterator[Cell]:
    for seed, model, noise, name in product(SEEDS, ("xgboost", "lightgbm", "net"), NOISES, (*TABLES, *RARE)):
        for method in METHODS if model != "net" else COMPARED:
            yield {"table": name, "noise": noise, "model": model, "method": method, "seed": seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with wine_quality_white.csv")
    parser.add_argument("--report", action="store_true", help="only write the tables")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "results.jsonl"
    for _ in add_lines(path, () if options.report else cells(), lambda cell: measure(**cell, root=options.data)):
        pass
    write_report(OUT, read_lines(path))


if __name__ == "__main__":
    main()
