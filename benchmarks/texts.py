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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emphasis.corruption import symmetric
from emphasis.datasets.table import PreparedTable, prepare_table
from emphasis.tabular.models import MODELS
from emphasis.weighting import CCE, DEFAULT_WEIGHTING

MODELS_TRIED = {
    "clinc150": ("linear", "net"),
    "imdb": ("xgboost", "linear"),
}  # boosting 150 classes takes too long here
ROWS_A_CLASS = {"clinc150": 50, "imdb": 2500}
RATES = (0.4, 0.2, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/texts.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", type=Path)
    options = parser.parse_args()
    if options.show is not None:
        show([json.loads(line) for line in options.show.read_text().splitlines()])
        return
    done = {key(json.loads(line)) for line in options.out.read_text().splitlines()} if options.out.exists() else set()
    for seed in range(options.seeds):
        for name in MODELS_TRIED:
            train, test = read(name, options.data, seed)
            for result in measure(name, train, test, seed, done):
                with options.out.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)


def key(result: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a result is known by."""
    return tuple(result[name] for name in ("what", "data", "model", "weighting", "noise", "seed"))


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


def measure(name: str, train: Any, test: Any, seed: int, done: set[Any]) -> Iterator[dict[str, Any]]:
    """Yield the results of one seed."""
    prepared: PreparedTable | None = None
    right, classes = pd.factorize(train.label, sort=True)
    for rate in RATES:
        given = symmetric(right, rate, num_classes=len(classes), seed=seed).labels if rate else right
        for model in MODELS_TRIED[name]:
            for weighting in (DEFAULT_WEIGHTING, CCE()):
                about = {"what": "fit", "data": name, "model": model, "weighting": repr(weighting)}
                about |= {"noise": rate, "seed": seed}
                if key(about) in done:
                    continue
                if prepared is None:  # the features do not depend on the labels
                    prepared = prepare_table(train, "label")
                    inputs, test_inputs = (prepared.encoder.transform(part) for part in (train, test))
                start = time.process_time()
                spec = MODELS.find(model)
                classifier = spec.make(weighting, spec.settings, seed)
                classifier.fit(inputs, given)
                predicted = classes[np.asarray(classifier.predict(test_inputs), dtype=np.int64)]
                yield about | {
                    "accuracy": float((predicted == test.label).mean()),
                    "rows": len(train),
                    "test_rows": len(test),
                    "cpu_seconds": round(time.process_time() - start, 1),
                }
        about = {"what": "audit", "data": name, "model": "audit", "weighting": repr(DEFAULT_WEIGHTING)}
        about |= {"noise": rate, "seed": seed}
        if rate and key(about) not in done:
            yield about | audit(train.assign(label=classes[given]), given != right)


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
