"""XGBoost and LightGBM on a Dask cluster of two processes give the models of one process."""

import os
import signal

import numpy as np
import pytest

pytest.importorskip("dask")
pytest.importorskip("distributed")

import dask.array as da
import dask.dataframe as dd
import lightgbm
import pandas as pd
import xgboost
from sklearn.metrics import log_loss

from dask_workers import two_workers
from emphasis import CCE, DM, GCE, Relative
from emphasis.boosting import EmphasisLGBMClassifier, EmphasisXGBClassifier, Objective
from emphasis.boosting.dask import EmphasisDaskLGBMClassifier, EmphasisDaskXGBClassifier
from emphasis.boosting.dask.xgboost import objective_of_part

pytestmark = [
    pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated"),
    pytest.mark.filterwarnings("ignore:Sending large graph"),
]

# Fewer distinct values in each column than bins, and each in every partition, so that the bins are the values however
# the rows are spread: one worker's rows decide on LightGBM's bins of a column.
RNG = np.random.default_rng(0)
X = RNG.integers(0, 30, (2000, 5)).astype(np.float32) / 3
SCORE = X[:, 0] * X[:, 1] + 5 * X[:, 2] + RNG.normal(0, 5, len(X))
THREE = np.digitize(SCORE, np.quantile(SCORE, [0.3, 0.6]))
TWO = np.minimum(THREE, 1)
WEIGHTS = RNG.uniform(0.5, 2.0, len(X)).astype(np.float32)
SMALL = {"n_estimators": 12, "max_depth": 4}
LEAVES = {"n_estimators": 12, "num_leaves": 8, "min_data_in_bin": 1, "verbose": -1}


@pytest.fixture(scope="module")
def client():
    with two_workers() as client:
        yield client


@pytest.fixture
def both(client):
    """The cluster with two workers: those that a test has lost are replaced."""
    client.wait_for_workers(2, timeout=60)
    return client


