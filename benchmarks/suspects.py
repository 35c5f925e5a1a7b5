"""How well wrong labels are found: `emphasis audit` beside AUM and confident learning, on the same data and networks.

Three tasks of the recipe noisy-benchmark, three seeds each, the noise of the seed. Every method trains the task's
network with the task's solver:

    audit       one network with DM(lam=0.5, beta=8): the mean margin over training
    CCE         the same of a network with cross-entropy: what the weighting is worth
    AUM         the package `aum`, one network with cross-entropy: the area under the margin until the learning rate
                first falls, or over the first half where it does not
    confident   the package `cleanlab`, five networks with cross-entropy, each on four fifths: confident learning from
                their predictions of the rest, ranked by the label's quality

    pip install cleanlab aum
    python benchmarks/suspects.py --data DATA      # about 25 minutes on two cores; resumable, a seed at a time

Writes results/suspects.json: area under the ROC curve and average precision, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.nn import functional as F

from emphasis import CCE, DM
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.context import Printer, RunContext
from emphasis.experiments.runs.data import make_task
from emphasis.experiments.runs.provenance import revision
from emphasis.experiments.runs.runner import run
from emphasis.experiments.studies.audit import audit_recipe, read_audit
from emphasis.files import write_text
from emphasis.models import build
from emphasis.models.stacked import init_like_stack
from emphasis.training.batches import Batches
from emphasis.training.optimizers import apply_schedule, make_optimizer
from emphasis.training.task import Task

TASKS = ("digits 40 %", "MNIST 60 %", "CIFAR-10N worse, scaled")
WEIGHTINGS = {"audit": DM(lam=0.5, beta=8), "CCE": CCE()}
SEEDS, FOLDS = 3, 5
Record = Callable[[int, Tensor, Tensor], None]  # iteration, places, logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/suspects"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/suspects.json"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    context = RunContext(options.data, workers=options.workers, threads=1)
    for task in TASKS:  # the audits' own networks, all seeds together
        for name, weighting in WEIGHTINGS.items():
            one, _ = audit_recipe(load_recipe("noisy-benchmark"), weighting, context, condition=task, seeds=SEEDS)
            run(one, options.runs / f"{task.split()[0]}-{name}", context, Printer())
    jobs = [(task, seed, options.data, options.runs) for task in TASKS for seed in range(SEEDS)]
    spawning = multiprocessing.get_context("spawn")  # torch has threads by now
    with ProcessPoolExecutor(options.workers, mp_context=spawning) as pool:
        done = list(pool.map(one_seed, *zip(*jobs, strict=True)))
    found: dict[str, Any] = {}
    for (task, *_), scores in zip(jobs, done, strict=True):
        for method, numbers in scores["methods"].items():
            for name, value in numbers.items():
                found.setdefault(task, {}).setdefault(method, {}).setdefault(name, []).append(value)
    report = {
        "seeds": SEEDS,
        "revisions": sorted({str(one["revision"]) for one in done}),
        "audits": {task: [numbers_of(task, seed, options) for seed in range(SEEDS)] for task in TASKS},
        "revision_of_audits": revision(),
        "tasks": {
            task: {
                method: {
                    name: {"mean": statistics.mean(v), "std": statistics.stdev(v), "seeds": v}
                    for name, v in numbers.items()
                }
                for method, numbers in methods.items()
            }
            for task, methods in found.items()
        },
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    for task, methods in report["tasks"].items():
        for method, numbers in methods.items():
            said = ", ".join(f"{k} {v['mean']:.4f} +- {v['std']:.4f}" for k, v in numbers.items())
            print(f"{task}: {method}: {said}")


def numbers_of(task: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what `emphasis audit` says of a seed: estimated noise rate, precision and recall of its suspects."""
    recipe = load_recipe("noisy-benchmark")
    context = RunContext(options.data)
    one, split = audit_recipe(recipe, WEIGHTINGS["audit"], context, condition=task, seeds=SEEDS)
    return read_audit(one, split, options.runs / f"{task.split()[0]}-audit", seed).numbers


