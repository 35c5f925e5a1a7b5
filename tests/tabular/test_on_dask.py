"""A fit of a table in several Parquet files on a Dask cluster of two processes."""

import json

import numpy as np
import pytest

pytest.importorskip("dask")
pytest.importorskip("distributed")

import pandas as pd

from dask_workers import two_workers
from emphasis import Relative
from emphasis.comparison import evaluate
from emphasis.datasets.table_report import TableError
from emphasis.errors import EmphasisValueError
from emphasis.scores import METRICS
from emphasis.tabular import fit_table, load_model
from emphasis.tabular.on_dask import PREDICTIONS, fit_parts
from emphasis.tabular.streamed_scores import StreamedScores

RNG = np.random.default_rng(0)
ROWS = 900
NUMBERS = RNG.integers(0, 40, (ROWS, 3)) / 4
SCORE = NUMBERS[:, 0] * NUMBERS[:, 1] + 6 * NUMBERS[:, 2] + RNG.normal(0, 5, ROWS)
LABELS = np.array(["low", "middle", "high"])[np.digitize(SCORE, np.quantile(SCORE, [0.3, 0.6]))]
FRAME = pd.DataFrame(NUMBERS, columns=["a", "b", "c"]).assign(
    kind=np.where(RNG.random(ROWS) < 0.1, None, np.where(SCORE + RNG.normal(0, 20, ROWS) > 40, "x", "y")),
    whole=RNG.integers(0, 5, ROWS),
    number=np.arange(ROWS),
    y=LABELS,
)
FRAME.loc[5, "y"] = None
SMALL = {"n_estimators": 12, "max_depth": 4}
OPTIONS = {"label": "y", "drop": ["number"], "categorical": ["whole"], "settings": SMALL, "folds": 3}


@pytest.fixture(scope="module")
def client():
    with two_workers() as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / f"{number}.parquet" for number in range(3)]
    for path, part in zip(paths, np.array_split(np.arange(ROWS), 3), strict=True):
        FRAME.iloc[part].to_parquet(path, index=False)
    return paths


@pytest.fixture(scope="module")
def fitted(client, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits") / "dask"
    return fit_parts(files, folder=folder, client=client, **OPTIONS)


def test_the_model_is_that_of_the_table_in_one_file(fitted, tmp_path):
    local = fit_table(FRAME, folder=tmp_path / "one", calibrate=False, compare=False, **OPTIONS)
    model = load_model(fitted.folder)
    assert model.classes == local.classes == ("high", "low", "middle")
    assert model.encoder.feature_names == [
        *"abc",
        "kind = x",
        "kind = y",
        "kind is missing",
        *(f"whole = {n}" for n in range(5)),
    ]
    np.testing.assert_allclose(model.predict_proba(FRAME), local.model.predict_proba(FRAME), atol=1e-6)


def test_every_row_is_predicted_by_a_model_that_was_not_trained_on_it(fitted, files):
    predictions = pd.concat([pd.read_parquet(fitted.folder / PREDICTIONS / file.name) for file in files])
    labeled = FRAME.drop(index=5)
    assert fitted.rows == len(predictions) == len(labeled)
    assert predictions["given"].tolist() == labeled["y"].tolist()
    per_fold = predictions.groupby("given")["fold"].value_counts().unstack()
    assert (per_fold.max(axis=1) - per_fold.min(axis=1) <= 1).all()
    # The same folds in one process.
    table = labeled.assign(fold=predictions["fold"].to_numpy())
    p = predictions[[f"p_{name}" for name in fitted.classes]].to_numpy()
    held, rest = table[table["fold"] == 1], table[table["fold"] != 1]
    options = {**OPTIONS, "drop": ["number", "fold"], "folds": 2}
    local = fit_table(rest, folder=fitted.folder.parent / "rest", calibrate=False, compare=False, **options)
    rows = (table["fold"] == 1).to_numpy()
    np.testing.assert_allclose(p[rows], local.model.predict_proba(held), atol=1e-6)
    scores = json.loads((fitted.folder / "metrics.json").read_text())
    given = np.searchsorted(fitted.classes, predictions["given"])
    own = {repr(Relative()): p.astype(float)}
    whole = evaluate(given, own, fitted.classes, baseline="", fold=predictions["fold"].to_numpy())
    for key in METRICS:
        expected = whole["methods"][repr(Relative())][key]
        assert scores["methods"][repr(Relative())][key]["folds"] == pytest.approx(expected["folds"], abs=2e-3)


def test_a_fit_goes_on_with_the_folds_that_it_has(fitted, client, files):
    models = {path: path.stat().st_mtime_ns for path in (fitted.folder / "folds").iterdir()}
    assert len(models) == 6
    next(iter(models)).unlink()
    again = fit_parts(files, folder=fitted.folder, client=client, **OPTIONS)
    assert again.scores == fitted.scores
    assert sum(path.stat().st_mtime_ns != at for path, at in models.items()) == 1
    with pytest.raises(EmphasisValueError, match="holds a fit of other settings"):
        fit_parts(files, folder=fitted.folder, client=client, **{**OPTIONS, "seed": 1})


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        (pd.Timestamp("2026-01-01"), {}, r"the column 'new' holds timestamp\[.*\], which .* may not"),
        (["a", "b"], {}, "the column 'new' holds list"),
        ("text", {"label": "z"}, "has no column 'z'"),
        ("text", {"label": "new"}, "holds fewer than 2 classes"),
    ],
)
def test_what_is_not_supported_is_refused_with_the_cure(column, options, message, client, tmp_path):
    FRAME.head(60).assign(new=[column] * 60).to_parquet(tmp_path / "odd.parquet")
    with pytest.raises(TableError, match=message):
        fit_parts([tmp_path / "odd.parquet"], folder=tmp_path / "fit", client=client, **{**OPTIONS, **options})


def test_streamed_scores_are_those_of_all_rows():
    rng = np.random.default_rng(1)
    given, fold, weights = rng.integers(0, 3, 2000), rng.integers(0, 4, 2000), rng.random(2000) + 0.5
    ps = [rng.dirichlet(np.ones(3), 2000) * 0.6 + 0.4 * (np.arange(3) == given[:, None]) * sharp for sharp in (1, 0.5)]
    ps = [p / p.sum(1, keepdims=True) for p in ps]
    streamed = StreamedScores(["ours", "CCE"], "abc", 4)
    for part in np.array_split(np.arange(2000), 7):
        streamed.add(given[part], [p[part] for p in ps], fold[part], weights[part])
    found = streamed.result()
    whole = evaluate(
        given, dict(zip(["ours", "CCE"], ps, strict=True)), "abc", baseline="CCE", weights=weights, fold=fold
    )
    for method in ("ours", "CCE"):
        for key in METRICS:
            tolerance = 1e-3 if key == "auc" else 1e-9
            expected = whole["methods"][method][key]
            assert found["methods"][method][key]["value"] == pytest.approx(expected["value"], abs=tolerance)
            assert found["methods"][method][key]["folds"] == pytest.approx(expected["folds"], abs=tolerance)
        assert found["recall"][method] == pytest.approx(whole["recall"][method])
    for key in ("accuracy", "log_loss"):
        for end in ("value", "low", "high"):
            assert found["difference"][key][end] == pytest.approx(whole["difference"][key][end], abs=1e-9)