def parted(array, parts=4):
    return da.from_array(array, chunks=(len(array) // parts, *array.shape[1:]))


@pytest.mark.parametrize("labels", [THREE, TWO], ids=["three classes", "two classes"])
@pytest.mark.parametrize("weighting", [None, GCE(0.7), DM(lam=0.5, beta=4, vanishing=True), CCE()], ids=repr)
def test_xgboost_on_two_workers_predicts_what_one_process_does(both, weighting, labels):
    local = EmphasisXGBClassifier(weighting=weighting, n_jobs=1, **SMALL).fit(X, labels, sample_weight=WEIGHTS)
    model = EmphasisDaskXGBClassifier(weighting=weighting, **SMALL)
    model.fit(parted(X), parted(labels), sample_weight=parted(WEIGHTS))
    np.testing.assert_allclose(model.predict_proba(parted(X)).compute(), local.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(model.classes_, local.classes_)


def test_partitions_may_lack_classes_for_xgboost(both):
    order = np.argsort(THREE, kind="stable")
    assert len(set(THREE[order][:500])) == 1
    local = EmphasisXGBClassifier(n_jobs=1, **SMALL).fit(X[order], THREE[order])
    model = EmphasisDaskXGBClassifier(**SMALL).fit(parted(X[order]), parted(THREE[order]))
    np.testing.assert_allclose(model.predict_proba(parted(X)).compute(), local.predict_proba(X), atol=1e-6)


def test_a_worker_without_examples_has_a_gradient_for_each_class():
    # XGBoost gives it predictions without columns, and refuses a gradient without them.
    derivatives = objective_of_part(Objective(GCE(0.7)), 3)
    assert [part.shape for part in derivatives(np.zeros(0), np.zeros(0, np.float32))] == [(0, 3), (0, 3)]


@pytest.mark.parametrize("weighting", [GCE(0.7), DM(lam=0.5, beta=4, vanishing=True), CCE()], ids=repr)
def test_lightgbm_on_two_workers_predicts_what_one_process_does(both, weighting):
    names = np.array(["no", "yes"])[TWO]
    local = EmphasisLGBMClassifier(weighting=weighting, n_jobs=1, **LEAVES).fit(X, names, sample_weight=WEIGHTS)
    model = EmphasisDaskLGBMClassifier(weighting=weighting, **LEAVES)
    model.fit(parted(X), parted(names), sample_weight=parted(WEIGHTS))
    np.testing.assert_allclose(model.predict_proba(parted(X)).compute(), local.predict_proba(X), atol=1e-6)
    plain = lightgbm.Booster(model_str=model.booster_.model_to_string())
    np.testing.assert_allclose(plain.predict(X), local.predict_proba(X)[:, 1], atol=1e-6)
    assert model.predict(parted(X[:50], 1)).compute().tolist() == local.predict(X[:50]).tolist()
    assert model.to_local().get_params() == {**local.get_params(), "n_jobs": None}


def test_lightgbm_on_two_workers_learns_several_classes(both):
    model = EmphasisDaskLGBMClassifier(weighting=GCE(0.7), **LEAVES).fit(parted(X), parted(THREE))
    local = EmphasisLGBMClassifier(weighting=GCE(0.7), n_jobs=1, **LEAVES).fit(X, THREE)
    # Splits that are equally good change places, as they do for LightGBM's own objective.
    accuracy = (model.predict(parted(X)).compute() == THREE).mean()
    assert abs(accuracy - local.score(X, THREE)) < 0.02


def test_xgboost_takes_dataframes_stops_early_and_writes_the_file_of_one_process(both, tmp_path):
    columns = [f"x{number}" for number in range(5)]
    frame = pd.DataFrame(X, columns=columns).assign(y=THREE)
    table = dd.from_pandas(frame, npartitions=4)
    options = {"n_estimators": 200, "max_depth": 4, "learning_rate": 0.5, "early_stopping_rounds": 3}
    held = frame.iloc[:500]
    local = EmphasisXGBClassifier(weighting=GCE(0.7), n_jobs=1, **options)
    local.fit(frame[columns], frame["y"], eval_set=[(held[columns], 2 - held["y"])], verbose=False)
    parts = dd.from_pandas(held, npartitions=2)
    model = EmphasisDaskXGBClassifier(weighting=GCE(0.7), **options)
    model.fit(table[columns], table["y"], eval_set=[(parts[columns], 2 - parts["y"])], verbose=False)
    assert model.best_iteration == local.best_iteration < 199
    np.testing.assert_allclose(
        model.evals_result()["validation_0"]["mlogloss"], local.evals_result()["validation_0"]["mlogloss"], atol=1e-6
    )
    model.save_model(tmp_path / "model.ubj")
    plain = xgboost.XGBClassifier()
    plain.load_model(tmp_path / "model.ubj")
    np.testing.assert_allclose(plain.predict_proba(frame[columns]), local.predict_proba(frame[columns]), atol=1e-6)


@pytest.mark.parametrize("weighting", [GCE(0.7), CCE()], ids=repr)
def test_lightgbm_stops_early_after_the_same_round_on_every_worker(both, weighting):
    options = {**LEAVES, "n_estimators": 200, "learning_rate": 0.5}
    stop = [lightgbm.early_stopping(3, verbose=False)]
    held = slice(0, 500)
    train = slice(500, None)
    model = EmphasisDaskLGBMClassifier(weighting=weighting, **options)
    sets = [(parted(X[held], 2), parted(TWO[held], 2))]
    model.fit(
        parted(X[train]),
        parted(TWO[train]),
        eval_set=sets,
        eval_sample_weight=[parted(WEIGHTS[held], 2)],
        callbacks=stop,
    )
    losses = model.evals_result_["valid_0"]["binary_logloss"]
    assert len(losses) == model.best_iteration_ + 3 < 200
    for rounds, loss in enumerate(losses[: model.best_iteration_], start=1):  # LightGBM returns no further trees
        p = model.to_local().predict_proba(X[held], num_iteration=rounds)
        assert loss == pytest.approx(log_loss(TWO[held], p, sample_weight=WEIGHTS[held]), abs=1e-6)


class KillXGBoost(xgboost.callback.TrainingCallback):
    """Kills its worker after the third round, once, and writes how many workers train in the end."""

    def __init__(self, marker):
        self.marker = marker

    def after_training(self, model):
        self.marker.with_name("workers").write_text(str(xgboost.collective.get_world_size()))
        return model

    def after_iteration(self, model, epoch, evals_log):
        if epoch == 2 and xgboost.collective.get_rank() == 0:
            kill_once(self.marker)
        return False


def kill_once(marker):
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def kill_lightgbm(marker):
    def after_iteration(env):
        if env.iteration == 2:
            kill_once(marker)

    return after_iteration


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_training_whose_worker_is_killed_ends_with_the_same_model(both, library, tmp_path):
    both.rebalance()
    if library == "xgboost":
        local = EmphasisXGBClassifier(n_jobs=1, **SMALL).fit(X, THREE)
        model = EmphasisDaskXGBClassifier(callbacks=[KillXGBoost(tmp_path / "killed")], **SMALL)
        labels, arguments = THREE, {}
    else:
        local = EmphasisLGBMClassifier(weighting=GCE(0.7), n_jobs=1, **LEAVES).fit(X, TWO)
        model = EmphasisDaskLGBMClassifier(weighting=GCE(0.7), **LEAVES)
        labels, arguments = TWO, {"callbacks": [kill_lightgbm(tmp_path / "killed")]}
    before = set(both.nthreads())
    with pytest.warns(UserWarning, match="was lost; it starts again on the other workers"):
        model.fit(parted(X), parted(labels), **arguments)
    assert (tmp_path / "killed").exists()
    if library == "xgboost":
        assert (tmp_path / "workers").read_text() == "2"  # one alone might not hold all rows
    both.wait_for_workers(2, timeout=60)
    assert len(before - set(both.nthreads())) == 1
    np.testing.assert_allclose(model.predict_proba(parted(X)).compute(), local.predict_proba(X), atol=1e-6)


def test_what_is_not_allowed_is_named_before_anything_is_trained(both):
    table, labels = parted(X), parted(THREE)
    with pytest.raises(ValueError, match="divisor would be each worker's own"):
        EmphasisDaskXGBClassifier(normalization="batch").fit(table, labels)
    with pytest.raises(ValueError, match="divisor would be each worker's own"):
        EmphasisDaskLGBMClassifier(weighting=GCE(0.7), normalization="batch").fit(table, labels)
    with pytest.raises(ValueError, match=r"Relative.*LightGBM gives each worker its own examples only"):
        EmphasisDaskLGBMClassifier().fit(table, labels)
    with pytest.raises(ValueError, match=r"class_weight=.* is not allowed; give sample_weight"):
        EmphasisDaskLGBMClassifier(weighting=GCE(0.7), class_weight={0: 2}).fit(table, labels)
    with pytest.raises(ValueError, match=r"1 of 4 partitions, such as number 0, lack a class"):
        EmphasisDaskLGBMClassifier(weighting=GCE(0.7)).fit(table, parted(np.where(np.arange(2000) < 500, 0, THREE)))
    with pytest.raises(ValueError, match=r"objective='reg:squarederror' is not allowed; the weighting is"):
        EmphasisDaskXGBClassifier(objective="reg:squarederror").fit(table, labels)
    with pytest.raises(ValueError, match=r"labels \[1, 2, 3\]; XGBoost on Dask takes class numbers"):
        EmphasisDaskXGBClassifier().fit(table, labels + 1)
    with pytest.raises(ValueError, match="y holds 1 class"):
        EmphasisDaskXGBClassifier().fit(table, labels * 0)
    with pytest.raises(ValueError, match="sample_weight has 2 partitions, y has 4"):
        EmphasisDaskXGBClassifier().fit(table, labels, sample_weight=parted(WEIGHTS, 2))
    with pytest.raises(TypeError, match="y must be a dask array, series or dataframe, got ndarray"):
        EmphasisDaskXGBClassifier().fit(table, THREE)


def test_parameters_of_the_weighting_are_parameters():
    for kind in (EmphasisDaskXGBClassifier, EmphasisDaskLGBMClassifier):
        model = kind(weighting=DM(lam=0.5, beta=3), n_estimators=7).set_params(weighting__beta=5)
        assert model.get_params()["weighting"] == DM(lam=0.5, beta=5)
        assert model.get_params()["n_estimators"] == 7


@pytest.mark.parametrize("labels", [THREE, TWO], ids=["three classes", "two classes"])
def test_the_objective_of_a_part_is_that_of_the_whole_with_the_sums_of_all_parts(labels):
    own = Objective(Relative())
    raw = RNG.normal(size=(len(X), 3) if labels is THREE else len(X))
    gradient, hessian = own.gradient_hessian(labels, raw, WEIGHTS)
    sums = []
    own.gradient_hessian(labels, raw, WEIGHTS, total=lambda values: sums.append(values) or values)
    part = np.arange(len(X)) < 700
    totals = iter(sums)
    first = own.gradient_hessian(labels[part], raw[part], WEIGHTS[part], total=lambda _: next(totals))
    np.testing.assert_allclose(first[0], gradient[part], rtol=1e-12)
    np.testing.assert_allclose(first[1], hessian[part], rtol=1e-12)
    alone = own.gradient_hessian(labels[part], raw[part], WEIGHTS[part])
    assert not np.allclose(alone[0], gradient[part], rtol=1e-6)
