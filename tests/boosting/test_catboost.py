import warnings

import numpy as np
import pytest

catboost = pytest.importorskip("catboost", reason="needs the extra catboost")

from shared_boosting import (  # noqa: E402
    DATA,
    WEIGHTS,
    check_as_the_library_itself,
    check_estimator_habits,
    check_nested_parameters,
    parts,
)

from controls import right_beyond_chance  # noqa: E402
from emphasis import CCE  # noqa: E402
from emphasis.boosting import EmphasisCatBoostClassifier  # noqa: E402

SMALL = {"iterations": 8, "learning_rate": 0.1, "verbose": 0, "thread_count": 1, "allow_writing_files": False}


@pytest.mark.parametrize("kind", [str, int, float, bool])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", DATA)
def test_cce_grows_catboosts_own_trees_and_gives_its_labels(name, weighted, kind):
    X, X_test, y, y_test = parts(name)
    if kind is bool and name == "wine":
        pytest.skip("three classes are no booleans")
    y, y_test = (np.array([f"c{k}" for k in v]) if kind is str else v.astype(kind) for v in (y, y_test))
    weight = {"sample_weight": WEIGHTS[: len(y)]} if weighted else {}
    own = catboost.CatBoostClassifier(**SMALL, eval_metric="Accuracy").fit(X, y, eval_set=(X_test, y_test), **weight)
    ours = EmphasisCatBoostClassifier(weighting=CCE(), normalization=None, **SMALL, eval_metric="Accuracy")
    ours.fit(X, y, eval_set=(X_test, y_test), **weight)
    np.testing.assert_allclose(ours.predict_proba(X_test), own.predict_proba(X_test), atol=1e-12)
    np.testing.assert_array_equal(ours.predict(X_test), own.predict(X_test))
    np.testing.assert_array_equal(ours.classes_, own.classes_)
    assert ours.tree_count_ == own.tree_count_
    for part in ("learn", "validation"):
        np.testing.assert_allclose(ours.evals_result_[part]["Accuracy"], own.evals_result_[part]["Accuracy"])


def test_it_behaves_as_an_estimator():
    check_estimator_habits(EmphasisCatBoostClassifier, **SMALL)


def test_it_takes_what_the_library_takes():
    check_as_the_library_itself(EmphasisCatBoostClassifier, catboost.CatBoostClassifier, **SMALL)


def test_parameters_of_the_weighting_are_parameters():
    check_nested_parameters(EmphasisCatBoostClassifier, **SMALL)


@pytest.mark.parametrize("name", DATA)
def test_early_stopping_watches_catboosts_log_loss(name):
    X, X_test, y, y_test = parts(name)
    options = {**SMALL, "iterations": 300, "learning_rate": 0.3}
    own = catboost.CatBoostClassifier(**options)
    ours = EmphasisCatBoostClassifier(weighting=CCE(), normalization=None, **options)
    for model in (own, ours):
        model.fit(X, y, eval_set=(X_test, y_test), early_stopping_rounds=5)
    assert ours.best_iteration_ == own.best_iteration_ < 299
    assert ours.best_score_["validation"] == pytest.approx(own.best_score_["validation"], rel=1e-9)


@pytest.mark.parametrize("name", DATA)
def test_a_saved_model_is_a_plain_one(name, tmp_path):
    X, X_test, y, _ = parts(name, named=True)
    model = EmphasisCatBoostClassifier(weighting="GCE", **SMALL).fit(X, y)
    model.save_model(str(tmp_path / "model.cbm"))
    plain = catboost.CatBoostClassifier().load_model(str(tmp_path / "model.cbm"))
    np.testing.assert_array_equal(plain.predict_proba(X_test), model.predict_proba(X_test))
    np.testing.assert_array_equal(plain.predict(X_test), model.predict(X_test))


def test_batch_is_for_two_classes():
    X, X_test, y, y_test = parts("breast cancer")
    model = EmphasisCatBoostClassifier(weighting="GCE", normalization="batch", **SMALL).fit(X, y)
    assert right_beyond_chance(model.predict(X_test), y_test)
    X, _, y, _ = parts("wine")
    with pytest.raises(ValueError, match="more than two classes"):
        EmphasisCatBoostClassifier(normalization="batch", **SMALL).fit(X, y)


@pytest.mark.parametrize("name", ["loss_function", "auto_class_weights", "class_weights", "classes_count"])
def test_parameters_of_catboosts_own_losses_are_named(name):
    X, _, y, _ = parts("wine")
    value = {"loss_function": "RMSE", "auto_class_weights": "Balanced", "class_weights": [1, 2, 3], "classes_count": 3}
    with pytest.raises(ValueError, match=f"{name}=.* is not allowed"):
        EmphasisCatBoostClassifier(**SMALL, **{name: value[name]}).fit(X, y)


def test_pools_and_unknown_classes_are_named():
    X, _, y, _ = parts("wine")
    with pytest.raises(TypeError, match="Pool"):
        EmphasisCatBoostClassifier(**SMALL).fit(catboost.Pool(X, y))
    with pytest.raises(TypeError, match="Pool"):
        EmphasisCatBoostClassifier(**SMALL).fit(X, y, eval_set=catboost.Pool(X, y))
    with pytest.raises(ValueError, match="evaluation set holds the class 9"):
        EmphasisCatBoostClassifier(**SMALL).fit(X, y, eval_set=(X[:2], [0, 9]))


def test_the_hint_at_numba_is_not_passed_on():
    X, _, y, _ = parts("wine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EmphasisCatBoostClassifier(**SMALL).fit(X, y)
