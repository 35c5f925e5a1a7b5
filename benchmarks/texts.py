"""Texts with wrong labels, defaults only: `fit` against cross-entropy, and the ranking of `audit`.

clinc150 (150 intents) and IMDB (two classes), as tables with a column of free text: the features are those of
`emphasis fit` (TF-IDF and a truncated SVD, learned from the training rows), the models and settings its defaults. 0, 20
or 40 % of the training labels are replaced by others (symmetric noise); accuracy is that on the official test part,
whose labels are right. `audit` ranks the training labels; the figure is the area under the ROC curve of that ranking.

Each result is one line of a file; what is there is not computed again. One seed is finished before the next begins.

    nice -n 19 python benchmarks/texts.py --data ../shared/data --out results/texts.jsonl
    python benchmarks/texts.py --show results/texts.jsonl
"""

from __future__ import annotations

import argparse
import bz2
import json
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lines import Cell, add_lines, read_lines

from emphasis.corruption import symmetric
from emphasis.datasets.table import prepare_table
from emphasis.tabular.models import MODELS
from emphasis.weighting import CCE, DEFAULT_WEIGHTING

MODELS_TRIED = {
    "clinc150": ("linear", "net"),
    "imdb": ("xgboost", "linear"),
}  # boosting 150 classes takes too long here
ROWS_A_CLASS = {"clinc150": 50, "imdb": 2500}
RATES = (0.4, 0.2, 0.0)
WEIGHTINGS = {repr(weighting): weighting for weighting in (DEFAULT_WEIGHTING, CCE())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/texts.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", type=Path)
    options = parser.parse_args()
    if options.show is not None:
        show(read_lines(options.show))
        return
    for result in add_lines(options.out, cells(options.seeds), lambda cell: measure(cell, options.data)):
        print(json.dumps(result), flush=True)


def cells(seeds: int) -> Iterator[Cell]:
    """Yield what identifies each result; a result of `fit` and one of `audit` differ in "what"."""
    for seed, name in product(range(seeds), MODELS_TRIED):
        for rate in RATES:
            for model, weighting in product(MODELS_TRIED[name], WEIGHTINGS):
                cell = {"what": "fit", "data": name, "model": model, "weighting": weighting}
                yield cell | {"noise": rate, "seed": seed}
            if rate:
                cell = {"what": "audit", "data": name, "model": "audit", "weighting": repr(DEFAULT_WEIGHTING)}
                yield cell | {"noise": rate, "seed": seed}


@lru_cache(maxsize=1)
def read(name: str, data: Path, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return texts and labels of training and test part; of the training part, so many rows of each class."""
    if name == "clinc150":
        table = pd.read_csv(data / "clinc150.csv", keep_default_na=False).rename(columns={"intent": "label"})
    else:
        with bz2.open(data / "imdb.jsonl.bz2", "rt", encoding="utf-8", newline="\n") as file:
            table = pd.DataFrame([json.loads(line) for line in file])
        table["label"] = np.where(table.label == 1, "positive", "negative")
    train = table[table.split == "train"].groupby("label").sample(ROWS_A_CLASS[name], random_state=seed)
    test = table[table.split == "test"]
    test = test if len(test) < 10_000 else test.sample(10_000, random_state=0)
    return train[["text", "label"]].reset_index(drop=True), test[["text", "label"]]


@lru_cache(maxsize=1)
def features(name: str, data: Path, seed: int) -> tuple[Any, Any]:
    """Return the features of training and test part, which do not depend on the labels."""
    train, test = read(name, data, seed)
    encoder = prepare_table(train, "label").encoder
    return encoder.transform(train), encoder.transform(test)


def measure(cell: Cell, data: Path) -> dict[str, Any]:
    """Return the result of a fit or of an audit."""
    train, test = read(cell["data"], data, cell["seed"])
    right, classes = pd.factorize(train.label, sort=True)
    given = right
    if cell["noise"]:
        given = symmetric(right, cell["noise"], num_classes=len(classes), seed=cell["seed"]).labels
    if cell["what"] == "audit":
        return audit(train.assign(label=classes[given]), given != right)
    inputs, test_inputs = features(cell["data"], data, cell["seed"])
    start = time.process_time()
    spec = MODELS.find(cell["model"])
    classifier = spec.make(WEIGHTINGS[cell["weighting"]], spec.settings, cell["seed"])
    classifier.fit(inputs, given)
    predicted = classes[np.asarray(classifier.predict(test_inputs), dtype=np.int64)]
    return {
        "accuracy": float((predicted == test.label).mean()),
        "rows": len(train),
        "test_rows": len(test),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def audit(table: pd.DataFrame, wrong: Any) -> dict[str, Any]:
    """Return the area under the ROC curve of the ranking of an audit."""
    from sklearn.metrics import roc_auc_score

    import emphasis

    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        table.to_csv(Path(folder) / "t.csv", index=False)
        found = emphasis.audit(
            Path(folder) / "t.csv", label="label", text="text", folder=Path(folder) / "audit", accelerator="cpu"
        )
    auroc = roc_auc_score(wrong[found.rows], -found.suspects.score)
    return {"auroc": float(auroc), "rows": len(table), "cpu_seconds": round(time.process_time() - start, 1)}


def show(results: list[dict[str, Any]]) -> None:
    """Print a table of means and standard deviations."""
    frame = pd.DataFrame(results)
    fits = frame[frame.what == "fit"]
    wide = fits.pivot_table(index=["data", "model", "noise", "seed"], columns="weighting", values="accuracy")
    wide = wide.rename(columns={repr(DEFAULT_WEIGHTING): "default"}).dropna()
    wide["difference"] = wide["default"] - wide[repr(CCE())]
    print((100 * wide).groupby(level=[0, 1, 2]).agg(["mean", "std", "count"]).round(1).to_string())
    audits = frame[frame.what == "audit"]
    if len(audits):
        print(audits.groupby(["data", "noise"]).auroc.agg(["mean", "std", "count"]).round(4).to_string())


if __name__ == "__main__":
    main()
