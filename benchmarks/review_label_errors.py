"""How many label errors that people verified the first 1 % of a review's order holds: MNIST and CIFAR-10 test sets.

The labels are ranked by the published cross-validated probabilities of C. Northcutt et al. (NeurIPS 2021), as
`emphasis audit --probabilities` does. An error is an example with fewer than three of five votes for the given label.
Examples that no model doubted were shown to nobody and count as right, so the counts are lower bounds.

    python benchmarks/review_label_errors.py --data DATA      # a minute on one core

Writes results/review_label_errors.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

import emphasis
from emphasis.datasets import load
from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text
from emphasis.review.examples import narrow_features
from emphasis.review.order import LearnedOrder
from emphasis.review.session import RELEARN_EVERY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/review_label_errors.json"))
    options = parser.parse_args()
    report: dict[str, object] = {"revision": revision()}
    for name in ("mnist", "cifar10"):
        report[name] = counts(options.data, name)
        print(name, report[name])
    write_text(options.out, json.dumps(report, indent=1) + "\n")


def counts(data: Path, name: str) -> dict[str, object]:
    """Return how many errors the first 1 % of each order holds."""
    folder = data / "label_errors"
    labels = np.load(folder / f"{name}_test_set_original_labels.npy").astype(np.int64)
    p = np.load(folder / f"{name}_test_set_pyx.npy").astype(np.float64)
    p /= p.sum(1, keepdims=True)
    votes = json.loads((folder / f"{name}_mturk.json").read_text())
    wrong = np.zeros(len(labels), dtype=bool)
    for entry in votes:
        wrong[int(entry["id"])] = int(entry["mturk"]["given"]) < 3
    images = load(name, data).test_inputs.reshape(len(labels), -1) / 255.0
    features = narrow_features(PCA(64, random_state=0).fit_transform(images))
    audit = emphasis.audit(labels, p)
    examples = dataclasses.replace(audit.to_examples(), features=features)
    budget = len(labels) // 100
    own = p[np.arange(len(labels)), labels]
    others = p.copy()
    others[np.arange(len(labels)), labels] = 0.0
    orders = {
        "audit (suspects of confident learning, by margin)": examples.order[:budget],
        "probability of the label": np.argsort(own, kind="stable")[:budget],
        "normalized margin": np.argsort(own - others.max(1), kind="stable")[:budget],
        "learned from the answers": learned(LearnedOrder(examples), wrong, budget),
    }
    found = {order: int(wrong[chosen].sum()) for order, chosen in orders.items()}
    return {
        "examples": len(labels),
        "verified_errors": int(wrong.sum()),
        "shown_to_people": len(votes),
        "budget": budget,
        "found": found,
    }


def learned(order: LearnedOrder, wrong: np.ndarray, budget: int) -> np.ndarray:
    """Return the examples that a review in the learned order looks at."""
    suspicion, answers = order.static(), {}
    for number in range(budget):
        if number and number % RELEARN_EVERY == 0 and order.can_learn(answers):
            suspicion = order.probabilities(answers)
        rest = suspicion.copy()
        rest[list(answers)] = -1.0
        index = int(rest.argmax())
        answers[index] = bool(wrong[index])
    return np.array(list(answers))


if __name__ == "__main__":
    main()
