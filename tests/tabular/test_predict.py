"""Tables as they are, from `emphasis fit` to `emphasis predict`."""

import json

import numpy as np
import pandas as pd
import pytest

from emphasis.cli.main import main
from emphasis.tabular import fit_table, load_model
from emphasis.tabular.predict import predict_table
from emphasis.tabular.saved import checksum
from emphasis.tabular.trained_rows import row_hashes

QUICK = ["--no-progress", "--no-compare", "--folds", "2", "--set", "n_estimators=4"]
N = 120


def messy(seed=0):
    """A table with all that real ones have; the label is whether `height` is large."""
    rng = np.random.default_rng(seed)
    height = rng.normal(size=N).round(3)
    table = pd.DataFrame(
        {
            "row": np.arange(N),
            "key": [f"{i:03}" for i in rng.permutation(N)],
            "height": [f"{value:.3f}".replace(".", ",") for value in height],
            "member": rng.choice(["True", "False"], N),
            "since": pd.Series(pd.date_range("2020-01-13", periods=N, freq="3D")).dt.strftime("%d.%m.%Y"),
            "remark": [f"a few words about number {i} of many" for i in rng.permutation(N)],
            "site": "north",
            "town": [f"town {i % 30}" for i in range(N)],
            "Größe": np.where(height > 0, "010", "10"),
        }
    )
    table.loc[[3, 50], "Größe"] = ""
    table.loc[7, "Größe"] = f"{table.loc[7, 'Größe']} "
    table.loc[9, "Größe"] = "rare"
    features = ["height", "member", "since", "remark", "town", "Größe"]
    table.loc[111, features] = table.loc[110, features]
    return table


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The folder of a fit of the table, and what the command has printed."""
    import contextlib
    import io
    import os

    folder = tmp_path_factory.mktemp("messy")
    messy().to_csv(folder / "t.csv", sep=";", index=False, encoding="cp1252")
    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    with contextlib.redirect_stdout(printed):
        arguments = ["fit", str(folder / "t.csv"), "--label", "Größe", "--id", "key", "--out", str(folder / "fit")]
        assert main([*arguments, "--max-levels", "20", *QUICK]) == 0
    os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return folder, printed.getvalue()


def test_a_messy_table_is_fitted_with_one_list_of_what_is_odd(fitted):
    folder, printed = fitted
    expected = [
        "read with separator semicolon, encoding cp1252; a decimal comma in 'height'",
        "the label column 'Größe' is empty in 2 of 120 rows (rows 3, 50): skipped",
        "1 of 3 classes of 'Größe' have fewer than 2 rows: 'rare' (1): skipped",
        "the column 'row' numbers the rows: ignored (use it with --keep)",
        "the column 'remark' holds 119 different texts of several words: learned from as text",
        "the column 'site' is 'north' in every row: ignored",
        "the column 'town' has 30 distinct values in 120 rows: the 20 most frequent, in 68 % of the rows",
        "1 of 117 rows repeat the features of an earlier row (row 111): equal rows are held out together",
        "117 of 120 rows are used",
    ]
    page = (folder / "fit" / "report.html").read_text(encoding="utf-8")
    said = json.loads((folder / "fit" / "table.json").read_text(encoding="utf-8"))
    for line in expected:
        assert f"note: {line}" in printed
        assert line.replace("'", "&#39;") in page
    assert (said["rows"], said["used"], len(said["findings"])) == (120, 117, 9)
    assert "spells one class in 2 ways" in printed
    model = load_model(folder / "fit")
    assert model.classes == ("010", "10")
    assert [column.name for column in model.encoder.columns] == ["height", "member", "since", "town", "remark"]


def test_ids_and_row_numbers_of_the_file_are_in_the_predictions_and_on_the_page(fitted):
    folder, _ = fitted
    table = messy()
    lines = pd.read_csv(folder / "fit" / "predictions.csv", dtype=str)
    assert lines["row"].tolist() == [str(i) for i in range(N) if i not in (3, 9, 50)]
    assert lines["id"].tolist() == table["key"].drop([3, 9, 50]).tolist()
    assert lines["given"].tolist() == table["Größe"].drop([3, 9, 50]).str.strip().tolist()


def test_predictions_say_classes_as_they_are_written_and_know_the_rows_of_training(fitted, capsys, monkeypatch):
    folder, _ = fitted
    monkeypatch.chdir(folder)
    assert main(["predict", "fit", "t.csv", "--id", "key", "--out", "p.csv"]) == 0
    printed = capsys.readouterr().out
    lines = pd.read_csv("p.csv", dtype=str)
    assert set(lines["predicted"]) == {"010", "10"}
    assert lines["id"].tolist() == messy()["key"].tolist()
    assert "rows that the model was trained on, whose accuracy says nothing about new rows" in printed
    assert "n = 117" in printed
    messy(1).to_csv("new.csv", sep="\t", index=False, encoding="utf-16")
    assert main(["predict", "fit", "new.csv", "--out", "-"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "row,predicted,p_010,p_10"
    assert len(out.splitlines()) == N + 1
    accuracy = float(err.partition("accuracy by the column 'Größe': ")[2].split()[0])
    assert accuracy > 0.9
    assert "trained on" not in err
    pd.concat([messy(), messy(1)]).to_csv("both.csv", index=False)
    assert main(["predict", "fit", "both.csv"]) == 0
    assert "(n = 119)\nnote: 117 further rows equal rows that the model was trained on" in capsys.readouterr().out


def test_rows_whose_label_is_spelled_like_a_missing_value_are_skipped_when_asked(tmp_path, monkeypatch, capsys):
    """As R writes an unknown sex of a penguin."""
    monkeypatch.chdir(tmp_path)
    mass = np.linspace(3000, 6000, 120)
    sex = np.where(mass > 4500, "MALE", "FEMALE")
    sex[::10] = "NA"
    pd.DataFrame({"mass": mass, "flipper": mass[::-1] % 37, "sex": sex}).to_csv("penguins.csv", index=False)
    assert main(["fit", "penguins.csv", "--label", "sex", "--missing-labels", "NA", *QUICK]) == 0
    assert "the label column 'sex' is empty or 'NA' in 12 of 120 rows" in " ".join(capsys.readouterr().out.split())
    assert load_model("runs/penguins").classes == ("FEMALE", "MALE")
    assert "--missing-labels NA" in (tmp_path / "runs/penguins/report.html").read_text()
    assert main(["predict", "runs/penguins", "penguins.csv", "--out", "p.csv"]) == 0
    assert "(n = 108)" in capsys.readouterr().out
    assert len(pd.read_csv("p.csv")) == 120


def test_other_spellings_of_values_are_understood(fitted):
    model = load_model(fitted[0] / "fit")
    table = messy(2).assign(height=0.5)
    expected = predict_table(model, table).frame
    for spelled in (
        table["member"] == "True",
        (table["member"] == "True").astype(int),
        (table["member"] == "True").astype(float),
        table["member"].str.lower(),
    ):
        frame = predict_table(model, table.assign(member=spelled)).frame
        pd.testing.assert_frame_equal(frame, expected)
        assert not predict_table(model, table.assign(member=spelled)).notes
    labeled = table.assign(Größe=[10, 10.0] * (N // 2))
    assert predict_table(model, labeled).correct.sum() == (expected["predicted"] == "10").sum()


def test_a_model_predicts_tables_of_other_libraries_and_files(fitted):
    import pyarrow

    model = load_model(fitted[0] / "fit")
    new = messy(4).assign(height=np.linspace(-1, 1, N))
    expected = model.predict_proba(new)
    np.testing.assert_array_equal(model.predict_proba(pyarrow.Table.from_pandas(new)), expected)
    new.to_csv(fitted[0] / "other.csv", sep="|", index=False)
    np.testing.assert_array_equal(model.predict_proba(fitted[0] / "other.csv"), expected)


def test_columns_that_are_missing_empty_or_of_another_kind_are_named(fitted, capsys, monkeypatch):
    folder, _ = fitted
    monkeypatch.chdir(folder)
    new = messy(3)
    new.assign(height="", member="maybe").to_csv("odd.csv", index=False)
    assert main(["predict", "fit", "odd.csv", "--out", "odd-p.csv"]) == 0
    printed = capsys.readouterr().out
    assert "note: the column 'height' is empty in all 120 rows of this table; the median of the training" in printed
    assert "'member' holds no value of the training table: 'maybe' in this table, 'False', 'True' in" in printed
    new.assign(height="tall", since="soon").to_csv("odd.csv", index=False)
    assert main(["predict", "fit", "odd.csv"]) == 2
    error = capsys.readouterr().err
    assert "2 problems in" in error
    assert "'height' holds numbers in the training table, and texts, such as 'tall', in this table" in error
    assert "'since' holds dates in the training table, and other texts, such as 'soon', in this table" in error
    new.drop(columns="height").to_csv("odd.csv", index=False)
    assert main(["predict", "fit", "odd.csv"]) == 2
    assert "the table lacks the column 'height'" in capsys.readouterr().err
    assert main(["predict", "fit", "t.csv", "--id", "keys"]) == 2
    assert "no column 'keys' (did you mean 'key'?)" in capsys.readouterr().err


def test_a_model_of_before_is_read_and_says_that_it_does_not_know_its_rows(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = messy().drop(columns=["since", "key"])
    table["height"] = table["height"].str.replace(",", ".")
    table.to_csv("t.csv", index=False)
    assert main(["fit", "t.csv", "--label", "Größe", "--out", "fit", *QUICK]) == 0
    path = tmp_path / "fit" / "model" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["rows_sha256"]
    manifest |= {"format": 2}
    path.write_text(json.dumps({**manifest, "checksum": checksum(manifest)}), encoding="utf-8")
    (path.parent / "rows.npy").unlink()
    capsys.readouterr()
    assert main(["predict", "fit", "t.csv", "--out", "p.csv"]) == 0
    assert "it is not known whether the model was trained on these rows" in capsys.readouterr().out


def test_all_that_forbids_a_table_is_said_at_once_in_the_words_of_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = messy().assign(small=[-np.inf] + [1.0] * (N - 1), big=[np.inf] + [1.0] * (N - 1))
    table.to_csv("t.csv", index=False)
    arguments = ["fit", "t.csv", "--label", "Größe", "--unlabeled", "error", *QUICK]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n- ") == 3
    for part in (
        "(--unlabeled drop)",
        "'small' holds -inf in 1 row",
        "'big' holds inf in 1 row",
    ):
        assert part in error
    with pytest.raises(ValueError, match=r"(?s)\(unlabeled=drop\).*'small' holds -inf in 1 row"):
        fit_table("t.csv", label="Größe", folder="f", unlabeled="error")


def test_more_than_a_hundred_classes_are_fitted(tmp_path):
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(110), 4)
    table = pd.DataFrame({"x": codes + rng.normal(size=440) / 9, "y": [f"intent {code:03}" for code in codes]})
    result = fit_table(
        table, label="y", folder=tmp_path / "fit", folds=2, compare=False, settings={"n_estimators": 2, "max_depth": 2}
    )
    assert len(result.classes) == 110
    assert (tmp_path / "fit" / "report.html").stat().st_size < 1_000_000


def test_hashes_tell_rows_apart_and_do_not_depend_on_their_order():
    rows = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float32)
    hashes = row_hashes(rows)
    assert len(np.unique(hashes)) == 5000
    np.testing.assert_array_equal(row_hashes(rows[::-1]), hashes[::-1])
    np.testing.assert_array_equal(row_hashes(np.float32([[0.0, 1.0]])), row_hashes(np.float32([[-0.0, 1.0]])))
    assert row_hashes(np.float32([[1.0, 2.0]])) != row_hashes(np.float32([[2.0, 1.0]]))
    assert row_hashes(np.float32([[1.0, 2.0]])).tolist() == [row_hashes(np.float32([[1.0, 2.0]]))[0]]
