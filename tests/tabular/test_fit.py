import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import emphasis
from controls import deviations_from_chance, right_beyond_chance, share_of_the_way
from emphasis import CCE, DM, GCE
from emphasis.cli.main import main, make_parser
from emphasis.cli.options import join_negative_numbers
from emphasis.cli.weightings import weighting_from_text
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.tabular import fit_table, load_model
from emphasis.tabular.report import command, suspects
from small_fits import QUICK, fitted, written


def test_every_row_is_predicted_by_a_model_that_has_not_seen_it(wine, tmp_path):
    """A column that names each row's label cannot be learned from other rows; one seen in training would be."""
    table, _ = wine
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"noise": rng.normal(size=400), "class": rng.choice(["a", "b"], 400)})
    found = fitted(tmp_path, written(tmp_path, table), folds=4)
    for p in found.probabilities.values():
        assert abs(deviations_from_chance(lambda labels, p=p: np.mean(p.argmax(1) == labels), found.given)) < 4.0
    # The model of the whole table has seen them, and cross-entropy memorizes them.
    deep = {"n_estimators": 60, "max_depth": 12, "min_child_weight": 0}
    fit_table(
        tmp_path / "table.csv",
        label="class",
        folder=tmp_path / "seen",
        settings=deep,
        folds=2,
        weighting=CCE(),
        compare=False,
    )
    assert right_beyond_chance(load_model(tmp_path / "seen").predict(table), table["class"])
    assert sorted(np.bincount(found.fold)) == [100] * 4


def test_figures_are_those_of_the_predictions(cancer, tmp_path):
    table, truth = cancer
    found = fitted(tmp_path, written(tmp_path, table), folds=3)
    said = json.loads((tmp_path / "fit" / "metrics.json").read_text())
    assert said == found.scores
    lines = pd.read_csv(tmp_path / "fit" / "predictions.csv")
    by_fold = (lines["given"] == lines["predicted"]).groupby(lines["fold"]).mean()
    np.testing.assert_allclose(said["methods"][repr(found.weighting)]["accuracy"]["folds"], by_fold)
    difference = np.subtract(*(numbers["accuracy"]["folds"] for numbers in said["methods"].values()))
    np.testing.assert_allclose(said["difference"]["accuracy"]["folds"], difference)
    first = suspects(found)
    assert [one["p_given"] for one in first] == sorted(lines["p_given"][lines["given"] != lines["predicted"]])[:20]
    wrong = (table["class"] != truth).to_numpy()
    assert share_of_the_way(wrong[[one["row"] for one in first]].mean(), wrong.mean()) > 0.3
    page = (tmp_path / "fit" / "report.html").read_text()
    cells = {cell for one in first for pair in one["values"].items() for cell in pair}
    assert all(text in page for text in ("cross-entropy", "Labels to look at first", "malignant", "benign", *cells))
    assert sum(found.importances.values()) == pytest.approx(1.0)
    assert set(found.importances) == set(table.columns) - {"class"}


def test_weights_leave_rows_out_and_are_no_feature(wine, tmp_path):
    table, _ = wine
    wrong = table.copy()
    wrong["class"] = "barolo"
    both = pd.concat([table.assign(trust=1.0), wrong.assign(trust=0.0)], ignore_index=True)
    found = fitted(tmp_path, written(tmp_path, both), weight_column="trust", folds=2, weighting=CCE())
    assert "trust" not in found.importances
    agrees = (load_model(tmp_path / "fit").predict(table) == table["class"]).mean()
    given = found.given[: len(table)], found.probabilities["CCE()"][: len(table)].argmax(1)
    assert found.scores["methods"]["CCE()"]["accuracy"]["mean"] == pytest.approx(
        (given[0] == given[1]).mean(), abs=0.01
    )
    fit_table(
        written(tmp_path, both.drop(columns="trust"), "counted.csv"),
        label="class",
        folder=tmp_path / "counted",
        model="xgboost",
        settings=QUICK["xgboost"],
        folds=2,
        weighting=CCE(),
        compare=False,
    )
    counted = (load_model(tmp_path / "counted").predict(table) == table["class"]).mean()
    assert share_of_the_way(agrees, counted) > 0.5


