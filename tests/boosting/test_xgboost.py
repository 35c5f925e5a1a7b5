import json

import numpy as np
import pytest
import xgboost
from shared_boosting import (
    DATA,
    WEIGHTS,
    check_as_the_library_itself,
    check_estimator_habits,
    check_nested_parameters,
    parts,
)

from emphasis import CCE, DM
from emphasis.boosting import EmphasisXGBClassifier
from emphasis.boosting.xgboost import objective

SMALL = {"n_estimators": 8, "n_jobs": 1}


def structure(booster):
    """Every split's feature and threshold, tree by tree, and the leaves' values."""
    nodes = [json.loads(text) for text in booster.get_dump(dump_format="json")]
    splits, leaves = [], []
    while nodes:
        node = nodes.pop(0)
        if "leaf" in node:
            leaves.append(node["leaf"])
        else:
            splits.append((node["split"], node["split_condition"]))
            nodes += node["children"]
    return splits, np.array(leaves)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", DATA)
def test_cce_grows_xgboosts_own_trees(name, weighted):
    X, X_test, y, _ = parts(name)
    weight = {"sample_weight": WEIGHTS[: len(y)]} if weighted else {}
    own = xgboost.XGBClassifier(**SMALL).fit(X, y, **weight)
    ours = EmphasisXGBClassifier(weighting=CCE(), normalization=None, **SMALL).fit(X, y, **weight)
    (splits, leaves), (our_splits, our_leaves) = structure(own.get_booster()), structure(ours.get_booster())
    assert splits == our_splits
    np.testing.assert_allclose(our_leaves, leaves, atol=2e-6)
    np.testing.assert_allclose(ours.predict_proba(X_test), own.predict_proba(X_test), atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, own.intercept_, atol=1e-6)


def test_it_behaves_as_an_estimator():
    check_estimator_habits(EmphasisXGBClassifier, **SMALL)


def test_it_takes_what_the_library_takes():
    check_as_the_library_itself(EmphasisXGBClassifier, xgboost.XGBClassifier, **SMALL)


def test_parameters_of_the_weighting_are_parameters():
    check_nested_parameters(EmphasisXGBClassifier, **SMALL)


def test_early_stopping_and_metrics_are_xgboosts():
    X, X_test, y, y_test = parts("breast cancer")
    options = {"n_estimators": 200, "n_jobs": 1, "early_stopping_rounds": 5, "eval_metric": ["error", "logloss"]}
    own = xgboost.XGBClassifier(**options).fit(X, y, eval_set=[(X_test, y_test)], verbose=False)
    ours = EmphasisXGBClassifier(weighting=CCE(), normalization=None, **options).fit(
        X, y, eval_set=[(X_test, y_test)], verbose=False
    )
    assert ours.best_iteration == own.best_iteration < 199
    for name, values in own.evals_result()["validation_0"].items():
        np.testing.assert_allclose(ours.evals_result()["validation_0"][name], values, atol=1e-6)


def test_a_saved_model_is_a_plain_one(tmp_path):
    X, X_test, y, _ = parts("wine")
    model = EmphasisXGBClassifier(weighting="GCE", **SMALL).fit(X, y)
    model.save_model(tmp_path / "model.ubj")
    plain = xgboost.XGBClassifier()
    plain.load_model(tmp_path / "model.ubj")
    np.testing.assert_array_equal(plain.predict_proba(X_test), model.predict_proba(X_test))


def test_training_goes_on_from_a_model():
    X, X_test, y, _ = parts("wine")
    whole = EmphasisXGBClassifier(weighting="GCE", n_jobs=1, n_estimators=8).fit(X, y)
    half = EmphasisXGBClassifier(weighting="GCE", n_jobs=1, n_estimators=4).fit(X, y)
    rest = EmphasisXGBClassifier(weighting="GCE", n_jobs=1, n_estimators=4).fit(X, y, xgb_model=half.get_booster())
    np.testing.assert_allclose(rest.predict_proba(X_test), whole.predict_proba(X_test), atol=1e-6)


@pytest.mark.parametrize("name", DATA)
def test_the_function_for_train_does_what_the_estimator_does(name):
    X, X_test, y, _ = parts(name)
    weighting = DM(lam=1, beta=4, vanishing=True)
    classes = len(np.unique(y))
    model = EmphasisXGBClassifier(weighting=weighting, **SMALL).fit(X, y, sample_weight=WEIGHTS[: len(y)])
    params = {"objective": "multi:softprob", "num_class": 3} if classes > 2 else {"objective": "binary:logistic"}
    if classes > 2:
        params["base_score"] = model.intercept_.tolist()
    else:
        params["base_score"] = float(model.intercept_[0])
    data = xgboost.DMatrix(X, y, weight=WEIGHTS[: len(y)])
    booster = xgboost.train({**params, "nthread": 1}, data, 8, obj=objective(weighting))
    expected = model.predict_proba(X_test)
    np.testing.assert_allclose(
        booster.predict(xgboost.DMatrix(X_test)), expected if classes > 2 else expected[:, 1], atol=1e-6
    )


def test_what_is_not_allowed_is_named_before_anything_is_trained():
    X, _, y, _ = parts("wine")
    with pytest.raises(ValueError, match=r"objective='reg:squarederror'.*weighting is the objective"):
        EmphasisXGBClassifier(objective="reg:squarederror").fit(X, y)
    with pytest.raises(ValueError, match="normalization='mean'"):
        EmphasisXGBClassifier(normalization="mean").fit(X, y)
    for weighting in (None, CCE()):
        with pytest.raises(ValueError, match=r"scale_pos_weight=2 is not allowed; give sample_weight"):
            EmphasisXGBClassifier(weighting=weighting, scale_pos_weight=2).fit(X, y == 0)
    EmphasisXGBClassifier(scale_pos_weight=1, **SMALL).fit(X, y == 0)
    model = EmphasisXGBClassifier(**SMALL)
    with pytest.raises(ValueError, match="1 class"):
        model.fit(X, np.zeros(len(y), dtype=int))
    assert model.fit(X, y).predict_proba(X).shape == (len(y), 3)
