"""How well wrong labels in tables are found: by the network of an audit, with the forest, and by gradient boosting.

Tables with five kinds of wrong labels:

    10, 20, 40 % symmetric, 25 % pair      as in `emphasis.corruption`
    15 % near       examples near the boundary between two classes get the label of the other one, as careless people
                    would: drawn by the uncertainty of logistic regression on the true labels

and four rankings of the labels, by

    network         the mean margin of the audit's network over training
    forest          p of the audit's forest, out of bag
    audit           the audit, which combines both
    boosting        p of scikit-learn's HistGradientBoostingClassifier, of five folds: what most people give to
                    confident learning (up to 20 classes)

Measured are the area under the ROC curve, the average precision, and how many wrong labels the first tenth holds, as a
share of those it could hold; of the suspects of network and audit also precision and recall.

    python benchmarks/audit_tables.py --data DATA [--csv diamonds.csv:cut ...] [--seeds 2]

Resumable: a line of results/audit_tables.jsonl for each table, noise and seed. One core.
Needs the extras `experiments`, `sklearn` and `table`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from defaults_data import task_of
from lines import add_lines, read_lines
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import emphasis
from emphasis.corruption import pair_flip, symmetric
from emphasis.diagnostics.suspects import precision_recall
from emphasis.experiments.runs.provenance import revision
from emphasis.experiments.studies.forest import out_of_bag_probabilities

BENCH = ("digits", "wine quality", "mnist", "imdb", "clinc150")  # of benchmarks/defaults_data.py
NOISES = ("10 % symmetric", "20 % symmetric", "40 % symmetric", "25 % pair", "15 % near")
MEASURES = ("auroc", "average precision", "first tenth")
_MOST_ROWS, _MOST_CLASSES_OF_BOOSTING = 4000, 20
Table = tuple[pd.DataFrame, Any]


@cache
def table_of(name: str, data: Path) -> Table:
    """Return features and true classes of a table: of BENCH, "breast cancer", or FILE:LABEL."""
    if name in BENCH:
        task = task_of(name, data)
        return pd.DataFrame(task.x, columns=[f"x{k}" for k in range(task.x.shape[1])]), task.y
    if name == "breast cancer":
        frame = load_breast_cancer(as_frame=True).frame
        return frame.drop(columns="target"), frame["target"].to_numpy(np.int64)
    file, _, label = name.rpartition(":")
    frame = pd.read_csv(file).drop(columns=["Unnamed: 0", "rownames"], errors="ignore").dropna()
    frame = frame.sample(min(len(frame), _MOST_ROWS), random_state=0).reset_index(drop=True)
    codes = np.unique(frame.pop(label).astype(str), return_inverse=True)[1]
    return frame, codes.astype(np.int64)


def labels_with(noise: str, frame: pd.DataFrame, y: Any, seed: int) -> Any:
    """Return the labels with one of NOISES."""
    rate, kind, classes = int(noise.split()[0]) / 100, noise.split()[-1], int(y.max()) + 1
    if kind != "near":
        corrupt = symmetric if kind == "symmetric" else pair_flip
        return corrupt(y, rate, num_classes=classes, seed=seed).labels
    rng, examples = np.random.default_rng(seed), np.arange(len(y))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    p = cross_val_predict(model, pd.get_dummies(frame).to_numpy(float), y, cv=3, method="predict_proba")
    doubt = 1.05 - p[examples, y]
    p[examples, y] = 0.0
    noisy = y.copy()
    for index in rng.choice(len(y), round(rate * len(y)), replace=False, p=doubt / doubt.sum()):
        noisy[index] = rng.choice(classes, p=p[index] / p[index].sum())
    return noisy


def measures(score: Any, wrong: Any) -> dict[str, float]:
    """Return MEASURES of a ranking, the lowest score first."""
    first = np.argsort(score, kind="stable")[: len(wrong) // 10]
    values = (
        roc_auc_score(wrong, -score),
        average_precision_score(wrong, -score),
        wrong[first].sum() / min(len(first), wrong.sum()),
    )
    return {name: round(float(value), 4) for name, value in zip(MEASURES, values, strict=True)}


def one(name: str, noise: str, seed: int, data: Path) -> dict[str, Any]:
    """Return the results of one table, noise and seed."""
    started = time.process_time()
    frame, y = table_of(name, data)
    given, classes, examples = labels_with(noise, frame, y, seed), int(y.max()) + 1, np.arange(len(y))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.parquet"
        frame.assign(label=[f"class {code:03d}" for code in given]).to_parquet(file)
        audit = emphasis.audit(
            file, label="label", keep=list(frame.columns), folder=Path(folder) / "audit", accelerator="cpu"
        )
    assert np.array_equal(audit.rows, examples)
    wrong, inputs = given != y, pd.get_dummies(frame).to_numpy(np.float32)
    forest = out_of_bag_probabilities(inputs, given, classes)
    scores = {
        "network": np.mean(audit.margins, axis=0),
        "forest": forest[examples, given],
        "audit": audit.suspects.score,
    }
    if classes <= _MOST_CLASSES_OF_BOOSTING:
        model = HistGradientBoostingClassifier(early_stopping=True, random_state=seed)
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        scores["boosting"] = cross_val_predict(model, inputs, given, cv=folds, method="predict_proba")[examples, given]
    precision, recall = precision_recall(audit.suspects.suspect, wrong)
    return {
        "examples": len(y),
        "classes": classes,
        "wrong": int(wrong.sum()),
        "suspects": int(audit.suspects.suspect.sum()),
        "precision": round(float(precision), 4),
        "recall": round(float(recall), 4),
        "rankings": {ranking: measures(score, wrong) for ranking, score in scores.items()},
        "cpu_seconds": round(time.process_time() - started, 1),
        "revision": revision(),
    }


def report(results: list[dict[str, Any]], key: str) -> None:
    """Print the means of MEASURES, in percent, for each value of a key of the results."""
    rankings = ("network", "forest", "audit", "boosting")
    print(f"{'':24}" + "".join(f"{ranking:>26}" for ranking in rankings))
    for group in dict.fromkeys(result[key] for result in results):
        of_group, cells = [result for result in results if result[key] == group], []
        for ranking in rankings:
            known = [result["rankings"][ranking] for result in of_group if ranking in result["rankings"]]
            means = [f"{100 * np.mean([value[name] for value in known]):.1f}" for name in MEASURES] if known else ["-"]
            cells.append(f"{' / '.join(means):>26}")
        print(f"{group:24}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--csv", nargs="*", default=[], metavar="FILE:LABEL", help="more tables")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/audit_tables.jsonl"))
    options = parser.parse_args()
    source = {Path(name.rpartition(":")[0]).stem + ":" + name.rpartition(":")[2]: name for name in options.csv}
    tables = ["breast cancer", *BENCH, *source]
    cells = [
        {"table": table, "noise": noise, "seed": seed}
        for seed in range(options.seeds)
        for noise in NOISES
        for table in tables
    ]
    for _ in add_lines(
        options.out,
        cells,
        lambda cell: one(source.get(cell["table"], cell["table"]), cell["noise"], cell["seed"], options.data),
    ):
        pass
    results = read_lines(options.out)
    for key in ("table", "noise"):
        report(results, key)
    report([{**result, "all": "all"} for result in results], "all")


if __name__ == "__main__":
    main()
