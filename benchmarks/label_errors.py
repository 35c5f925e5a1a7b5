"""Label errors that people have verified: `emphasis audit` beside confident learning, on three well-known test sets.

Of MNIST, CIFAR-10 and CIFAR-100 (10,000 test images each), five people were asked about every label that a model had
doubted (C. Northcutt, A. Athalye, J. Mueller, "Pervasive Label Errors in Test Sets", NeurIPS 2021). A label counts as
wrong here if fewer than three of the five chose it. The test images are written as folders, and audited as a user's:

    audit                     `emphasis audit FOLDER`, all defaults: one network on all labels, the mean margin
    confident, equal          five networks of cross-entropy, each on four fifths and for a fifth of the audit's steps,
                              which predict the rest: as much computation as the audit
    confident, five times     the same with all of the audit's steps for each network
    published                 the cross-validated probabilities that the authors published (not for CIFAR-100)

Predictions are ranked by p of the label ("self-confidence"), by p of the label less the largest other p ("normalized
margin"), by confident learning (labels that it finds first, then the others, each by self-confidence) and by the score
of `emphasis.audit(labels, probabilities)`. All networks have the architecture, the steps and the learning rate of the
audit; the rate is chosen once for each data set, by held-out labels and cross-entropy.

The labels that people looked at were chosen by confident learning with large pretrained networks, so that errors which
it does not find count as right: that favors rankings like it. "checked" therefore has only the labels that people saw.

    python benchmarks/label_errors.py --data DATA [--datasets mnist] [--seeds 3]      # resumable, network by network

About 55 CPU minutes in all. Writes results/label_errors/results.json and its figure; seeds that are not finished are
left out, and n says how many are.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import lzma
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

import emphasis
from emphasis.diagnostics.plots.canvas import new_figure, png
from emphasis.diagnostics.plots.palette import COLORS
from emphasis.experiments.runs.context import Printer, RunContext
from emphasis.experiments.runs.provenance import revision
from emphasis.experiments.runs.runner import run
from emphasis.experiments.studies.audit import audit_recipe, read_audit
from emphasis.experiments.studies.image_training import NetworkTrainer
from emphasis.experiments.studies.own_data import recipe_of
from emphasis.experiments.studies.rates import with_best_rate
from emphasis.files import replacing, write_text
from emphasis.weighting import CCE, DEFAULT_WEIGHTING

Floats = NDArray[np.float64]
DATASETS = ("mnist", "cifar10", "cifar100")
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budgets", nargs="+", choices=("equal", "five times"), default=("equal", "five times"))
    parser.add_argument("--runs", type=Path, default=Path("runs/label_errors"))
    parser.add_argument("--out", type=Path, default=Path("results/label_errors"))
    options = parser.parse_args()
    context = RunContext(threads=options.threads)
    report(options)  # what there is already, and the published probabilities
    for seed in range(options.seeds):
        for name in options.datasets:
            for _ in train(options, name, seed, context):
                report(options)


def train(options: argparse.Namespace, name: str, seed: int, context: RunContext) -> Iterator[None]:
    """Train the networks of a data set and a seed, and yield after each method."""
    folder = options.runs / name
    images = folder / name
    if not images.is_dir():
        write_images(options.data, name, images)
    recipe, split = audit_recipe(recipe_of(str(images), {}), DEFAULT_WEIGHTING, context)
    recipe = with_best_rate(recipe, split, folder / "rates", context, Printer())
    # Networks of all seeds share a folder of runs, which holds those of the seeds so far.
    recipe = dataclasses.replace(recipe, seeds=seed + 1)
    row = np.array([int(Path(source).stem) for source in split.sources])
    file = folder / f"audit-{seed}.npz"
    if not file.is_file():
        rows = run(recipe, folder / "audit", context, Printer())
        audit = read_audit(recipe, split, folder / "audit", seed)
        score = np.empty(len(row))
        score[row] = audit.suspects.score
        suspect = np.empty(len(row), bool)
        suspect[row] = audit.suspects.suspect
        save(
            file,
            score=score,
            suspect=suspect,
            steps=next(recipe.cells()).solver.iterations,
            seconds=rows[-1]["seconds"],
        )
    yield
    cell = dataclasses.replace(next(recipe.cells()), seed=seed)
    for budget in options.budgets:
        steps = cell.solver.iterations // (FOLDS if budget == "equal" else 1)
        file = folder / f"confident-{budget.replace(' ', '-')}-{seed}.npz"
        if file.is_file():
            continue
        trainer = NetworkTrainer(
            split,
            dataclasses.replace(cell, solver=dataclasses.replace(cell.solver, iterations=steps)),
            context,
            lambda *_: None,
        )
        p = np.empty((len(row), split.num_classes))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(row, split.train_labels)
        for number, (rest, held) in enumerate(folds):
            part = file.with_suffix(f".{number}.npy")
            if not part.is_file():
                print(f"{name}, seed {seed}, confident learning, {budget}: network {number + 1} of {FOLDS}", flush=True)
                with replacing(part) as partial, partial.open("wb") as stream:
                    np.save(stream, trainer(rest, CCE(), "").predict(held))
            p[row[held]] = np.load(part)
        save(file, p=p, steps=steps * FOLDS)
        yield


def save(file: Path, **arrays: Any) -> None:
    with replacing(file) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def write_images(data: Path, name: str, folder: Path) -> None:
    """Write the test images into a folder for each class, called like their rows."""
    if name == "mnist":
        content = np.frombuffer(lzma.decompress((data / "mnist.bin.xz").read_bytes()), np.uint8)
        pixels, labels = content[: 70000 * 784].reshape(70000, 28, 28)[60000:], content[70000 * 784 :][60000:]
        names = [str(digit) for digit in range(10)]
    else:
        arrays = np.load(data / f"{name}_test.npz")
        strips = [np.asarray(Image.open(io.BytesIO(arrays[k].tobytes()))) for k in sorted(arrays.files) if "strip" in k]
        pixels = np.concatenate([strip.reshape(-1, 32, 32, 3) for strip in strips])
        labels = arrays["label" if name == "cifar10" else "fine"]
        names = json.loads((data / "cifar_classes.json").read_text())[
            {"cifar10": name, "cifar100": "cifar100_fine"}[name]
        ]
    temporary = folder.with_name(f"{name}.partial")
    for row, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        file = temporary / f"{label:02}-{names[label]}" / f"{row:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file, compress_level=1)
    temporary.rename(folder)


def verified(data: Path, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the labels, which of them people looked at, and which are wrong, each (10,000,)."""
    folder = data / "label_errors"
    labels = np.load(folder / f"{name}_test_set_original_labels.npy").astype(np.int64)
    checked, wrong = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    for entry in json.loads((folder / f"{name}_mturk.json").read_text()):
        checked[entry["id"]] = True
        wrong[entry["id"]] = entry["mturk"]["given"] < 3
    return labels, checked, wrong


