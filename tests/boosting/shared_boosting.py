"""Data and checks that the tests of all boosters share."""

import copy
import pickle

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import GridSearchCV, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from controls import right_beyond_chance
from emphasis import CCE, DM, GCE

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
