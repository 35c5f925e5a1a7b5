"""The commands as Python functions, and audits of labels in memory."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

import emphasis
from controls import share_of_the_way


@pytest.fixture(scope="module")
def noisy():
    """Three digits with a fifth of the labels wrong: images, labels, and which are wrong."""
    images, labels = load_digits(n_class=3, return_X_y=True)
    rng = np.random.default_rng(0)
    wrong = rng.random(len(labels)) < 0.2
    return images, np.where(wrong, (labels + rng.integers(1, 3, len(labels))) % 3, labels), wrong


@pytest.fixture(scope="module")
def probabilities(noisy):
    images, labels, _ = noisy
    model = LogisticRegression(max_iter=200)
    return cross_val_predict(model, images / 16, labels, cv=5, method="predict_proba")


def test_importing_the_package_imports_nothing_heavy_and_its_functions_neither():
    program = "import sys, emphasis; emphasis.audit, emphasis.run; from emphasis import *; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "sklearn", "pandas", "matplotlib", "filelock", "rich"}


def test_labels_in_memory_are_ranked_with_numpy_alone():
    program = (
        "import sys, emphasis; result = emphasis.audit([0, 0, 1, 1, 1], [[.9, .1], [.8, .2], [.1, .9], [.3, .7], "
        "[.9, .1]]); print(result.suspects.order[0]); print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, loaded = done.stdout.splitlines()
    assert first == "4"
    assert not {name.partition(".")[0] for name in loaded.split()} & {"torch", "sklearn", "pandas", "filelock"}


def test_wrong_labels_are_found_by_cross_validated_probabilities(noisy, probabilities):
    _, labels, wrong = noisy
    suspects = emphasis.audit(labels, probabilities).suspects
    assert share_of_the_way(roc_auc_score(wrong, -suspects.score), 0.5) > 0.8
    assert suspects.noise_rate == pytest.approx(wrong.mean(), abs=0.05)
    assert share_of_the_way(wrong[suspects.suspect].mean(), wrong.mean()) > 0.7
    assert (np.diff(suspects.score[suspects.order]) >= 0).all()
    assert (suspects.suggested[suspects.suspect] != labels[suspects.suspect]).all()


def test_logits_rank_as_their_probabilities_and_where_those_round_too(noisy, probabilities):
    labels = noisy[1]
    logits = np.log(probabilities) + np.random.default_rng(1).normal(size=(len(labels), 1))
    ours, theirs = emphasis.audit(labels, logits=logits).suspects, emphasis.audit(labels, probabilities).suspects
    np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(ours.suspect, theirs.suspect)
    score = emphasis.audit([0, 1, 0], logits=[[800.0, 0.0], [800.0, 0.0], [900.0, 0.0]]).suspects.score
    np.testing.assert_allclose(score, [800.0, -800.0, 900.0])


def test_suspects_are_the_off_diagonal_of_the_confident_joint():
    """The definition of C. Northcutt et al. 2021, example by example."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 300)
    labels = np.array([rng.choice(4, p=row) for row in p])
    thresholds = [p[labels == c, c].mean() for c in range(4)]
    expected = []
    for row, label in zip(p, labels, strict=True):
        candidates = [c for c in range(4) if row[c] >= thresholds[c]]
        expected.append(bool(candidates) and max(candidates, key=lambda c: row[c]) != label)
    np.testing.assert_array_equal(emphasis.audit(labels, p).suspects.suspect, expected)


def test_names_of_classes_are_kept(noisy, probabilities):
    labels = np.array(["zero", "one", "two"])[noisy[1]]
    order = [1, 2, 0]  # "one", "two", "zero"
    by_name = emphasis.audit(pd.Series(labels), probabilities[:, order])
    assert by_name.class_names == ("one", "two", "zero")
    numbered = emphasis.audit(noisy[1], probabilities, class_names=["zero", "one", "two"])
    assert by_name.to_frame().equals(numbered.to_frame())
    assert set(by_name.to_frame()["given"]) == {"zero", "one", "two"}


def test_features_are_cross_validated(noisy):
    images, labels, wrong = noisy
    result = emphasis.audit(labels, features=images, cv_folds=3)
    assert share_of_the_way(roc_auc_score(wrong, -result.suspects.score), 0.5) > 0.9
    assert result.suspects.noise_rate == pytest.approx(wrong.mean(), abs=0.05)
    assert "3-fold cross-validation" in result.about


