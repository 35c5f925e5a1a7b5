import lightgbm
import numpy as np
import pytest
from scipy.special import expit, softmax
from shared_boosting import (
    DATA,
    WEIGHTS,
    check_as_the_library_itself,
    check_estimator_habits,
    check_nested_parameters,
    parts,
)

from emphasis import CCE, DM
from emphasis.boosting import EmphasisLGBMClassifier
from emphasis.boosting.lightgbm import objective

# LightGBM's own warning, which its own estimators give as well on arrays with names from a table.
pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")
SMALL = {"n_estimators": 8, "n_jobs": 1, "verbose": -1}
STOP = {"callbacks": [lightgbm.early_stopping(5, verbose=False)]}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"class_weight": "balanced"},
        {"boost_from_average": False},
        {"subsample": 0.5},
        {"linear_tree": True, "boost_from_average": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", DATA)
def test_cce_grows_lightgbms_own_trees(name, weighted, parameters):
    X, X_test, y, _ = parts(name, named=True)
    weight = {"sample_weight": WEIGHTS[: len(y)]} if weighted else {}
    own = lightgbm.LGBMClassifier(**SMALL, **parameters).fit(X, y, **weight)
    ours = EmphasisLGBMClassifier(weighting=CCE(), normalization=None, **SMALL, **parameters).fit(X, y, **weight)
    trees, our_trees = own.booster_.trees_to_dataframe(), ours.booster_.trees_to_dataframe()
    columns = ["tree_index", "node_depth", "split_feature", "threshold"]
    assert our_trees[columns].equals(trees[columns])
    leaf = trees["split_feature"].isna()
    np.testing.assert_allclose(our_trees["value"][leaf], trees["value"][leaf], atol=1e-7)
    if "linear_tree" not in parameters:  # LightGBM has no contributions of theirs
        contributions = (model.predict(X_test, pred_contrib=True) for model in (ours, own))
        np.testing.assert_allclose(*contributions, atol=1e-7)
    np.testing.assert_allclose(ours.predict_proba(X_test), own.predict_proba(X_test), atol=1e-8)
    np.testing.assert_array_equal(ours.predict(X_test), own.predict(X_test))


def test_it_behaves_as_an_estimator():
    check_estimator_habits(EmphasisLGBMClassifier, **SMALL)


def test_it_takes_what_the_library_takes():
    check_as_the_library_itself(EmphasisLGBMClassifier, lightgbm.LGBMClassifier, **SMALL)


def test_parameters_of_the_weighting_are_parameters():
    check_nested_parameters(EmphasisLGBMClassifier, **SMALL)


@pytest.mark.parametrize("name", DATA)
def test_early_stopping_and_metrics_are_lightgbms(name):
    X, X_test, y, y_test = parts(name)
    options = {"eval_X": (X_test, X[:50]), "eval_y": (y_test, y[:50]), "eval_metric": ["logloss", "error"], **STOP}
    own = lightgbm.LGBMClassifier(**{**SMALL, "n_estimators": 100}).fit(X, y, **options)
    ours = EmphasisLGBMClassifier(weighting=CCE(), normalization=None, **{**SMALL, "n_estimators": 100}).fit(
        X, y, **options
    )
    assert ours.best_iteration_ == own.best_iteration_ < 100
    for part, metrics in own.evals_result_.items():
        for metric, values in metrics.items():
            np.testing.assert_allclose(ours.evals_result_[part][metric], values, atol=1e-8)


@pytest.mark.parametrize("labels", [lambda k: f"c{k}", lambda k: 10 * k - 3], ids=["texts", "numbers"])
def test_labels_of_any_kind_are_evaluated(labels):
    X, X_test, y, y_test = parts("wine")
    plain = EmphasisLGBMClassifier(**SMALL).fit(X, y, eval_X=X_test, eval_y=y_test)
    named, named_test = (np.array([labels(k) for k in v]) for v in (y, y_test))
    model = EmphasisLGBMClassifier(**SMALL).fit(X, named, eval_X=(X_test, X), eval_y=(named_test, named))
    assert model.evals_result_["valid_0"] == plain.evals_result_["valid_0"]
    with pytest.raises(ValueError, match="evaluation set holds the class"):
        EmphasisLGBMClassifier(**SMALL).fit(X, named, eval_X=X_test, eval_y=np.array(["no such class"] * len(y_test)))


def test_without_a_metric_the_log_loss_of_probabilities_is_watched():
    X, X_test, y, y_test = parts("wine")
    model = EmphasisLGBMClassifier(**SMALL).fit(X, y, eval_X=X_test, eval_y=y_test)
    (values,) = model.evals_result_["valid_0"].values()
    p = model.predict_proba(X_test)[np.arange(len(y_test)), y_test]
    assert values[-1] == pytest.approx(-np.log(p).mean(), abs=1e-9)


@pytest.mark.filterwarnings("ignore:The argument 'eval_set'")
def test_a_metric_of_ones_own_sees_probabilities():
    X, X_test, y, y_test = parts("wine")
    seen = []

    def metric(y_true, p):
        seen.append(p)
        return "mine", float((p.argmax(1) == y_true).mean()), True

    def weighted(y_true, p, weight):
        return "weight", float(weight.sum()), True

    model = EmphasisLGBMClassifier(**SMALL)
    model.fit(X, y, eval_set=(X_test, y_test), eval_metric=[metric, weighted], eval_sample_weight=[WEIGHTS[:45]])
    np.testing.assert_allclose(seen[-1], model.predict_proba(X_test), atol=1e-12)
    assert model.evals_result_["valid_0"]["mine"][-1] == (model.predict(X_test) == y_test).mean()
    assert model.evals_result_["valid_0"]["weight"][0] == pytest.approx(WEIGHTS[:45].sum(), rel=1e-5)


def test_rankings_are_lightgbms():
    X, X_test, y, y_test = parts("breast cancer")
    options = {"eval_X": X_test, "eval_y": y_test, "eval_metric": ["auc", "average_precision"]}
    own = lightgbm.LGBMClassifier(**SMALL).fit(X, y, **options)
    ours = EmphasisLGBMClassifier(weighting=CCE(), normalization=None, **SMALL).fit(X, y, **options)
    for metric, values in ours.evals_result_["valid_0"].items():
        np.testing.assert_allclose(values, own.evals_result_["valid_0"][metric], atol=1e-12)


@pytest.mark.parametrize("name", DATA)
def test_a_saved_model_is_a_plain_one(name, tmp_path):
    X, X_test, y, _ = parts(name)
    model = EmphasisLGBMClassifier(weighting="GCE", **SMALL).fit(X, y)
    model.booster_.save_model(tmp_path / "model.txt")
    plain = lightgbm.Booster(model_file=tmp_path / "model.txt").predict(X_test)
    expected = model.predict_proba(X_test)
    np.testing.assert_array_equal(plain, expected if len(set(y)) > 2 else expected[:, 1])


def test_scores_of_ones_own_to_start_from_are_kept_out_of_the_trees():
    X, X_test, y, _ = parts("wine")
    start = np.zeros((len(y), 3))
    given = EmphasisLGBMClassifier(weighting="GCE", **SMALL).fit(X, y, init_score=start)
    none = EmphasisLGBMClassifier(weighting="GCE", boost_from_average=False, **SMALL).fit(X, y)
    np.testing.assert_allclose(given.predict_proba(X_test), none.predict_proba(X_test), atol=1e-12)


def test_training_goes_on_from_a_model():
    X, X_test, y, _ = parts("wine")
    whole = EmphasisLGBMClassifier(weighting="GCE", **SMALL).fit(X, y)
    half = EmphasisLGBMClassifier(weighting="GCE", **{**SMALL, "n_estimators": 4}).fit(X, y)
    rest = EmphasisLGBMClassifier(weighting="GCE", **{**SMALL, "n_estimators": 4}).fit(X, y, init_model=half)
    np.testing.assert_allclose(rest.predict_proba(X_test), whole.predict_proba(X_test), atol=1e-5)


@pytest.mark.parametrize("name", DATA)
def test_the_function_for_train_does_what_the_estimator_does(name):
    X, X_test, y, _ = parts(name)
    weighting, classes = DM(lam=1, beta=4, vanishing=True), len(np.unique(y))
    model = EmphasisLGBMClassifier(weighting=weighting, boost_from_average=False, **SMALL)
    model.fit(X, y, sample_weight=WEIGHTS[: len(y)])
    params = {"objective": objective(weighting), "num_class": classes if classes > 2 else 1, "verbose": -1}
    data = lightgbm.Dataset(X, y, weight=WEIGHTS[: len(y)])
    raw = lightgbm.train({**params, "num_threads": 1}, data, 8).predict(X_test)
    expected = model.predict_proba(X_test)
    np.testing.assert_allclose(
        softmax(raw, axis=1) if classes > 2 else expit(raw), expected if classes > 2 else expected[:, 1], atol=1e-9
    )


@pytest.mark.parametrize(
    ("parameters", "arguments", "match"),
    [
        ({"objective": "regression"}, {}, r"objective='regression'.*weighting is the objective"),
        ({"is_unbalance": True}, {}, "is_unbalance.*class_weight"),
        ({"scale_pos_weight": 2.0}, {}, "scale_pos_weight.*class_weight"),
        ({"metric": "auc"}, {}, "metric='auc'.*eval_metric"),
        ({}, {"eval_metric": "kldiv"}, "eval_metric='kldiv'.*'logloss', 'error', 'auc'"),
        ({"normalization": "mean"}, {}, "normalization='mean'"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_named_before_anything_is_trained(parameters, arguments, match):
    X, _, y, _ = parts("breast cancer")
    model = EmphasisLGBMClassifier(**SMALL, **parameters)
    with pytest.raises(ValueError, match=match):
        model.fit(X, y, **arguments)
    assert model.get_params()["objective"] == parameters.get("objective")


@pytest.mark.parametrize("name", DATA)
def test_a_booster_is_refitted_as_lightgbms_own_is(name):
    X, X_test, y, y_test = parts(name)
    own = lightgbm.LGBMClassifier(**SMALL).fit(X, y)
    ours = EmphasisLGBMClassifier(weighting=CCE(), normalization=None, **SMALL).fit(X, y)
    expected = own.booster_.refit(X_test, y_test).predict(X)
    np.testing.assert_allclose(ours.booster_.refit(X_test, y_test).predict(X), expected, atol=1e-6)
    robust = EmphasisLGBMClassifier(weighting="GCE", **SMALL).fit(X, y)
    assert np.isfinite(robust.booster_.refit(X_test, y_test).predict(X)).all()


def test_features_that_cannot_be_split_give_the_shares_of_the_classes():
    y = np.arange(30) % 3
    ours = EmphasisLGBMClassifier(weighting="GCE", **SMALL).fit(np.ones((30, 2)), y)
    np.testing.assert_allclose(ours.predict_proba(np.ones((2, 2))), 1 / 3)
