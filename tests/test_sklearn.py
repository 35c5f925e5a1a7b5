import pickle
import sys

import joblib
import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import GridSearchCV, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from controls import right_beyond_chance, share_of_the_way
from emphasis import CCE, DM, GCE, Relative
from emphasis.corruption import symmetric
from emphasis.learning_rate import RATES, middle_rate
from emphasis.sklearn import EmphasisClassifier
from emphasis.torch import emphasis_loss


@parametrize_with_checks(
    [
        EmphasisClassifier(max_epochs=40),  # in place of 200, as it is fitted hundreds of times
        EmphasisClassifier(CCE(), hidden=(), learning_rate=0.05, max_epochs=30),
        EmphasisClassifier(
            "GCE",
            hidden=(16, 8),
            activation="tanh",
            learning_rate=0.01,
            max_epochs=40,
            weight_decay=1e-3,
            normalization="batch",
            device="auto",
        ),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return train_test_split(StandardScaler().fit_transform(X), y, random_state=0)


def test_parameters_of_the_weighting_are_parameters(wine):
    X, X_test, y, y_test = wine
    given = DM(lam=0.5, beta=3)
    model = EmphasisClassifier(given, learning_rate=0.01, max_epochs=10, random_state=0)
    assert model.get_params()["weighting__beta"] == 3.0
    assert "weighting__beta" not in model.get_params(deep=False)
    search = GridSearchCV(model, {"weighting__beta": [2, 4]}, cv=2).fit(X, y)
    assert search.best_estimator_.weighting.beta in (2.0, 4.0)
    assert right_beyond_chance(search.predict(X_test), y_test)
    assert given == DM(lam=0.5, beta=3)  # which is not changed itself
    with pytest.raises(ValueError, match="bta"):
        clone(model).set_params(weighting__bta=5)


def test_it_holds_out_against_wrong_labels():
    """Digits with 40 % wrong labels: cross-entropy learns them by heart, vanishing DM does not."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split((X / 16).astype(np.float32), y, stratify=y, random_state=0)
    for seed in range(2):
        noisy = symmetric(y, 0.4, num_classes=10, seed=seed).labels
        robust, plain = (
            EmphasisClassifier(
                weighting, hidden=(128,), learning_rate=0.01, max_epochs=80, n_iter_no_change=80, random_state=seed
            )
            .fit(X, noisy)
            .score(X_test, y_test)
            for weighting in (DM(lam=0.5, beta=4, vanishing=True), CCE())
        )
        assert share_of_the_way(robust, plain) > 0.3


def test_it_is_a_network_of_torch_trained_by_the_loss(wine):
    """One epoch of one batch is one step of AdamW on emphasis_loss."""
    X, _, y, _ = wine
    model = EmphasisClassifier(GCE(0.7), max_epochs=1, random_state=0, learning_rate=1e-3, weight_decay=0.1)
    stepped = model.fit(X, y).network_
    # The same network before its step: that of the same seed, trained with next to no learning rate.
    twin = EmphasisClassifier(GCE(0.7), max_epochs=1, random_state=0, learning_rate=1e-12).fit(X, y).network_
    optimizer = torch.optim.AdamW(twin.parameters(), 1e-3, weight_decay=0.1)
    optimizer.zero_grad()
    emphasis_loss(twin(torch.tensor(X)), torch.tensor(y), GCE(0.7)).backward()
    optimizer.step()
    for ours, expected in zip(stepped.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 2: 0.5}], ids=str)
@pytest.mark.parametrize("weighting", [CCE(), DM(lam=0.5, beta=4)], ids=repr)
def test_weights_are_numbers_of_copies(wine, weighting, class_weight):
    X, X_test, y, _ = wine
    copies = np.random.default_rng(0).integers(0, 3, len(y))
    model = EmphasisClassifier(
        weighting, learning_rate=1e-3, max_epochs=30, batch_size=10_000, random_state=0, class_weight=class_weight
    )
    weighted = clone(model).fit(X, y, sample_weight=copies).predict_proba(X_test)
    repeated = clone(model).fit(np.repeat(X, copies, axis=0), np.repeat(y, copies)).predict_proba(X_test)
    np.testing.assert_allclose(weighted, repeated, atol=1e-9)


def test_class_weights_are_sample_weights(wine):
    X, X_test, y, _ = wine
    model = EmphasisClassifier(max_epochs=10, batch_size=40, random_state=0)
    for class_weight, factor in (
        ({0: 2.0, 2: 0.5}, np.array([2.0, 1.0, 0.5])),
        ("balanced", len(y) / (3 * np.bincount(y))),
    ):
        ours = clone(model).set_params(class_weight=class_weight).fit(X, y)
        theirs = clone(model).fit(X, y, sample_weight=factor[y])
        np.testing.assert_allclose(ours.predict_proba(X_test), theirs.predict_proba(X_test), atol=1e-5)
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, atol=1e-5)


@pytest.fixture(scope="module")
def many():
    """26 clouds in 20 dimensions, 40 % of the labels wrong, and as many points with their true labels."""
    rng = np.random.default_rng(0)
    y, centers = np.arange(1300) % 26, rng.normal(size=(26, 20))
    X, X_test = (centers[y] + 0.75 * rng.normal(size=(1300, 20)).astype(np.float32) for _ in range(2))
    return X.astype(np.float32), symmetric(y, 0.4, num_classes=26, seed=0).labels, X_test.astype(np.float32), y


def test_the_rate_found_is_nearly_the_best_and_a_constant_one_is_not(many):
    X, y, X_test, y_test = many
    model = EmphasisClassifier(CCE(), max_epochs=60, random_state=0).fit(X, y)
    found = model.score(X_test, y_test)
    best = max(
        EmphasisClassifier(CCE(), learning_rate=rate, max_epochs=epochs, random_state=0).fit(X, y).score(X_test, y_test)
        for rate in RATES["adam"]
        for epochs in (10, 60)
    )
    constant = EmphasisClassifier(CCE(), learning_rate=0.03, max_epochs=60, random_state=0).fit(X, y)
    assert model.learning_rate_ in RATES["adam"]
    assert found > best - 0.02
    assert constant.score(X_test, y_test) < found - 0.1


def test_the_rate_is_found_with_weights_classes_and_layers_of_all_kinds(many):
    X, y, _, _ = many
    assert (
        EmphasisClassifier(hidden=(), max_epochs=2, class_weight="balanced").fit(X, y).learning_rate_ in RATES["adam"]
    )
    sparse = scipy.sparse.csr_array(np.where(X > 0.5, X, 0.0))
    model = EmphasisClassifier(hidden=(8, 8), activation="tanh", max_epochs=2, early_stopping=True, random_state=0)
    weights = (np.arange(len(y)) % 3).astype(np.float64)
    twins = [clone(model).fit(rows, y, weights) for rows in (sparse, sparse.toarray())]
    assert twins[0].learning_rate_ == twins[1].learning_rate_ in RATES["adam"]
    assert EmphasisClassifier(max_epochs=2).fit(X[:90], y[:90]).learning_rate_ == middle_rate("adam")


def test_searches_pipelines_and_cross_validation(wine):
    X, X_test, y, y_test = wine
    pipeline = make_pipeline(StandardScaler(), EmphasisClassifier(learning_rate=0.01, max_epochs=40, random_state=0))
    grid = {"emphasisclassifier__weighting": [CCE(), DM(lam=0.5, beta=4, vanishing=True), "MAE", {"family": "GCE"}]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert right_beyond_chance(search.predict(X_test), y_test)
    assert right_beyond_chance(cross_val_predict(pipeline, X, y, cv=2), y)
    assert right_beyond_chance(CalibratedClassifierCV(pipeline, cv=2).fit(X, y).predict(X_test), y_test)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_it_pickles_and_repeats_itself(wine, tmp_path, early_stopping):
    X, X_test, y, _ = wine
    model = EmphasisClassifier(max_epochs=20, random_state=0, batch_size=32, dropout=0.2, early_stopping=early_stopping)
    state = torch.get_rng_state()
    expected = model.fit(X, y).predict_proba(X_test)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    np.testing.assert_array_equal(clone(model).fit(X, y).predict_proba(X_test), expected)
    joblib.dump(model, tmp_path / "model.joblib")
    for twin in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(twin.predict_proba(X_test), expected)
        twin.partial_fit(X, y)  # training goes on, with the optimiser's own state
        assert twin.n_iter_ == model.n_iter_ + 1


def test_early_stopping_keeps_the_best_epoch(wine):
    X, _, y, _ = wine
    model = EmphasisClassifier(
        learning_rate=0.02,
        max_epochs=100,
        early_stopping=True,
        validation_fraction=0.3,
        random_state=0,
        n_iter_no_change=5,
    )
    model.fit(X, y)
    assert len(model.validation_scores_) == model.n_iter_ < 100
    assert model.validation_scores_[model.best_epoch_ - 1] == max(model.validation_scores_)
    assert model.n_iter_ == model.best_epoch_ + 5
    until_then = clone(model).set_params(max_epochs=model.best_epoch_).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), until_then.predict_proba(X))
    model.set_params(early_stopping=False, max_epochs=2).fit(X, y)
    assert model.validation_scores_ is model.best_epoch_ is None


def test_what_cannot_be_held_out_is_an_error(wine):
    X, _, y, _ = wine
    with pytest.raises(ValueError, match=r"test_size = 2 .* number of classes = 3"):
        EmphasisClassifier(early_stopping=True, validation_fraction=0.01).fit(X, y)


def test_without_it_training_ends_when_the_loss_no_longer_falls(wine):
    X, _, y, _ = wine
    model = EmphasisClassifier(learning_rate=0.01, max_epochs=2000, tol=1e-3, random_state=0).fit(X, y)
    assert model.n_iter_ < 2000
    assert min(model.loss_curve_[-10:]) > min(model.loss_curve_[:-10]) - 1e-3


def test_the_loss_of_batch_normalisation_stops_nothing(wine):
    """Its value is no potential of the derivative: it may rise while the network learns."""
    X, _, y, _ = wine
    noisy = symmetric(y, 0.4, seed=0).labels
    model = EmphasisClassifier(CCE(), normalization="batch", max_epochs=80, tol=0.1, random_state=0).fit(X, noisy)
    assert min(model.loss_curve_[-10:]) > min(model.loss_curve_[:-10]) - 0.1
    assert model.n_iter_ == 80


def test_training_with_relative_begins_with_a_fifth_of_cross_entropy(wine):
    X, _, y, _ = wine
    for rate, warms_up in (("auto", True), (0.02, False)):  # where the rate falls, and the number of steps is known
        models = [
            EmphasisClassifier(weighting, max_epochs=10, learning_rate=rate, random_state=0).fit(X, y)
            for weighting in (None, Relative(), CCE(), DM())
        ]
        default, relative, cross_entropy, dm = (np.array(model.loss_curve_) for model in models)
        assert (default == relative).all()
        assert (default[:2] == cross_entropy[:2]).all() == warms_up
        assert (default[3:] != cross_entropy[3:]).all()
        assert dm[0] != cross_entropy[0]
        assert models[0]._loss.weighting == Relative()  # with which `partial_fit` goes on


def test_partial_fit_learns_from_chunks():
    X, y = load_digits(return_X_y=True)
    X = X / 16.0
    model = EmphasisClassifier(learning_rate=0.01, random_state=0)
    for _ in range(10):
        for start in range(0, len(y), 300):
            model.partial_fit(X[start : start + 300], y[start : start + 300], classes=range(10))
    assert right_beyond_chance(model.predict(X), y)
    assert model.n_iter_ == 60
    with pytest.raises(ValueError, match="y holds 11, which is not among the classes"):
        model.partial_fit(X[:2], [1, 11])
    with pytest.raises(ValueError, match="is not the same as on last call"):
        model.partial_fit(X[:2], y[:2], classes=[0, 1])
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        clone(model).partial_fit(X, y)


def test_fit_starts_anew_where_partial_fit_goes_on(wine):
    X, _, y, _ = wine
    model = EmphasisClassifier(learning_rate=1e-3, max_epochs=3, batch_size=40, random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    chunks = clone(model)
    for _ in range(3):
        chunks.partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(chunks.predict_proba(X), expected)
    assert chunks.loss_curve_ == model.loss_curve_
    np.testing.assert_array_equal(chunks.fit(X, y).predict_proba(X), expected)


def test_sparse_rows_are_dense_ones(wine):
    X, X_test, y, _ = wine
    model = EmphasisClassifier(max_epochs=5, batch_size=40, random_state=0)
    dense = clone(model).fit(X, y).predict_proba(X_test)
    sparse = clone(model).fit(scipy.sparse.csr_array(X), y).predict_proba(scipy.sparse.csc_matrix(X_test))
    np.testing.assert_array_equal(sparse, dense)


def test_two_classes_follow_scikit_learns_shapes():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = EmphasisClassifier(max_epochs=20, learning_rate=0.01, random_state=0).fit(X, np.array(["no", "yes"])[y])
    scores = model.decision_function(X)
    assert scores.shape == (len(y),)
    np.testing.assert_array_equal(model.predict(X), np.where(scores > 0, "yes", "no"))
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-scores)), rtol=1e-9)


def test_float32_stays_float32(wine):
    X, _, y, _ = wine
    model = EmphasisClassifier(max_epochs=2, random_state=0).fit(X.astype(np.float32), y)
    assert next(model.network_.parameters()).dtype == torch.float32
    assert model.predict_proba(X).dtype == np.float32


@pytest.mark.parametrize("rich", ["installed", "missing"])
def test_progress_is_a_line_for_each_epoch(wine, capsys, monkeypatch, rich):
    if rich == "missing":
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    X, _, y, _ = wine
    EmphasisClassifier(max_epochs=3, random_state=0, verbose=True, early_stopping=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1: loss ")
    assert "accuracy on held-out rows" in lines[0]


def test_progress_is_a_bar_on_a_terminal(wine, capsys, monkeypatch):
    from rich.progress import Progress

    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    X, _, y, _ = wine
    with Progress():
        EmphasisClassifier(max_epochs=3, random_state=0, verbose=True).fit(X, y)
    out = capsys.readouterr().out
    assert "epoch 3: loss " in out
    assert "━" in out


def test_without_verbose_it_is_silent(wine, capfd):
    X, _, y, _ = wine
    EmphasisClassifier(max_epochs=3, random_state=0).fit(X, y)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"learning_rate": 0.0}, 'learning_rate=0.0 is not allowed; use a finite number > 0 or "auto"'),
        ({"learning_rate": "fast"}, "learning_rate='fast' is not allowed"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"max_epochs": 0}, "max_epochs=0 is not allowed; use a whole number >= 1"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"hidden": (0,)}, "hidden"),
        ({"activation": "gelu"}, "activation='gelu'"),
        ({"dropout": 1.0}, "dropout"),
        ({"normalization": "mean"}, "normalization='mean'"),
        ({"max_margin": "none"}, "max_margin='none'"),
        ({"weighting": {"family": "GCS"}}, "unknown family 'GCS'"),
        ({"device": "gpu"}, "device='gpu' cannot be used here; use"),
        ({"tol": "small"}, "tol='small' is not allowed; use a finite number >= 0"),
        ({"class_weight": {0: -1.0}}, "class_weight"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_named_when_fitting(parameters, match, wine):
    X, _, y, _ = wine
    model = EmphasisClassifier(**parameters)
    with pytest.raises(ValueError, match=match):
        model.fit(X, y)


def test_divergence_is_an_error_that_names_the_cure(wine):
    X, _, y, _ = wine
    model = EmphasisClassifier(CCE(), learning_rate=1e300, random_state=0)
    with pytest.raises(ValueError, match=r"training diverged in epoch 2 .*learning_rate=1e\+300.*StandardScaler"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="NaN or infinite logits: training has diverged"):
        model.predict_proba(X)  # no silent NaN from the network that is left
    with pytest.raises(ValueError, match="training diverged in epoch 1 "):  # in the last step, with no loss after it
        EmphasisClassifier(CCE(), learning_rate=1.7e308, weight_decay=10.0, max_epochs=1, random_state=0).fit(X, y)


def test_partial_fit_cannot_balance_what_it_has_not_seen(wine):
    X, _, y, _ = wine
    with pytest.raises(ValueError, match="needs all rows at once"):
        EmphasisClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])


def test_a_function_and_column_names_will_do():
    frame = load_wine(as_frame=True)
    table = (frame.data - frame.data.mean()) / frame.data.std()
    model = EmphasisClassifier(lambda p: 2 * (1 - p), device="auto", max_epochs=20, random_state=0)
    ours = model.fit(table, frame.target).predict_proba(table)
    assert list(model.feature_names_in_) == list(frame.data.columns)
    cce = clone(model).set_params(weighting=CCE()).fit(table, frame.target)
    np.testing.assert_allclose(ours, cce.predict_proba(table), atol=1e-4)