def test_features_may_be_a_table_with_categories():
    rng = np.random.default_rng(0)
    color = rng.choice(["red", "green", "blue"], 300)
    labels = np.where(rng.random(300) < 0.1, rng.permutation(color), color)
    frame = pd.DataFrame({"color": color, "noise": rng.normal(size=300)})
    result = emphasis.audit(labels, features=frame, cv_folds=3)
    wrong = labels != color
    assert share_of_the_way(roc_auc_score(wrong, -result.suspects.score), 0.5) > 0.9
    assert set(result.class_names) == {"red", "green", "blue"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0, 1],), TypeError, "give one of probabilities, logits and features"),
        (([0, 1], [[0.5, 0.5]] * 2, {"logits": [[0.0, 1.0]] * 2}), TypeError, "give one of"),
        (([0, 1], [[0.5, 0.5]] * 2, {"label": "y"}), TypeError, "label is for data on disk"),
        (([0, 1], [[0.5, 0.5]] * 2, {"weighting": emphasis.DM()}), TypeError, "weighting is for training"),
        (("digits", [[0.5, 0.5]]), TypeError, "probabilities are for labels in memory"),
        (([0, 2], [[0.5, 0.5]] * 2), ValueError, "labels reach from 0 to 2, but predictions have 2 columns"),
        (([0, 1, 1], [[0.5, 0.5]] * 2), ValueError, "3 labels, but predictions for 2 examples"),
        (([0, 1], [[0.5, 0.4]] * 2), ValueError, "row 0 add up to 0.9"),
        (([0, 1], [[1.5, -0.5]] * 2), ValueError, "must be in .0, 1.* logits="),
        (([0, 1], [[np.nan, 0.5]] * 2), ValueError, "probabilities hold NaN"),
        (([0, 1], [0.5, 0.5]), ValueError, r"probabilities have shape \(2,\); use \(n, C\)"),
        ((["a", "b", None], [[0.5, 0.5]] * 3), ValueError, "none may be missing"),
        ((["a", "b"], [[0.2, 0.3, 0.5]] * 2), ValueError, "give class_names"),
        ((["a", "b"], [[0.5, 0.5]] * 2, {"class_names": ["a", "c"]}), ValueError, "'b' is not among the class_names"),
        (([], np.zeros((0, 2))), ValueError, "n >= 1"),
        (([0, 1, 1], None, {"features": [[1.0], [2.0], [3.0]]}), ValueError, "folds=5 is not allowed; use a whole"),
        (([0, 0], None, {"features": [[1.0], [2.0]]}), ValueError, "hold one class only"),
        (("nowhere.csv", None, {"label": "y"}), ValueError, "there is no table nowhere.csv"),
        (("digits", None, {"settings": {"noise.rate": 0.1}}), ValueError, "set something of network or solver"),
    ],
)
def test_arguments_that_are_not_allowed_are_named(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keywords = arguments[-1] if isinstance(arguments[-1], dict) else {}
    positional = arguments[:-1] if keywords else arguments
    if "nowhere" in str(positional[0]):
        error = FileNotFoundError
    with pytest.raises(error, match=message) as caught:
        emphasis.audit(*positional, **keywords)
    assert isinstance(caught.value, emphasis.EmphasisError)
    assert not list(tmp_path.iterdir())


def test_a_table_on_disk_is_audited_as_by_the_command(tmp_path):
    frame = load_breast_cancer(as_frame=True).frame.iloc[:150]
    frame.to_csv(tmp_path / "t.csv", index=False)
    result = emphasis.audit(
        tmp_path / "t.csv",
        label="target",
        folder=tmp_path / "out",
        iterations=30,
        accelerator="cpu",
        settings={"solver.learning_rate": 0.05},
    )
    kept = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert kept["suspects"] == result.numbers["suspects"]
    assert (tmp_path / "out" / "audit.html").exists()


def test_a_recipe_is_run_and_reported(tmp_path):
    rows = emphasis.run(
        "digits",
        folder=tmp_path / "run",
        methods=["CCE"],
        accelerator="cpu",
        threads=1,
        settings={"seeds": 2, "solver.iterations": 20},
    )
    assert [(row["method"], row["seed"]) for row in rows] == [("CCE", 0), ("CCE", 1)]
    text = emphasis.report(tmp_path / "run", format="text")
    assert "CCE" in text
    assert not (tmp_path / "run" / "report.html").exists()
    written = emphasis.report(tmp_path / "run")
    assert tmp_path / "run" / "report.html" in written
    assert all(path.exists() for path in written)
    with pytest.raises(ValueError, match="format='pdf' is not allowed; use 'text'"):
        emphasis.report(tmp_path / "run", format="pdf")


def test_settings_are_searched_and_tuned(tmp_path):
    pytest.importorskip("optuna")
    found = emphasis.search(
        "digits",
        "CCE",
        vary={"solver.learning_rate": (0.01, 0.3, "log"), "normalization": ["integral", "batch"]},
        folder=tmp_path / "search",
        trials=2,
        batch=2,
        retrain=False,
        accelerator="cpu",
        threads=1,
        settings={"seeds": 1, "solver.iterations": 5},
    )
    assert {*found.best.settings} == {"solver.learning_rate", "normalization"}
    with pytest.raises(ValueError, match=r"use \(low, high\) or"):
        emphasis.search("digits", "CCE", vary={"solver.learning_rate": (0.3, 0.01)})
    tuned = emphasis.tune(
        "digits", folder=tmp_path / "tune", assumed_rate=0.4, trials=2, folds=1, iterations=5, accelerator="cpu"
    )
    assert tuned.noise_rate == 0.4
    assert (tmp_path / "tune" / "tune.html").exists()
