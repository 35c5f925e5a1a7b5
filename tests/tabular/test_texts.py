"""Free text in every command that takes a table."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from made_up_texts import text_table, tiny_encoder

import emphasis
from emphasis.cli.main import main
from emphasis.datasets.errors import DamagedFileError
from emphasis.tabular import fit_table, load_model
from emphasis.tabular.saved import TEXTS


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a table of 20 % wrong topics, and a fit of it."""
    folder = tmp_path_factory.mktemp("texts")
    table, _ = text_table(noise=0.2)
    table.to_csv(folder / "letters.csv", index=False)
    command = ["fit", str(folder / "letters.csv"), "--label", "topic", "--text", "body", "--model", "linear"]
    command += ["--folds", "2", "--set", "max_epochs=30", "--no-progress", "--out", str(folder / "fit")]
    assert main(command) == 0
    return folder


def test_a_fit_learns_the_topic_of_new_texts_and_lists_the_column(fitted):
    new, topics = text_table(seed=1)
    model = load_model(fitted / "fit")
    assert model.kind == "linear"
    assert (model.predict(new) == topics).mean() > 0.88
    (finding,) = json.loads((fitted / "fit" / "table.json").read_text())["findings"]
    assert finding["kind"] == "text"
    assert "learned from as text" in finding["action"]


def test_predict_knows_rows_of_the_training_table_and_takes_texts_of_every_sort(fitted, capsys):
    new, topics = text_table(seed=1)
    odd = pd.DataFrame({"pages": 1, "body": ["", None, "word", "今天天气很好", "long " * 20_000], "topic": "cooking"})
    old = pd.read_csv(fitted / "letters.csv")
    pd.concat([new, odd, old]).to_csv(fitted / "new.csv", index=False)
    assert main(["predict", str(fitted / "fit"), str(fitted / "new.csv"), "--out", str(fitted / "out.csv")]) == 0
    said = capsys.readouterr().out
    assert f"(n = {len(new) + len(odd)})" in said
    assert f"{len(old)} further rows equal rows that the model was trained on" in said
    predicted = pd.read_csv(fitted / "out.csv")
    assert (predicted["predicted"][: len(new)] == topics).mean() > 0.88
    assert predicted[["p_cooking", "p_sailing"]].notna().all(axis=None)
    new.drop(columns="topic").assign(body=None).to_csv(fitted / "new.csv", index=False)
    assert main(["predict", str(fitted / "fit"), str(fitted / "new.csv"), "--out", str(fitted / "out.csv")]) == 0
    assert "the column 'body' is empty in all 300 rows of this table" in capsys.readouterr().out


def test_the_page_shows_the_beginnings_of_texts_from_the_left(tmp_path):
    table, _ = text_table(rows=60, noise=0.2)
    long = table["body"] + " " + "the very long end of a review " * 50
    fit_table(
        table.assign(body=long)[["body", "topic"]],
        label="topic",
        model="linear",
        settings={"max_epochs": 3},
        folds=2,
        compare=False,
        folder=tmp_path / "fit",
    )
    page = (tmp_path / "fit" / "report.html").read_text(encoding="utf-8")
    assert "60 rows, 1 column, 2 classes" in page
    assert '<th scope="col" class="text">body</th>' in page
    cells = re.findall(r'<td class="text prose">([^<]{100,})</td>', page)
    assert cells
    assert all(cell.endswith(" …") and len(cell) <= 302 for cell in cells)


def test_a_file_of_texts_that_is_damaged_or_of_another_model_is_named(fitted, tmp_path):
    path = fitted / "fit" / "model" / TEXTS
    whole = path.read_bytes()
    try:
        for content in (whole[:-10], whole[:-1] + b"\1", b""):
            path.write_bytes(content)
            with pytest.raises(DamagedFileError, match=r"texts\.npz is missing, incomplete or does not match manifest"):
                load_model(fitted / "fit")
    finally:
        path.write_bytes(whole)


def test_boosting_learns_from_texts_as_well(tmp_path):
    table, _ = text_table(noise=0.2)
    result = emphasis.fit(table, label="topic", folder=tmp_path, folds=2, compare=False, settings={"n_estimators": 30})
    new, topics = text_table(seed=1)
    assert (result.model.predict(new) == topics).mean() > 0.8
    assert next(iter(result.importances)) == "body"


def test_audit_and_tune_use_the_same_features(fitted, capsys):
    out = fitted / "audit"
    command = ["audit", str(fitted / "letters.csv"), "--label", "topic", "--text", "body", "--iterations", "60"]
    command += ["--set", "solver.learning_rate=0.05", "--accelerator", "cpu", "--no-progress"]
    assert main([*command, "--out", str(out)]) == 0
    suspects = pd.read_csv(out / "suspects.csv")
    _, topics = text_table(noise=0.2)
    wrong = (pd.read_csv(fitted / "letters.csv").topic != topics).to_numpy()
    assert wrong[suspects.row[: wrong.sum()]].mean() > 0.7
    result = emphasis.tune(
        fitted / "letters.csv",
        label="topic",
        text="body",
        folder=fitted / "tune",
        trials=1,
        folds=1,
        iterations=30,
        assumed_rate=0.2,
        settings={"solver.learning_rate": 0.05},
        accelerator="cpu",
    )
    assert result.baseline.mean > 0.6


def test_an_audit_of_a_table_in_memory_learns_from_its_texts():
    table, topics = text_table(noise=0.2)
    audit = emphasis.audit(table.topic.to_numpy(), features=table[["pages", "body"]], cv_folds=2)
    wrong = (table.topic != topics).to_numpy()
    assert wrong[audit.suspects.order[: wrong.sum()]].mean() > 0.6
    assert np.isfinite(audit.suspects.score).all()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def test_an_encoder_takes_the_place_of_tfidf_and_predict_finds_it(encoder, fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "fit"
    command = ["fit", str(fitted / "letters.csv"), "--label", "topic", "--text", "body", "--encoder", str(encoder)]
    command += ["--model", "linear", "--set", "max_epochs=30", "--folds", "2", "--no-compare", "--no-progress"]
    assert main([*command, "--out", str(out)]) == 0
    new, topics = text_table(seed=1)
    new.to_csv(tmp_path / "new.csv", index=False)
    predict = ["predict", str(out), str(tmp_path / "new.csv"), "--out", str(tmp_path / "predicted.csv")]
    assert main(predict) == 0
    first = pd.read_csv(tmp_path / "predicted.csv")
    assert (first.predicted == topics).mean() > 0.8
    moved, other = encoder.rename(tmp_path / "moved"), tiny_encoder(tmp_path / "other", seed=1)
    try:
        capsys.readouterr()
        assert main(predict) == 2
        assert "that the model was trained with is missing; give its folder with --encoder" in capsys.readouterr().err
        assert main([*predict, "--encoder", str(other)]) == 2
        assert "differ from those that the model was trained with" in capsys.readouterr().err
        assert main([*predict, "--encoder", str(moved)]) == 0
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "predicted.csv"), first)
    finally:
        moved.rename(encoder)


def test_an_audit_by_an_encoder(encoder, fitted, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = emphasis.audit(
        fitted / "letters.csv",
        label="topic",
        text="body",
        encoder=str(encoder),
        folder=tmp_path / "audit",
        iterations=60,
        settings={"solver.learning_rate": 0.05},
        accelerator="cpu",
    )
    wrong = pd.read_csv(fitted / "letters.csv").topic.to_numpy() != text_table(noise=0.2)[1]
    assert wrong[result.rows[result.suspects.order[: wrong.sum()]]].mean() > 0.5
