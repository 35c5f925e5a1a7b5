"""The forms that the default was chosen from, on tasks that had no part in choosing it.

    python benchmarks/defaults_check.py --data DIR [--diamonds diamonds.csv] [--seeds 5] [--tasks cifar100 ...]

Perceptrons and regimes are those of benchmarks/defaults.py, and so are the results' lines, in results/defaults/check.
The tasks: CIFAR-100 (100 classes) and its 20 superclasses, CIFAR-10 with the labels that people gave ("worse", two in
five wrong), each as 128 principal components of 10,000 images; cut (5 classes, imbalanced) and clarity (8) of 6,000
diamonds, from the table `diamonds` of ggplot2; and breast cancer (2 classes, 569 rows) of scikit-learn.
Needs the extras `experiments`, `sklearn` and `table`. One core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from defaults import GRID, OUT, Cell, run
from defaults_data import HUMAN, Ints, Task, _standardized
from defaults_methods import MORE, Method, candidates, known_methods
from defaults_perceptrons import ADAMW, CONSTANT, SGD, Stack, train
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA

from emphasis.datasets import load

NOISES = ("0 %", "20 % symmetric", "40 % symmetric", "30 % pair")
COMPARED = (
    "CCE",
    "GCE 0.7",
    "SCE",
    "ELR",
    "calibrated warm-up",
    "Relative 0.5",
    "above prior 1",
    "doubt 0.7",
    "doubt above prior 1",
)


def _components(root: Path, name: str, labels: Callable[[Any, Ints], tuple[Ints, Ints, Ints | None]]) -> Task:
    """Return 128 principal components of 10,000 training and 5,000 test images."""
    split = load(name, root, **({"human_labels": True} if name == "cifar10" else {}))
    chosen = np.random.default_rng(0).permutation(len(split.train_labels))[:10_000]
    pca = PCA(128, random_state=0)
    x = pca.fit_transform(split.train_inputs[chosen].reshape(10_000, -1).astype(np.float32) / 255.0)
    x_test = pca.transform(split.test_inputs[:5000].reshape(5000, -1).astype(np.float32) / 255.0)
    x, x_test = _standardized(x, x_test, pixels=True)
    y, y_test, human = labels(split, chosen)
    return Task(x, y, x_test, y_test[:5000], int(y_test.max()) + 1, human)


def _fine(split: Any, chosen: Ints) -> tuple[Ints, Ints, Ints | None]:
    return split.train_labels[chosen], split.test_labels, None


def _human(split: Any, chosen: Ints) -> tuple[Ints, Ints, Ints | None]:
    return split.train_labels[chosen], split.test_labels, split.human_labels["worse_label"][chosen]


def _coarse(root: Path) -> Callable[[Any, Ints], tuple[Ints, Ints, Ints | None]]:
    train, test = (np.load(root / f"cifar100_{part}.npz")["coarse"].astype(np.int64) for part in ("train", "test"))
    return lambda _, chosen: (train[chosen], test, None)


def _diamonds(file: Path, label: str) -> Task:
    import pandas as pd

    table = pd.read_csv(file).drop(columns=["Unnamed: 0", "rownames"], errors="ignore").sample(frac=1.0, random_state=0)
    names = sorted(table[label].unique())
    y = table[label].map({name: number for number, name in enumerate(names)}).to_numpy(np.int64)
    x = pd.get_dummies(table.drop(columns=label)).to_numpy(np.float64)
    x_train, x_test = _standardized(x[:6000], x[6000:11_000])
    return Task(x_train, y[:6000], x_test, y[6000:11_000], len(names))


def _breast_cancer() -> Task:
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:400], order[400:]
    x_train, x_test = _standardized(x[train], x[test])
    return Task(x_train, y[train].astype(np.int64), x_test, y[test].astype(np.int64), 2)


def tasks_of(root: Path, diamonds: Path | None) -> dict[str, Callable[[], Task]]:
    found: dict[str, Callable[[], Task]] = {
        "breast cancer": _breast_cancer,
        "cifar100": lambda: _components(root, "cifar100", _fine),
        "cifar100 coarse": lambda: _components(root, "cifar100", _coarse(root)),
        "cifar10n": lambda: _components(root, "cifar10", _human),
    }
    if diamonds is not None:
        found |= {f"diamonds {label}": partial(_diamonds, diamonds, label) for label in ("cut", "clarity")}
    return {name: cache(make) for name, make in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--diamonds", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    tasks = tasks_of(options.data, options.diamonds)
    compared = [method for method in (*known_methods(), *candidates()) if method.name in COMPARED]

    def work(cell: Cell, _: Path, methods: list[Method] = compared) -> dict[str, Any]:
        task: Task = tasks[cell["task"]]()
        found: dict[str, Any] = {}
        for each in ([*((SGD, rate) for rate in GRID), (CONSTANT, 0.1)], [(ADAMW, 1e-3)]):
            stack = Stack(methods, each, task, cell["seed"])
            found |= train(task, cell["noise"], cell["seed"], stack, 20)
        return {"networks": found}

    cells = [
        {"task": name, "noise": noise, "seed": seed}
        for seed, name in product(range(options.seeds), options.tasks or tasks)
        for noise in (("0 %", HUMAN) if name == "cifar10n" else NOISES)
    ]
    run("check", cells, work, options)
    for name, some in MORE.items():
        if name != "candidates":  # which are among those that are compared
            run(f"check_{name}", cells, partial(work, methods=some()), options)


if __name__ == "__main__":
    main()