def rankings(labels: NDArray[np.int64], p: Floats) -> dict[str, Floats]:
    """Return the suspicion of each label by out-of-sample probabilities (N, C), in four ways.

    The first three are those of cleanlab 2.9.0: `get_label_quality_scores` with the methods "self_confidence" and
    "normalized_margin", and `find_label_issues` with the filter "confident_learning". On the published probabilities of
    MNIST and CIFAR-10 the first 500 labels and all issues are the same.
    """
    rows = np.arange(len(labels))
    own = p[rows, labels]
    others = p.copy()
    others[rows, labels] = -np.inf
    result = emphasis.audit(labels, p / p.sum(1, keepdims=True))
    return {
        "self-confidence": -own,
        "normalized margin": others.max(1) - own,
        "confident learning": confident(labels, p) + (1.0 - own),
        "emphasis.audit": -result.suspects.score,
    }


def confident(labels: NDArray[np.int64], p: Floats) -> Floats:
    """Return 1.0 for labels that are off the diagonal of the confident joint, 0.0 for others.

    An example is counted as class k if its p of k is at least the mean p of k among examples labeled k, and the largest
    of such p (C. Northcutt et al., "Confident Learning", JAIR 2021, Eq. 1 and 2).
    """
    classes = p.shape[1]
    thresholds = np.array([p[labels == k, k].mean() for k in range(classes)])
    above = np.where(p >= thresholds - 1e-6, p, 0.0)
    counted = np.where(above.max(1) > 0.0, above.argmax(1), labels)
    return (counted != labels).astype(float)


