"""A forest's out-of-bag probabilities, and audits of tables by a network and a forest."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import emphasis
from controls import share_of_the_way
from emphasis.corruption import symmetric
from emphasis.diagnostics.suspects import find_suspects
from emphasis.experiments.studies import forest
from emphasis.experiments.studies.audit_result import BY_TRAINING_AND_FOREST
from emphasis.experiments.studies.forest import mean_over_training, out_of_bag_probabilities


def stripes(examples, seed):
    """Six columns of numbers, one of which tells three classes of unequal size apart, in stripes."""
    x = np.random.default_rng(seed).normal(size=(examples, 6)).astype(np.float32)
    return x, np.array([0, 1, 0, 2])[np.floor(2.0 * x[:, 0]).astype(np.int64) % 4]


@given(st.integers(0, 40), st.integers(2, 5), st.integers(0, 9))
@settings(max_examples=6, deadline=None)
def test_probabilities_are_positive_and_sum_to_one(examples, classes, seed):
    """Even if every tree has seen an example."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, examples)])
    p = out_of_bag_probabilities(rng.normal(size=(len(labels), 2)).astype(np.float32), labels, classes, seed=seed)
    assert p.shape == (len(labels), classes)
    assert (p > 0.0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-5)


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch):
    x, y = stripes(400, 0)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(forest, "idle_cores", lambda threads=threads: threads)
        results.append(out_of_bag_probabilities(x, y, 3, seed=1))
    assert np.array_equal(*results)


def test_a_label_is_not_predicted_from_that_of_an_equal_example():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(150, 3)), 12, axis=0).astype(np.float32)
    labels = np.repeat(rng.integers(0, 2, 150), 12)
    examples = np.arange(len(labels))
    alone, together = (
        out_of_bag_probabilities(x, labels, 2, groups)[examples, labels].mean() for groups in (None, examples // 12)
    )
    assert alone > 0.65
    assert together < 0.55


def test_the_mean_over_training_divides_the_rest_by_predictions():
    margins = [np.log(np.array([0.2, 0.6, 0.5]) / np.array([0.8, 0.4, 0.5]))] * 4
    predicted = [np.array(row) for row in ([1, 0, 2], [1, 0, 2], [2, 0, 2], [1, 0, 0])]
    mean = mean_over_training(margins, predicted, np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(mean, [[0.2, 0.6, 0.2], [0.6, 0.2, 0.2], [0.5, 0.0, 0.5]])


def test_a_forest_helps_to_find_wrong_labels_in_a_table(tmp_path):
    gains = []
    for seed in range(3):
        x, y = stripes(900, seed)
        noisy = symmetric(y, 0.15, num_classes=3, seed=seed)
        wrong = noisy.labels != y
        frame = pd.DataFrame(x, columns=list("abcdef")).assign(label=[f"class {code}" for code in noisy.labels])
        frame.to_csv(tmp_path / f"{seed}.csv", index=False)
        out = tmp_path / str(seed)
        audit = emphasis.audit(tmp_path / f"{seed}.csv", label="label", iterations=150, folder=out, accelerator="cpu")
        assert audit.method == BY_TRAINING_AND_FOREST
        assert BY_TRAINING_AND_FOREST.split(". ")[1] in (out / "audit.html").read_text().replace("&#39;", "'")
        s = audit.suspects
        np.testing.assert_allclose(s.sample_weight, 1.0 / (1.0 + np.exp(-s.score)))
        assert (np.diff(s.score[s.order]) >= 0.0).all()
        assert (s.suggested != audit.labels).all()
        predictions = [np.zeros(len(y), dtype=np.int64)] * len(audit.margins)  # which do not count for the score
        of_network = find_suspects(audit.margins, predictions, audit.labels, 3).score
        gains.append(average_precision_score(wrong, -s.score) - average_precision_score(wrong, -of_network))
        assert share_of_the_way(average_precision_score(wrong, -s.score), wrong.mean()) > 0.5
    assert min(gains) > 0.0, gains


@pytest.mark.parametrize("frame", [True, False])
def test_equal_examples_of_an_audit_in_memory_are_held_out_together(frame):
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(60, 3)), 4, axis=0)
    labels = np.repeat(rng.integers(0, 2, 60), 4)  # nothing to learn but copies
    audit = emphasis.audit(labels, features=pd.DataFrame(x, columns=list("abc")) if frame else x, cv_folds=2)
    assert np.mean(audit.suspects.sample_weight) < 0.6
