import math

import numpy as np
import pytest
from sklearn import metrics

from emphasis.comparison import CONFIDENCE, evaluate, verdict
from emphasis.scores import METRICS, Held, recall, reliability


def predictions(classes, rows=400, seed=0, skill=1.0):
    """Given classes, probabilities with ties, and weights, some of them 0."""
    rng = np.random.default_rng(seed)
    given = rng.integers(classes, size=rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), given] += skill
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).round(2) + 1e-3
    return given, p / p.sum(1, keepdims=True), rng.uniform(0.0, 2.0, rows) * (rng.random(rows) > 0.1)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_scores_are_those_of_scikit_learn(classes):
    given, p, weights = predictions(classes)
    held, predicted = Held.of(given, p, weights), p.argmax(1)
    several = {"multi_class": "ovr", "average": "macro"} if classes > 2 else {}
    expected = {
        "accuracy": metrics.accuracy_score(given, predicted, sample_weight=weights),
        "balanced_accuracy": metrics.balanced_accuracy_score(given, predicted, sample_weight=weights),
        "macro_f1": metrics.f1_score(given, predicted, average="macro", sample_weight=weights),
        "auc": metrics.roc_auc_score(given, p if classes > 2 else p[:, 1], sample_weight=weights, **several),
        "log_loss": metrics.log_loss(given, p, sample_weight=weights),
    }
    for name, value in expected.items():
        assert METRICS[name].score(held)[0] == pytest.approx(value, abs=1e-12), name
    np.testing.assert_allclose(
        recall(held), metrics.recall_score(given, predicted, average=None, sample_weight=weights)
    )
    bins = reliability(held)
    error = sum(part["share"] * abs(part["accuracy"] - part["confidence"]) for part in bins)
    assert METRICS["ece"].score(held)[0] == pytest.approx(error)
    assert sum(part["share"] for part in bins) == pytest.approx(1.0)
    assert sum(part["share"] * part["accuracy"] for part in bins) == pytest.approx(expected["accuracy"])


@pytest.mark.parametrize("name", METRICS)
def test_influences_are_derivatives_with_respect_to_the_weight_of_a_row(name):
    given, p, weights = predictions(4)
    held = Held.of(given, p, weights)
    value, influence = METRICS[name].score(held)
    assert held.weights @ influence == pytest.approx(0.0, abs=1e-12)
    for row in (0, 7, 123):
        more = held.weights.copy()
        more[row] += 1e-7
        slope = (METRICS[name].score(Held.of(given, p, more))[0] - value) / 1e-7
        assert slope == pytest.approx(influence[row], abs=1e-5)


def test_intervals_cover_the_true_difference_as_often_as_they_say():
    """Two methods, of which one adds noise to the logits of the other; the truth is that of 200,000 rows."""

    def pair(rows, seed):
        rng = np.random.default_rng(seed)
        given = (rng.random(rows) > 0.8).astype(int)
        logits = rng.normal(size=(rows, 2))
        logits[np.arange(rows), given] += 1.2
        other = logits + 0.7 * rng.normal(size=logits.shape)
        return given, {
            name: np.exp(z) / np.exp(z).sum(1, keepdims=True) for name, z in (("ours", other), ("base", logits))
        }

    def difference(rows, seed):
        given, p = pair(rows, seed)
        return evaluate(given, p, ("no", "yes"), baseline="base")["difference"]

    truth = difference(200_000, 0)
    draws = [difference(500, seed) for seed in range(1, 301)]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss"):
        covered = np.mean([draw[name]["low"] <= truth[name]["value"] <= draw[name]["high"] for draw in draws])
        assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / len(draws)), name


def test_a_rare_class_that_is_lost_is_said_although_accuracy_is_the_same():
    """Of 1,000 rows 50 are rare: one method finds 40 of them and gives as many false alarms, the other none."""
    given = np.r_[np.zeros(950, int), np.ones(50, int)]
    finds = np.r_[np.ones(40), np.zeros(910), np.ones(40), np.zeros(10)]
    sure = np.where(finds == 1, 0.6, 0.02)
    p = {"ours": np.c_[np.full(1000, 0.9), np.full(1000, 0.1)], "base": np.c_[1 - sure, sure]}
    found = evaluate(given, p, ("common", "rare"), baseline="base", fold=np.arange(1000) % 5)
    assert found["difference"]["accuracy"]["value"] == 0.0
    assert found["difference"]["accuracy"]["result"] == "unclear"
    assert found["difference"]["balanced_accuracy"]["result"] == "worse"
    assert found["recall_difference"]["rare"]["result"] == "worse"
    said = found["verdict"]
    assert said["result"] == "mixed"  # recall of the common class is better
    assert any("recall of 'rare'" in warning and "-80.0 points" in warning for warning in said["warnings"])
    same = evaluate(given, {"ours": p["base"], "base": p["base"]}, ("common", "rare"), baseline="base")
    assert same["verdict"] == {
        "result": "unclear",
        "headline": "No clear difference from cross-entropy in any score: either will do for these labels.",
        "warnings": [],
    }
    better = evaluate(given, {"ours": p["base"], "base": p["ours"]}, ("common", "rare"), baseline="base")
    assert "balanced accuracy" in better["verdict"]["headline"]


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({}, "unclear"),
        ({"accuracy": "better"}, "better"),
        ({"auc": "worse"}, "worse"),
        ({"accuracy": "better", "ece": "worse"}, "mixed"),
        ({"accuracy": "better", "rare": "worse"}, "mixed"),
        ({"rare": "worse"}, "worse"),
        ({"rare": "better"}, "better"),
    ],
)
def test_the_headline_follows_from_all_scores(changes, result):
    part = {"value": 0.1, "low": 0.05, "high": 0.15}
    found = verdict(
        {
            "difference": {name: {**part, "result": changes.get(name, "unclear")} for name in METRICS},
            "recall_difference": {"rare": {**part, "rows": 9, "result": changes.get("rare", "unclear")}},
        }
    )
    assert found["result"] == result
    assert len(found["warnings"]) == sum(judged == "worse" for judged in changes.values())
    assert ("--weighting CCE" in found["headline"]) == (result in ("worse", "mixed"))


def test_few_rows_of_a_class_are_no_proof():
    given = np.r_[np.zeros(98, int), 1, 1]
    p = np.c_[np.full(100, 0.9), np.full(100, 0.1)]
    q = p.copy()
    q[98:] = [0.1, 0.9]  # the only two rows of a class are all right with one method and all wrong with the other
    found = evaluate(given, {"ours": p, "base": q}, ("a", "b"), baseline="base")
    assert found["recall_difference"]["b"]["value"] == -1.0
    assert found["recall_difference"]["b"]["result"] == "unclear"


def test_without_a_baseline_there_is_no_verdict_and_classes_without_weight_count_for_nothing():
    given, p, _ = predictions(3)
    weights = (given < 2).astype(float)
    found = evaluate(given, {"ours": p}, "abc", baseline="base", weights=weights)
    assert set(found) == {"rows", "methods", "recall", "reliability"}
    assert math.isnan(found["recall"]["ours"]["c"])
    values = {name: score["value"] for name, score in found["methods"]["ours"].items()}
    assert all(math.isfinite(value) for value in values.values())
    assert CONFIDENCE == 0.95