def one_seed(task_name: str, seed: int, data: Path | None, runs: Path) -> dict[str, Any]:
    """Return, and keep in a file, each method's scores for one seed."""
    path = runs / f"{task_name.split()[0]}-{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    torch.set_num_threads(1)
    recipe = load_recipe("noisy-benchmark")
    rankings = {}
    for name, weighting in WEIGHTINGS.items():
        one, split = audit_recipe(recipe, weighting, RunContext(root=data), condition=task_name, seeds=SEEDS)
        audited = read_audit(one, split, runs / f"{task_name.split()[0]}-{name}", seed)
        rankings[name] = audited.suspects.score
        known = audited.wrong
    cell = next(cell for cell in one.cells() if cell.seed == seed)
    task = make_task(cell, split, [seed])
    wrong = task.noisy[0].numpy()
    assert np.array_equal(wrong, known)
    for name, rank in (("AUM", area_under_margin), ("confident", confident_learning)):
        rankings[name] = rank(cell, task)
    scores = {
        name: {
            "auroc": float(roc_auc_score(wrong, -score)),
            "average_precision": float(average_precision_score(wrong, -score)),
        }
        for name, score in rankings.items()
    }
    result = {"methods": scores, "revision": revision()}
    write_text(path, json.dumps(result, indent=1) + "\n")
    return result


def fit(cell: Cell, task: Task, rows: Tensor, seed: int, record: Record | None = None) -> torch.nn.Module:
    """Return the task's network, trained with cross-entropy on the examples at `rows`."""
    network = build(
        cell.network.name, tuple(task.inputs.shape[1:]), task.num_classes, seed=seed, **cell.network.options
    )
    if cell.network.name == "mlp":
        init_like_stack(network, seed)
    optimizer = make_optimizer(network.parameters(), cell.solver)
    batches = Batches([seed], len(rows), cell.solver.batch_size, torch.device("cpu"))
    for iteration in range(cell.solver.iterations):
        places = rows[batches.indices(iteration)[0]]
        logits = network(task.prepared(task.inputs[places].unsqueeze(0))[0])
        if record is not None:
            record(iteration, places, logits.detach())
        apply_schedule(optimizer, cell.solver, iteration)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, task.labels[0][places]).backward()
        optimizer.step()
    return network.eval()


def area_under_margin(cell: Cell, task: Task) -> np.ndarray[Any, Any]:
    """Return each example's AUM."""
    from aum import AUMCalculator

    falls = cell.solver.schedule.at
    until = falls[0] if falls else cell.solver.iterations // 2
    with tempfile.TemporaryDirectory() as folder:
        calculator = AUMCalculator(folder, compressed=True)

        def record(iteration: int, places: Tensor, logits: Tensor) -> None:
            if iteration < until:
                calculator.update(logits, task.labels[0][places], places.tolist())

        fit(cell, task, torch.arange(task.num_train), cell.seed, record)
        seen = calculator.counts
        return np.array([calculator.sums[i] / seen[i] if i in seen else 0.0 for i in range(task.num_train)])


@torch.no_grad()
def predictions(network: torch.nn.Module, task: Task, rows: Tensor) -> Tensor:
    """Return the probabilities of examples, (k, C)."""
    parts = [network(task.prepared(task.inputs[part].unsqueeze(0))[0]) for part in rows.split(250)]
    return torch.cat(parts).softmax(1)


def confident_learning(cell: Cell, task: Task) -> np.ndarray[Any, Any]:
    """Return each label's quality, by out-of-fold predictions."""
    from cleanlab.rank import get_label_quality_scores

    labels = task.labels[0].numpy()
    p = np.zeros((len(labels), task.num_classes))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=cell.seed)
    for train, held in folds.split(labels, labels):
        network = fit(cell, task, torch.from_numpy(train), cell.seed)
        p[held] = predictions(network, task, torch.from_numpy(held)).numpy()
    return np.asarray(get_label_quality_scores(labels, p / p.sum(1, keepdims=True)))


if __name__ == "__main__":
    main()
