"""Data and checks that the tests of all boosters share."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import GridSearchCV, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from controls import right_beyond_chance
from emphasis import CCE, DM, GCE, Relative

DATA = {"wine": load_wine, "breast cancer": load_breast_cancer}
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2.0, 1000)


def parts(name, named=False):
    """Training and evaluation parts; labels as texts if `named`."""
    X, y = DATA[name](return_X_y=True)
    return train_test_split(X, np.array([f"c{k}" for k in y]) if named else y, random_state=0)


def check_estimator_habits(kind, **parameters):
    """clone, pickle, copies, parameters, pipelines, searches and cross-validation keep the weighting."""
    X, X_test, y, y_test = parts("wine")
    weighting = DM(lam=0.5, beta=4, vanishing=True)
    model = kind(weighting=weighting, max_margin=None, **parameters)
    assert clone(model).get_params()["weighting"] == weighting
    assert clone(model).get_params()["max_margin"] is None
    assert copy.deepcopy(model).get_params()["weighting"] == weighting
    again = clone(model).set_params(weighting=CCE())
    assert again.get_params()["weighting"] == CCE()
    given = {"family": "GCE", "q": 0.3}
    assert clone(kind(weighting=given, **parameters)).get_params()["weighting"] == given

    model.fit(X, y)
    probabilities = model.predict_proba(X_test)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(np.ravel(model.predict(X_test)), probabilities.argmax(1))
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin.predict_proba(X_test), probabilities)
        assert twin.get_params()["weighting"] == weighting
    before = {name: value for name, value in model.get_params().items() if name != "objective"}
    assert before == {name: value for name, value in clone(model).get_params().items() if name != "objective"}

    search = GridSearchCV(kind(**parameters), {"weighting": [CCE(), GCE(0.7), "MAE"]}, cv=2).fit(X, y)
    assert right_beyond_chance(np.ravel(search.predict(X_test)), y_test)
    pipeline = make_pipeline(StandardScaler(), kind(weighting="GCE", **parameters))
    assert right_beyond_chance(np.ravel(cross_val_predict(pipeline, X, y, cv=2)), y)
    refitted = model if not hasattr(model, "is_fitted") else clone(model)
    X, _, y, _ = parts("breast cancer", named=True)
    numbers = np.unique(y, return_inverse=True)[1]
    assert right_beyond_chance(np.ravel(refitted.fit(X, numbers).predict(X)), numbers)


def check_as_the_library_itself(kind, own, **parameters):
    """Labels and sizes that the library takes are taken, and with cross-entropy the model is the library's own."""
    for name in DATA:
        X, X_test, y, _ = parts(name)
        expected = own(**parameters).fit(X, y).predict_proba(X_test)
        np.testing.assert_array_equal(kind(weighting=CCE(), **parameters).fit(X, y).predict_proba(X_test), expected)
        model = kind(weighting="GCE", **parameters)
        expected = model.fit(X, y).predict_proba(X_test)
        column = pd.DataFrame({"y": y})
        np.testing.assert_array_equal(_unwarned(clone(model), X, column).predict_proba(X_test), expected)
        few = np.linspace(0, len(y) - 1, 30).astype(int)
        for weighting in (CCE(), GCE(0.7)):
            p = kind(weighting=weighting, **parameters).fit(X[few], y[few]).predict_proba(X[few])
            np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)
        missing = np.where(np.arange(len(y)) == 3, np.nan, y)
        for weighting in (CCE(), GCE(0.7)):
            with pytest.raises(Exception, match=r"NaN|nan"):
                kind(weighting=weighting, **parameters).fit(X, missing)


def _unwarned(model, X, y):
    """Fit to labels of one column, about which LightGBM warns as scikit-learn does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A column-vector y was passed", UserWarning)
        return model.fit(X, y)


def check_nested_parameters(kind, **parameters):
    """Parameters of the weighting are parameters of the estimator, for searches as well."""
    X, _, y, _ = parts("wine")
    given = DM(lam=0.5, beta=3)
    model = kind(weighting=given, **parameters)
    nested = {name: value for name, value in model.get_params().items() if name.startswith("weighting__")}
    assert nested == {"weighting__lam": 0.5, "weighting__beta": 3.0, "weighting__vanishing": False}
    assert not any(name.startswith("weighting__") for name in model.get_params(deep=False))
    assert clone(model).get_params()["weighting"] == given
    changed = clone(model).set_params(weighting__beta=5)
    assert changed.get_params()["weighting"] == DM(lam=0.5, beta=5)
    assert given == DM(lam=0.5, beta=3)  # which is not changed itself
    both = clone(model).set_params(weighting=GCE(0.7), weighting__q=0.2)
    assert both.get_params()["weighting"] == GCE(0.2)
    assert kind(**parameters).set_params(weighting__q=0.5).get_params()["weighting"] == Relative(q=0.5)
    with pytest.raises(ValueError, match="bta"):
        clone(model).set_params(weighting__bta=5)
    search = GridSearchCV(model, {"weighting__beta": [2, 4]}, cv=2).fit(X, y)
    assert {result["weighting__beta"] for result in search.cv_results_["params"]} == {2, 4}
    assert search.best_estimator_.get_params()["weighting"].beta in (2.0, 4.0)
    added = kind(weighting=CCE() + GCE(0.7), **parameters)
    assert not any(name.startswith("weighting__") for name in added.get_params())
    assert np.isfinite(added.fit(X, y).predict_proba(X)).all()
