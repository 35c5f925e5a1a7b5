"""Exported models: the same probabilities as the fitted ones, from the columns of a table."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime")

import emphasis  # noqa: E402
from emphasis.cli.main import main  # noqa: E402
from emphasis.errors import EmphasisRuntimeError, EmphasisValueError  # noqa: E402
from emphasis.tabular import onnx_export  # noqa: E402
from emphasis.tabular.calibration import Calibration  # noqa: E402
from emphasis.tabular.onnx_export import export_onnx, onnx_inputs  # noqa: E402

QUICK = {"xgboost": "n_estimators", "lightgbm": "n_estimators", "catboost": "iterations"}
N = 300


def table(classes, seed=0):
    """Numbers, categories, truth values and dates, each with missing values; categories and dates decide the label."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(N) < 0.1, np.nan, rng.normal(50, 20, N).round(1)),
            "plan": rng.choice(np.array(["basic", "full", "größer", None], dtype=object), N),
            "member": rng.choice([True, False], N),
            "code": rng.integers(1, 4, N),
            "since": pd.Timestamp("1999-12-28") + pd.to_timedelta(rng.integers(0, 9000, N), unit="D"),
        }
    )
    frame.loc[::9, "since"] = pd.NaT
    score = frame["age"].fillna(40) + 20 * (frame["plan"] == "full") + 2 * frame["since"].dt.month.fillna(6)
    frame["label"] = np.array(["no", "perhaps", "yes"])[:classes][pd.qcut(score, classes, labels=False)]
    return frame


def fitted(folder, kind, classes, **options):
    settings = {QUICK[kind]: 12} if kind in QUICK else {"max_epochs": 3}
    result = emphasis.fit(
        table(classes), label="label", model=kind, folds=2, compare=False, folder=folder, settings=settings,
        categorical=["code"], **options,
    )  # fmt: skip  # one call
    return result.model


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["xgboost", "lightgbm", "catboost", "net", "linear"])
def test_probabilities_and_labels_of_further_rows_are_those_of_the_model(kind, classes, tmp_path):
    if kind in QUICK:
        pytest.importorskip(kind)
    model = fitted(tmp_path / "fit", kind, classes)
    exported = emphasis.export(tmp_path / "fit", tmp_path / "m.onnx")
    assert exported.difference <= 1e-5
    further = table(classes, seed=1)
    further.loc[:5, "plan"] = "unknown"
    further.loc[:50, "since"] = pd.to_datetime(["1969-12-31", "2000-02-29", "1900-03-01"] * 17)
    session = onnxruntime.InferenceSession(exported.path)
    labels, p = session.run(None, onnx_inputs(model.encoder, further))
    np.testing.assert_allclose(p, model.predict_proba(further), atol=1e-5)
    assert (labels == model.predict(further)).mean() > 0.99  # ties aside
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(model.classes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a fit of three classes."""
    path = tmp_path_factory.mktemp("fit")
    fitted(path, "xgboost", 3)
    return path


LINE = ([-3.0, -1.0, -1.0, 2.0], [0.1, 0.3, 0.5, 0.9])


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration("sigmoid", ((-0.7, 0.2), (), (-1.3, -0.4))),
        Calibration("isotonic", (LINE, ([0.0], [0.4]), ())),
    ],
    ids=["sigmoid", "isotonic"],
)
def test_the_calibration_is_part_of_the_exported_model(calibration, folder, monkeypatch):
    load = onnx_export.load_model
    inputs = onnx_inputs(load(folder).encoder, table(3, seed=2))

    def probabilities(chosen):
        model = dataclasses.replace(load(folder), calibration=chosen)
        monkeypatch.setattr(onnx_export, "load_model", lambda _: model)
        return onnxruntime.InferenceSession(export_onnx(folder, folder / "m.onnx").path).run(None, inputs)[1]

    before, after = probabilities(None), probabilities(calibration)
    assert np.abs(before - after).max() > 0.01
    np.testing.assert_allclose(after, calibration.apply(before.astype(np.float64)), atol=1e-5)


def test_a_model_that_differs_is_not_written(folder, monkeypatch):
    load = onnx_export.load_model
    other = Calibration("sigmoid", ((-1.001, 0.0), (), ()))
    monkeypatch.setattr(onnx_export, "load_model", lambda path: dataclasses.replace(load(path), calibration=other))
    monkeypatch.setattr(onnx_export, "add_calibration", lambda _graph, _calibration, p: p)
    with pytest.raises(EmphasisRuntimeError, match="nothing was written"):
        export_onnx(folder, folder / "differs.onnx")
    assert not (folder / "differs.onnx").exists()


def test_columns_may_have_the_names_of_the_outputs_and_of_the_nodes_of_the_model(tmp_path):
    names = {"age": "label", "plan": "probabilities", "since": "features"}
    frame = table(2).rename(columns={"label": "y", **names})
    emphasis.fit(frame, label="y", folds=2, compare=False, folder=tmp_path / "fit", settings={"n_estimators": 3})
    exported = emphasis.export(tmp_path / "fit")
    assert list(exported.outputs) == ["label_", "probabilities_"]
    assert list(exported.inputs)[:2] == ["label", "probabilities"]


def test_the_command_says_what_it_has_written_and_the_page_uses_it(folder, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(18, 80, 200), "plan": rng.choice(["basic", "full"], 200)})
    frame["churned"] = np.where(frame["age"] > 50, "yes", "no")
    monkeypatch.chdir(tmp_path)
    emphasis.fit(frame, label="churned", folds=2, compare=False, folder="runs/customers")
    assert main(["export", "runs/customers"]) == 0
    assert "age: a number in float64" in capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "fit.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "onnxruntime" in b)
    names = {}
    exec(block, names)
    assert list(names["labels"]) == ["no", "yes"]
    assert main(["export", "runs/none"]) == 2


def test_a_column_of_text_is_named(tmp_path):
    frame = table(2)
    rng = np.random.default_rng(0)
    words = np.array(["the", "cat", "sat", "on", "a", "mat", "and", "saw", "red", "green", "blue", "birds"])
    frame["review"] = [" ".join(rng.choice(words, 6)) for _ in range(N)]
    emphasis.fit(frame, label="label", text=["review"], model="linear", folds=2, compare=False, folder=tmp_path / "fit")
    with pytest.raises(EmphasisValueError, match="the column 'review' holds text"):
        emphasis.export(tmp_path / "fit")
