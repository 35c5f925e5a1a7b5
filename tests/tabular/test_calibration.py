import json

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV

import emphasis
from emphasis import CCE, DM
from emphasis.cli.main import main
from emphasis.datasets.errors import DamagedFileError
from emphasis.scores import METRICS, Held
from emphasis.tabular import load_model
from emphasis.tabular.calibration import Calibration, calibrate_held_out, fit_calibration
from emphasis.tabular.saved import checksum


def overconfident(rows, classes, factor=3.0, seed=0):
    """Classes, and probabilities whose logits are `factor` times the right ones."""
    rng = np.random.default_rng(seed)
    given = rng.integers(classes, size=rows)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), given] += 1.0
    p = np.exp(factor * logits)
    return given, p / p.sum(1, keepdims=True), np.arange(rows) % 5


class LogOdds(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its probabilities."""

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        scores = np.log(X) - np.log1p(-X)
        return scores[:, 1] if X.shape[1] == 2 else scores

    def predict(self, X):
        return self.classes_[X.argmax(1)]


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_scikit_learns_calibration_and_survives_json(method, classes):
    given, p, _ = overconfident(600, classes)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, 600)
    ours = fit_calibration(method, given, p, weights)
    rows = np.arange(600)
    theirs = CalibratedClassifierCV(LogOdds(), method=method, cv=[(rows, rows)], ensemble=False)
    theirs.fit(p, given, sample_weight=weights)
    # Isotonic calibration gives probabilities of 0, which ours keeps above 1 / (rows + 2).
    difference = np.abs(ours.apply(p) - theirs.predict_proba(p))
    assert difference.max() < (1e-6 if method == "sigmoid" else 0.02)
    assert difference.mean() < (1e-6 if method == "sigmoid" else 3e-3)
    assert ours.apply(p).min() > 0.0
    np.testing.assert_allclose(ours.apply(p).sum(1), 1.0)
    again = Calibration.from_dict(json.loads(json.dumps(ours.to_dict())), classes)
    np.testing.assert_array_equal(again.apply(p), ours.apply(p))


@pytest.mark.parametrize(
    ("rows", "classes", "method"), [(300, 2, "sigmoid"), (400, 3, "sigmoid"), (6000, 3, "isotonic")]
)
def test_distorted_probabilities_are_calibrated_by_the_size_of_the_data(rows, classes, method):
    given, p, fold = overconfident(rows, classes)
    weights = np.ones(rows)
    calibrated, fitted = calibrate_held_out(given, p, weights, fold)
    assert fitted.method == method
    before, after = (METRICS["ece"].score(Held.of(given, q, weights))[0] for q in (p, calibrated))
    assert after < 0.5 * before
    # A row of a fold is calibrated by the other folds: its own label does not matter.
    changed = np.where(fold == 0, (given + 1) % classes, given)
    np.testing.assert_array_equal(
        calibrate_held_out(changed, p, weights, fold)[0][fold == 0].shape, (rows // 5, classes)
    )
    others = fit_calibration(method, given[fold != 0], p[fold != 0], weights[fold != 0])
    np.testing.assert_array_equal(calibrated[fold == 0], others.apply(p[fold == 0]))


def test_probabilities_that_are_right_stay_as_they_are():
    given, p, fold = overconfident(2000, 3, factor=1.0)
    same, fitted = calibrate_held_out(given, p, np.ones(2000), fold)
    assert fitted is None
    assert same is p


def test_a_class_that_other_folds_lack_stays_as_it_is():
    given, p, fold = overconfident(400, 3)
    given = np.where(given == 2, 0, given)
    given[0] = 2
    calibrated, fitted = calibrate_held_out(given, p, np.ones(400), fold)
    assert np.isfinite(calibrated).all()
    assert fitted is None or len(fitted.curves) == 3


def test_a_fit_calibrates_saves_and_predicts_so(cancer, tmp_path):
    """Thirty deep trees at a high learning rate are far too sure of noisy labels."""
    table, _ = cancer
    path = tmp_path / "cancer.csv"
    table.to_csv(path, index=False)
    sure = ["--set", "learning_rate=1", "--set", "max_depth=8", "--set", "n_estimators=30", "--folds", "3"]
    arguments = ["fit", str(path), "--label", "class", "--weighting", "CCE", "--no-progress", *sure]
    assert main([*arguments, "--out", str(tmp_path / "calibrated")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "plain"), "--no-calibration"]) == 0
    calibrated, plain = load_model(tmp_path / "calibrated"), load_model(tmp_path / "plain")
    assert calibrated.calibration.method == "sigmoid"
    assert plain.calibration is None
    np.testing.assert_allclose(
        calibrated.predict_proba(table), calibrated.calibration.apply(plain.predict_proba(table)), atol=1e-12
    )
    scores = [json.loads((tmp_path / name / "metrics.json").read_text())["methods"] for name in ("calibrated", "plain")]
    with_it, without = (next(iter(methods.values())) for methods in scores)
    assert with_it["log_loss"]["value"] < without["log_loss"]["value"] - 0.1
    assert with_it["ece"]["value"] < without["ece"]["value"]
    assert "are calibrated (sigmoid)" in (tmp_path / "calibrated" / "report.html").read_text()

    manifest_path = tmp_path / "calibrated" / "model" / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    for wrong in (
        {"method": "sigmoid", "curves": []},
        {"method": "magic", "curves": [[1.0, 2.0]]},
        {"method": "isotonic", "curves": [[[1.0], [0.5, 0.6]]]},
        {"method": "sigmoid", "curves": [["a", 1.0]]},
        {"method": "sigmoid", "curves": [[1.0, float("nan")]]},
        [1],
    ):
        changed = manifest | {"calibration": wrong}
        manifest_path.write_text(json.dumps({**changed, "checksum": checksum(changed)}))
        with pytest.raises(DamagedFileError, match="is damaged"):
            load_model(tmp_path / "calibrated")


def test_cross_entropy_is_calibrated_by_the_same_rule(cancer, tmp_path):
    table, _ = cancer
    sure = {"learning_rate": 1, "max_depth": 8, "n_estimators": 30}
    weighting = DM(lam=0.5, beta=2, vanishing=True)
    found = emphasis.fit(table, label="class", folder=tmp_path / "fit", folds=3, settings=sure, weighting=weighting)
    assert "cross-entropy" in found.calibration
    raw = emphasis.fit(
        table, label="class", folder=tmp_path / "raw", folds=3, settings=sure, weighting=CCE(), calibrate=False
    )
    before = raw.scores["methods"]["CCE()"]["log_loss"]["value"]
    assert found.scores["methods"]["cross-entropy"]["log_loss"]["value"] < before
