"""The whole road: a folder of 2,000 images with 10 % wrong labels, audit, 30 minutes of review, training again.

The images are 2,000 of MNIST's training set, as PNG files in a folder for each class; 1,000 of its test set judge. The
reviewer is simulated: the true labels, 4 seconds a decision, so 450 decisions in the order of `emphasis review`. Then
a small network is trained on the labels before and after the review, with cross-entropy and with the default weighting,
at the learning rate that the audit has chosen by the data.

    python benchmarks/review_road.py --data DATA [--seeds 3]

Resumable: one line of results/review_road.jsonl for each seed. One core. Needs the extras `experiments` and `review`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from lines import add_lines, read_lines
from PIL import Image

import emphasis
from emphasis.corruption import symmetric
from emphasis.datasets import load
from emphasis.experiments.recipes.load import recipe_from_tables
from emphasis.experiments.runs.provenance import revision
from emphasis.experiments.runs.reviewed_labels import labels_settings
from emphasis.experiments.runs.store import stored_recipe
from emphasis.review.decisions import DECISIONS, DecisionLog
from emphasis.review.examples import read_examples
from emphasis.review.session import ReviewSession
from emphasis.review.views import views_of
from emphasis.weighting import DEFAULT_WEIGHTING

IMAGES, TESTED, RATE, DECIDED = 2000, 1000, 0.1, 30 * 60 // 4
STEPS = 500


def write_images(data: Path, folder: Path, seed: int) -> dict[str, str]:
    """Write the images, and return the true class of each training file."""
    split = load("mnist", data)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(split.train_labels))[:IMAGES]
    true = split.train_labels[chosen]
    given = symmetric(true, RATE, num_classes=10, seed=seed).labels
    truth = {}
    for number, (row, label) in enumerate(zip(chosen, given, strict=True)):
        path = folder / "train" / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(split.train_inputs[row], path)
        truth[path.relative_to(folder).as_posix()] = str(true[number])
    for number in range(TESTED):
        path = folder / "test" / str(split.test_labels[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(split.test_inputs[number], path)
    return truth


def _save(pixels: Any, path: Path) -> None:
    values = np.asarray(pixels)
    gray = values.reshape(28, 28) if values.dtype == np.uint8 else (255 * values).astype(np.uint8).reshape(28, 28)
    Image.fromarray(gray).save(path)


def review(folder: Path, truth: dict[str, str]) -> dict[str, Any]:
    """Review the audit in a folder with the true labels, and return what the page says in the end."""
    examples = read_examples(folder)
    session = ReviewSession(examples, views_of(examples), DecisionLog(folder / DECISIONS))
    for _ in range(DECIDED):
        index = session.next_example("simulated")
        assert index is not None
        true = truth[examples.keys[index]]
        given, suggested = (examples.class_names[c] for c in (examples.labels[index], examples.suggested[index]))
        if true in (given, suggested):
            session.decide("simulated", [index], "keep" if true == given else "suggestion")
        else:
            session.decide("simulated", [index], "other", examples.class_names.index(true))
        session.wait_for_order()
    return session.summary()


def audit_review_and_train(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.runs / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.process_time()
    truth = write_images(options.data, folder / "photos", seed)
    audit = folder / "audit"
    emphasis.audit(folder / "photos", folder=audit, size=28, channels=1, iterations=STEPS, accelerator="cpu")
    seconds = {"audit": time.process_time() - began}
    rate = next(stored_recipe(audit).cells()).solver.learning_rate
    summary = review(audit, truth)
    tables = {
        "name": "road",
        "title": "Review",
        "question": "",
        "source": "",
        "cost": "",
        "choices": "",
        "baseline": "cross-entropy",
        "dataset": {
            "name": "image-folder",
            "options": {"folder": str((folder / "photos").resolve()), "size": 28, "channels": 1},
        },
        "network": {"name": "small-cnn", "options": {"widths": [16, 32, 64]}},
        "solver": {
            "iterations": STEPS,
            "batch_size": 64,
            "learning_rate": rate,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": {"policy": "cosine"},
        },
        "evaluation": {"every": STEPS},
        "methods": [
            {"name": "cross-entropy", "weighting": {"family": "CCE"}},
            {"name": "robust", "weighting": DEFAULT_WEIGHTING.to_dict()},
        ],
    }
    for part in ("dataset", "network"):
        tables[part] |= tables[part].pop("options")
    recipe = recipe_from_tables(tables).changed({"seeds": 1})
    accuracy = {}
    for name, settings in (("before", {}), ("after", labels_settings(audit))):
        rows = emphasis.run(recipe.changed(settings), folder=folder / name, accelerator="cpu", threads=1)
        accuracy |= {f"{row['method']}, {name} the review": row["final_test_accuracy"] for row in rows}
    wrong = sum(key.split("/")[1] != true for key, true in truth.items())
    return {
        "wrong": wrong,
        "decisions": DECIDED,
        "learning_rate": rate,
        "corrected": summary["corrected"],
        "remaining_estimated": summary["remaining"],
        "remaining": wrong - summary["corrected"],
        "accuracy": accuracy,
        "cpu_seconds": {**seconds, "all": time.process_time() - began},
        "revision": revision(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/review-road"))
    parser.add_argument("--out", type=Path, default=Path("results/review_road.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cells = [{"seed": seed} for seed in range(options.seeds)]
    for result in add_lines(options.out, cells, lambda cell: audit_review_and_train(cell["seed"], options)):
        print(json.dumps(result), flush=True)
    results = read_lines(options.out)
    for name in results[0]["accuracy"]:
        values = 100 * np.array([result["accuracy"][name] for result in results])
        print(f"{name:32} {values.mean():.1f} +- {values.std(ddof=1) if len(values) > 1 else float('nan'):.1f} %")


if __name__ == "__main__":
    main()
