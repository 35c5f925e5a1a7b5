"""Which loss to take by default: never worse than cross-entropy, better where labels are wrong, for 2 to 150 classes.

    python benchmarks/defaults.py --data DIR [PART ...] [--seeds 5] [--tasks digits imdb] [--noises "0 %" "30 % pair"]
    python benchmarks/defaults.py --report

Needs the extras `experiments` and `sklearn`. One core: perceptrons about 45 minutes, images about 15, dynamics one.

- perceptrons: D-64-C on digits, wine quality (5 imbalanced classes), MNIST (64 principal components of 4,000 images),
  its eights against the rest (10 % of the images), IMDB (4,000 texts) and clinc150 (150 classes, 6,000 texts), texts as
  tf-idf reduced by SVD to 100 and 200 numbers; labels 0, 20, 40 and 60 % symmetric (not 60 % of two classes) and 30 %
  pair flips. Batches of 128, 20 epochs (digits and wine quality: 30). Three regimes: SGD with momentum 0.9 and cosine
  decay at each rate of a grid, AdamW at 1e-3, and SGD at a constant 0.1, which is too high on purpose.
- candidates: the forms that the default is chosen from, on the same.
- warm-up: the best of them after a fifth of the steps with cross-entropy, on the same.
- further: other factors of the exponent, on the same.
- blends: mixtures with cross-entropy, by the mean p of the batch or fixed, and budgets: the sum of a batch's weights is
  that of cross-entropy, none above a cap; on the same.
- betas: DM of several beta beside GCE, which is its limit, at 40 % and each rate of the grid.
- images: three convolutions, with and without batch norm, on 5,000 images of 16 x 16 pixels of CIFAR-10, CIFAR-10 with
  human labels (CIFAR-10N, "worse"), Vehicles-10 and CIFAR-100, at one rate. Scaled.
- dynamics: the mean p of clean and of wrongly labeled training examples over the steps.

Every method of a seed sees the same labels, order and start, so differences are paired. A fifth of the training
examples is held out with its noise: by it rates are chosen, and early stopping stops. The losses are formulas of the
benchmark's own (`defaults_methods.py`), independent of the library's.

A cell that is in the results is not trained again. `--report` writes table, page and figures of what there is.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from defaults_data import NOISES, VECTORS, noises_of, task_of
from defaults_methods import BEST, MORE, Method, dm_and_gce, known_methods, methods
from defaults_perceptrons import ADAMW, CONSTANT, SGD, Stack, train
from lines import Cell, add_lines

from emphasis.experiments.runs.provenance import revision

OUT = Path(__file__).parent.parent / "results" / "defaults"
GRID = (0.01, 0.03, 0.1, 0.3)
EPOCHS = {"digits": 30, "wine quality": 30}  # others: 20
WATCHED = ("CCE", "GCE 0.7", "DM(0.5, 12)", BEST)
PARTS = ("perceptrons", "candidates", "warm-up", "further", "blends", "betas", "images", "dynamics")


def perceptron_cells(options: argparse.Namespace) -> Iterator[Cell]:
    for seed, task in product(range(options.seeds), options.tasks):
        for noise in noises_of(task):
            if noise in options.noises:
                yield {"task": task, "noise": noise, "seed": seed}


def train_perceptrons(cell: Cell, root: Path, some: Callable[[], list[Method]] = known_methods) -> dict[str, Any]:
    """Train every method at every rate in every regime; return the scores by "method|regime|rate"."""
    task, noise, seed = task_of(cell["task"], root), cell["noise"], cell["seed"]
    found: dict[str, Any] = {}
    for each in ([*((SGD, rate) for rate in GRID), (CONSTANT, 0.1)], [(ADAMW, 1e-3)]):
        found |= train(task, noise, seed, Stack(some(), each, task, seed), EPOCHS.get(cell["task"], 20))
    return {"networks": found}


def train_betas(cell: Cell, root: Path) -> dict[str, Any]:
    """Train DM of several beta beside GCE, which is its limit at beta 0, at every rate."""
    task, noise, seed = task_of(cell["task"], root), cell["noise"], cell["seed"]
    stack = Stack(dm_and_gce(), [(SGD, rate) for rate in GRID], task, seed)
    return {"networks": train(task, noise, seed, stack, EPOCHS.get(cell["task"], 20))}


def dynamics_cells(tasks: list[str], seeds: int) -> Iterator[Cell]:
    for task, seed in product([task for task in ("digits", "clinc150") if task in tasks], range(seeds)):
        yield {"task": task, "noise": "40 % symmetric", "seed": seed}


def watch(cell: Cell, root: Path) -> dict[str, Any]:
    task = task_of(cell["task"], root)
    some = [method for method in methods() if method.name in WATCHED]
    stack = Stack(some, [(SGD, 0.1)], task, cell["seed"])
    return train(task, cell["noise"], cell["seed"], stack, EPOCHS.get(cell["task"], 20), watch=True)


def run(
    name: str, cells: list[Cell], work: Callable[[Cell, Path], dict[str, Any]], options: argparse.Namespace
) -> None:
    """Add a line to `name`.jsonl for every cell that has none."""
    about = {
        "revision": revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": version("scikit-learn"),
        "machine": platform.machine(),
    }

    def compute(cell: Cell) -> dict[str, Any]:
        start = time.perf_counter()
        result = work(cell, options.data)
        return {**result, "seconds": round(time.perf_counter() - start, 1), **about}

    for _ in add_lines(options.out / f"{name}.jsonl", cells, compute):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all, unless given")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figures", type=Path, default=OUT.parents[1] / "docs" / "images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", default=list(VECTORS), choices=list(VECTORS))
    parser.add_argument("--noises", nargs="+", default=list(NOISES), choices=NOISES)
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    options.out.mkdir(parents=True, exist_ok=True)
    parts = () if options.report else options.parts or PARTS
    cells = list(perceptron_cells(options))
    if "perceptrons" in parts:
        run("perceptrons", cells, train_perceptrons, options)
    for name, some in MORE.items():
        if name.replace("_", "-") in parts:
            run(name, cells, partial(train_perceptrons, some=some), options)
    if "dynamics" in parts:
        run("dynamics", list(dynamics_cells(options.tasks, options.seeds)), watch, options)
    if "betas" in parts:
        run("betas", [cell for cell in cells if "40" in cell["noise"]], train_betas, options)
    if "images" in parts:
        from defaults_images import image_cells, train_images

        run("images", list(image_cells(options.seeds)), train_images, options)
    from defaults_report import write_report

    write_report(options.out, options.figures)


if __name__ == "__main__":
    main()