def test_a_fit_that_was_killed_goes_on_and_ends_the_same(wine, tmp_path):
    table, _ = wine
    path = written(tmp_path, table)
    whole = fit_table(path, label="class", folder=tmp_path / "whole", folds=4)
    code = (
        "from emphasis.tabular import fit_table\n"
        f"fit_table({str(path)!r}, label='class', folder={str(tmp_path / 'killed')!r}, folds=4)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "folds" / "0.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = tmp_path / "killed" / "folds" / "0.npz"
    made = first.stat().st_mtime_ns
    fit_table(path, label="class", folder=tmp_path / "killed", folds=4)
    assert first.stat().st_mtime_ns == made
    for name in ("predictions.csv", "metrics.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole.folder / name).read_bytes()


def test_the_report_on_the_table_comes_before_anything_is_trained(wine, tmp_path):
    table = wine[0].assign(number=np.arange(len(wine[0])))  # looks like a row number: not used, which a user should see

    class StoppedError(Exception):
        pass

    def stop(report):
        assert any("'number'" in line for line in report.lines())
        raise StoppedError

    with pytest.raises(StoppedError):
        fit_table(written(tmp_path, table), label="class", folder=tmp_path / "fit", on_report=stop)
    assert not (tmp_path / "fit").exists()


def test_the_command_prints_notes_first_and_in_a_line_each(wine, tmp_path, capsys):
    name = "running number of the wine in the cellar"
    table = pd.concat([pd.Series(np.arange(len(wine[0])), name=name), wine[0]], axis=1)  # first: it numbers the rows
    options = ["--label", "class", "--out", str(tmp_path / "fit"), "--folds", "2", "--no-compare", "--model", "linear"]
    assert main(["fit", str(written(tmp_path, table)), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    notes = [line for line in lines if line.startswith("note: ")]
    assert lines[: len(notes)] == notes
    assert any(name in line and len(line) > 80 for line in notes)


def test_a_damaged_fold_is_trained_anew(wine, tmp_path):
    table, _ = wine
    path = written(tmp_path, table)
    before = fitted(tmp_path, path, folds=2)
    file = tmp_path / "fit" / "folds" / "1.npz"
    for content in (file.read_bytes()[:200], b"", b"not a zip file"):
        file.write_bytes(content)
        after = fitted(tmp_path, path, folds=2)
        for name, p in before.probabilities.items():
            np.testing.assert_array_equal(after.probabilities[name], p)


def test_another_fit_is_not_overwritten_unless_forced(wine, tmp_path):
    table, _ = wine
    path = written(tmp_path, table)
    fitted(tmp_path, path, folds=2)
    for options in ({"folds": 3}, {"folds": 2, "weighting": GCE(0.5)}, {"folds": 2, "seed": 1}):
        with pytest.raises(ValueError, match=r"other settings or other data.*--force"):
            fitted(tmp_path, path, **options)
    fitted(tmp_path, path, folds=3, force=True)
    written(tmp_path, table.iloc[1:])
    with pytest.raises(ValueError, match="other settings or other data"):
        fitted(tmp_path, path, folds=3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="not empty and holds no fit"):
        fit_table(path, label="class", folder=tmp_path / "mine")


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (lambda t: t, {"label": "clas"}, r"no column 'clas' \(did you mean 'class'"),
        (lambda t: t.assign(**{"class": "a"}), {}, "'class' is 'a' in every row"),
        (lambda t: t.assign(**{"class": range(len(t))}), {}, "178 distinct values"),
        (lambda t: t.assign(**{"class": np.linspace(0, 1, len(t))}), {}, "classes are texts or whole numbers"),
        (
            lambda t: t.assign(**{"class": t["class"].mask(t.index < 3)}),
            {"unlabeled": "error"},
            "empty in 3 of 178 rows",
        ),
        (
            lambda t: t.assign(**{"class": t["class"].mask(t.index < 2, "rare")}),
            {"rare_classes": "error"},
            r"'class' have fewer than 5 rows: 'rare' \(2\); keep, merge or drop them",
        ),
        (lambda t: t.assign(big=[np.inf] + [1.0] * (len(t) - 1)), {}, "'big' holds inf in 1 row;"),
        (lambda t: t[["class"]], {}, "no column besides the label"),
        (lambda t: t.iloc[:0], {}, "has no rows"),
        (lambda t: t.assign(w=-1.0), {"weight_column": "w"}, "'w' holds -1.0 in 178 rows"),
        (lambda t: t.assign(w="heavy"), {"weight_column": "w"}, "'w' does not hold numbers"),
        (lambda t: t, {"drop": ["class"]}, "cannot be dropped"),
        (lambda t: t, {"folds": 1}, "folds=1 is not allowed"),
        (lambda t: t, {"model": "xgbost"}, r"unknown model 'xgbost' \(did you mean 'xgboost'"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_cure(change, options, match, wine, tmp_path):
    path = written(tmp_path, change(wine[0]))
    with pytest.raises(ValueError, match=match):
        fit_table(path, folder=tmp_path / "fit", **{"label": "class", **options})
    assert not (tmp_path / "fit").exists()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([[1, 2]] * 178, "'odd' holds lists, bytes or other nested"),
        ([b"x"] * 178, "'odd' holds lists, bytes or other nested"),
        ([{"a": 1}] * 178, "'odd' holds lists, bytes or other nested"),
    ],
)
def test_parquets_own_kinds_of_columns_are_named(values, match, wine, tmp_path):
    path = written(tmp_path, wine[0].assign(odd=values), "table.parquet")
    with pytest.raises(ValueError, match=match):
        fit_table(path, label="class", folder=tmp_path / "fit")


def test_damaged_tables_are_named(tmp_path):
    for name, content in (("t.parquet", b"PAR1 cut"), ("t.csv", b'a,class\n"unclosed,1\n')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedFileError, match="cannot be read"):
            fit_table(tmp_path / name, label="class", folder=tmp_path / "fit")
    with pytest.raises(DataNotFoundError, match="does not exist"):
        fit_table(tmp_path / "none.csv", label="class", folder=tmp_path / "fit")


def test_a_weighting_of_ones_own_learns(wine, tmp_path):
    found = fitted(tmp_path, written(tmp_path, wine[0]), folds=2, weighting=2 * DM(lam=1, beta=2) + CCE())
    assert load_model(tmp_path / "fit").weighting == found.weighting
    assert "made in Python" in (tmp_path / "fit" / "report.html").read_text()


@pytest.mark.parametrize(
    "weighting", [None, CCE(), GCE(0.25), DM(lam=0.5, beta=-1.5), DM(lam=1, beta=8, vanishing=True)]
)
def test_the_command_on_the_page_makes_the_fit_again(weighting, wine, tmp_path, monkeypatch):
    path = written(tmp_path, wine[0], "my table.csv")
    found = fit_table(
        path,
        label="class",
        folder=tmp_path / "a fit",
        folds=2,
        seed=3,
        settings={"n_estimators": 9, "max_depth": 2},
        weighting=weighting,
        drop=["code"],
        compare=False,
        max_levels=50,
        missing=["?"],
    )
    arguments = shlex.split(command(found.request, found.folder))[1:]
    parsed = make_parser().parse_args(join_negative_numbers(arguments))
    again = weighting_from_text(parsed.weighting) if parsed.weighting else found.weighting
    assert again == found.weighting
    assert main(arguments) == 0  # and is the very same fit: the folder takes it


def test_a_table_in_memory_is_fitted_as_its_file_is(wine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table, _ = wine
    table = table.sample(frac=1.0, random_state=1)  # an index that is not 0, 1, ...
    options = {"label": "class", "folds": 2, "settings": QUICK["xgboost"], "compare": False}
    by_path = fit_table(written(tmp_path, table), folder=tmp_path / "by-path", **options)
    by_frame = emphasis.fit(table, **options)
    assert by_frame.folder.parent.name == "runs"
    assert by_frame.folder.name.startswith("class-")
    for name, p in by_path.probabilities.items():
        np.testing.assert_array_equal(by_frame.probabilities[name], p)
    np.testing.assert_array_equal(by_frame.model.predict(table), by_path.model.predict(table))
    assert "a table in memory" in (by_frame.folder / "report.html").read_text()
    first = by_frame.folder / "folds" / "0.npz"
    made = first.stat().st_mtime_ns
    assert emphasis.fit(table, **options).folder == by_frame.folder  # which is continued
    assert first.stat().st_mtime_ns == made
    assert emphasis.fit(table.iloc[1:], **options).folder != by_frame.folder
    with pytest.raises(TypeError, match="is not a table"):
        emphasis.fit([[1, 2]], label="class")


def test_columns_are_encoded_once_a_fold_for_all_methods(wine, tmp_path, monkeypatch):
    from emphasis.tabular import cross_validation as module

    encoded = []
    fit_encoder = module.fit_encoder
    monkeypatch.setattr(module, "fit_encoder", lambda *rest: (encoded.append(1), fit_encoder(*rest))[1])
    found = fitted(tmp_path, written(tmp_path, wine[0]), folds=3)
    assert len(found.probabilities) == 2
    assert len(encoded) == 3


def test_a_fit_is_known_by_the_columns_that_it_uses(wine, tmp_path):
    table = wine[0].assign(note="a")
    fitted(tmp_path, table, folds=2, drop=["note"])
    fold = tmp_path / "fit" / "folds" / "0.npz"
    made = fold.stat().st_mtime_ns
    fitted(tmp_path, table.assign(note="b"), folds=2, drop=["note"])
    assert fold.stat().st_mtime_ns == made
    column = table.columns[0]
    for changed in (table.assign(**{column: table[column] + 1}), table.rename(columns={column: "another"})):
        with pytest.raises(ValueError, match="other settings or other data"):
            fitted(tmp_path, changed, folds=2, drop=["note"])
