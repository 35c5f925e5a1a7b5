import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from controls import right_beyond_chance
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.tabular import load_model
from emphasis.tabular.models import MODELS
from emphasis.tabular.saved import checksum
from emphasis.weighting import DEFAULT_WEIGHTING
from small_fits import fitted, written


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
@pytest.mark.parametrize("model", [name for name in MODELS if not MODELS[name].trains_encoder])
def test_a_saved_model_predicts_what_the_fitted_one_does(model, name, wine, tmp_path):
    pytest.importorskip({"net": "torch", "linear": "torch"}.get(model, model), reason=f"needs the extra {model}")
    table, truth = wine
    path = written(tmp_path, table, name)
    found = fitted(tmp_path, path, model, folds=2, compare=False, categorical=["code"])
    saved = load_model(tmp_path / "fit")
    assert saved.classes == ("barbera", "barolo", "grignolino")
    assert (saved.kind, saved.weighting, saved.label) == (model, DEFAULT_WEIGHTING, "class")
    assert saved.encoder == found.encoder
    p = saved.predict_proba(table)
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)
    assert right_beyond_chance(saved.predict(table), truth)
    # Rows of another order, and columns that the model does not know, change nothing.
    other = table.sample(frac=1.0, random_state=0).assign(stranger=1)[["stranger", *reversed(table.columns)]]
    np.testing.assert_allclose(saved.predict_proba(other), p[other.index], atol=1e-6)
    lines = getattr(pd, "read_parquet" if name.endswith("parquet") else "read_csv")(
        tmp_path / "fit" / found.predictions_name
    )
    np.testing.assert_array_equal(lines["given"], table["class"])
    np.testing.assert_allclose(
        lines[["p_barbera", "p_barolo", "p_grignolino"]], found.probabilities[repr(found.weighting)]
    )


def test_a_damaged_model_is_named(wine, tmp_path):
    table, _ = wine
    fitted(tmp_path, written(tmp_path, table), folds=2, compare=False)
    folder = tmp_path / "fit" / "model"
    whole = (folder / "model.ubj").read_bytes()
    for content in (whole[:-100], whole[:-1] + b"\0"):
        (folder / "model.ubj").write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"model\.ubj is missing, incomplete"):
            load_model(tmp_path / "fit")
    (folder / "model.ubj").write_bytes(whole)
    text = (folder / "manifest.json").read_text()
    later, other = text.replace('"format": 4', '"format": 9'), text.replace('"barolo"', '"chianti"')
    assert text not in (later, other)
    for broken, said in (
        (text[:50], "not valid JSON"),
        ("{}", "is of format None"),
        (later, "is of format 9, this version reads 4"),
        (other, "changed by hand: its checksum"),
    ):
        (folder / "manifest.json").write_text(broken)
        with pytest.raises(DamagedFileError, match=rf"manifest\.json.*{said}"):
            load_model(tmp_path / "fit")
    with pytest.raises(DataNotFoundError, match="holds no model"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("model", ["xgboost", "net"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "svm"}, "is damaged"),
        ({"kind": 1.5}, "is damaged"),
        (
            {"classes": ["a", "b", "c", "d"]},
            r"cannot be read|predicts \(3,\) numbers per row for 4 classes|the calibration does not fit the classes",
        ),
        ({"classes": "abc"}, "is damaged"),
        ({"encoder": {"columns": []}}, "is damaged"),
        ({"encoder": {"columns": [{"kind": "levels", "name": "place", "levels": ["north"]}]}}, "cannot"),
        ({"encoder": {"columns": [{"kind": "numbers", "name": "x", "median": "a"}]}}, "is damaged"),
        ({"weighting": {"family": "SVM"}}, "is damaged"),
        ({"label": None}, "is damaged"),
        ({"sha256": "0"}, "is missing, incomplete or does not match"),
    ],
)
def test_a_manifest_that_was_changed_by_hand_is_checked_although_its_checksum_is_right(
    model, change, match, wine, tmp_path
):
    table, _ = wine
    fitted(tmp_path, written(tmp_path, table), model, folds=2, compare=False)
    path = tmp_path / "fit" / "model" / "manifest.json"
    manifest = json.loads(path.read_text()) | change
    path.write_text(json.dumps({**manifest, "checksum": checksum(manifest)}))
    with pytest.raises(DamagedFileError, match=match):
        load_model(tmp_path / "fit").predict(table)


def test_a_network_of_an_earlier_version_is_read(wine, tmp_path):
    import torch
    from safetensors.torch import load_file

    table, _ = wine
    fitted(tmp_path, written(tmp_path, table), "net", folds=2, compare=False)
    folder = tmp_path / "fit" / "model"
    expected = load_model(folder).predict_proba(table)
    torch.save(load_file(folder / "model.safetensors"), folder / "model.pt")
    (folder / "model.safetensors").unlink()
    digest = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    manifest = json.loads((folder / "manifest.json").read_text()) | {"file": "model.pt", "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "checksum": checksum(manifest)}))
    np.testing.assert_array_equal(load_model(folder).predict_proba(table), expected)


def test_a_card_describes_the_model_and_shows_names_as_text(wine, tmp_path):
    table, _ = wine
    table = table.assign(**{"class": table["class"].replace("barolo", "<b>|[x](http://y) # z")})
    fit = fitted(tmp_path, written(tmp_path, table), folds=2, compare=True)
    card = (tmp_path / "fit" / "model" / "README.md").read_text()
    assert card.startswith(
        "---\nlibrary_name: emphasis-learn\npipeline_tag: tabular-classification\n---\n\n# class of "
    )
    rows = table["class"].str.startswith("<b>").sum()
    assert rf"| \<b\>\|\[x\](http://y) \# z | {rows} |" in card
    for metric, title in (("accuracy", "Accuracy"), ("log_loss", "Log loss")):
        values = [fit.scores["methods"][method][metric]["value"] for method in fit.probabilities]
        assert f"| {title} | " + " | ".join(f"{value:.3f}" for value in values) + " | \n" in card
    assert str(tmp_path) not in card  # which is the same wherever the fit is


def test_a_network_takes_no_memory_before_its_file_proves_to_hold_as_much(wine, tmp_path):
    table, _ = wine
    fitted(tmp_path, written(tmp_path, table), "net", folds=2, compare=False)
    path = tmp_path / "fit" / "model" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["hidden"] = [10**9]
    path.write_text(json.dumps({**manifest, "checksum": checksum(manifest)}))
    with pytest.raises(DamagedFileError, match=r"model\.safetensors cannot be read .*size mismatch"):
        load_model(tmp_path / "fit")