def scores(suspicion: Floats, checked: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> dict[str, float]:
    """Return how well a ranking finds the wrong labels, among all labels and among those that people looked at."""
    first = np.argsort(-suspicion, kind="stable")[: wrong.sum()]
    return {
        "auroc": float(roc_auc_score(wrong, suspicion)),
        "average_precision": float(average_precision_score(wrong, suspicion)),
        "precision_at_errors": float(wrong[first].mean()),
        "checked_auroc": float(roc_auc_score(wrong[checked], suspicion[checked])),
        "checked_average_precision": float(average_precision_score(wrong[checked], suspicion[checked])),
    }


def report(options: argparse.Namespace) -> None:
    """Write the results of all networks so far, with mean and standard deviation over seeds, and the figure."""
    found: dict[str, Any] = {}
    for name in DATASETS:
        labels, checked, wrong = verified(options.data, name)
        parts: dict[str, list[dict[str, float]]] = {}
        published = options.data / "label_errors" / f"{name}_test_set_pyx.npy"
        if published.is_file():
            for ranking, suspicion in rankings(labels, np.load(published).astype(np.float64)).items():
                parts[f"published, {ranking}"] = [scores(suspicion, checked, wrong)]
        for seed in range(options.seeds):
            file = options.runs / name / f"audit-{seed}.npz"
            if file.is_file():
                parts.setdefault("audit", []).append(scores(-np.load(file)["score"], checked, wrong))
            for budget in ("equal", "five times"):
                file = options.runs / name / f"confident-{budget.replace(' ', '-')}-{seed}.npz"
                if file.is_file():
                    for ranking, suspicion in rankings(labels, np.load(file)["p"]).items():
                        key = f"confident, {budget}, {ranking}"
                        parts.setdefault(key, []).append(scores(suspicion, checked, wrong))
        found[name] = {
            "labels": len(labels),
            "checked": int(checked.sum()),
            "wrong": int(wrong.sum()),
            "methods": {method: summary(values) for method, values in parts.items()},
        }
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"revision": revision(), "seeds": options.seeds, "datasets": found}
    write_text(options.out / "results.json", json.dumps(content, indent=1) + "\n")
    (options.out / "label_errors.png").write_bytes(figure(found))


def summary(values: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "n": len(values),
        **{
            key: {
                "mean": statistics.mean(value[key] for value in values),
                "std": statistics.stdev(value[key] for value in values) if len(values) > 1 else None,
                "values": [value[key] for value in values],
            }
            for key in values[0]
        },
    }


def figure(found: Mapping[str, Any]) -> bytes:
    """Return bars of the average precision among all labels: a panel for each data set, a row for each method."""
    picture = new_figure(9.6, 3.6)
    axes: Any = picture.subplots(1, len(DATASETS), sharey=True)
    rows = {
        "audit": "audit",
        **{
            f"confident, {budget}, {ranking}": f"{ranking}, {budget}"
            for budget in ("equal", "five times")
            for ranking in ("confident learning", "normalized margin")
        },
        "published, confident learning": "published p, confident learning",
        "published, emphasis.audit": "published p, emphasis.audit",
    }
    for axis, name in zip(axes, DATASETS, strict=True):
        for row, method in enumerate(rows):
            if method in found[name]["methods"]:
                value = found[name]["methods"][method]["average_precision"]
                color = COLORS[1] if method.endswith("audit") else COLORS[0]
                axis.barh(row, value["mean"], xerr=value["std"] or 0.0, color=color)
        axis.set(title=f"{name}: {found[name]['wrong']} errors", xlabel="average precision")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), rows.values())
    axes[0].invert_yaxis()
    return png(picture)


if __name__ == "__main__":
    main()
