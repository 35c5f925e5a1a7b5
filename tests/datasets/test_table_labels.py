from __future__ import annotations

import numpy as np
import pytest

from emphasis.datasets.table import TableOptions, prepare_table
from emphasis.datasets.table_labels import LabelOptions
from emphasis.datasets.table_report import TableError, in_shell

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")


def labeled(labels, **options):
    """A table in memory with these labels and a column to learn from."""
    frame = pd.DataFrame({"x": np.arange(len(labels)) % 7 / 2, "y": labels})
    fewest = options.pop("fewest", 1)
    return prepare_table(frame, "y", TableOptions(labels=LabelOptions(**options)), fewest=fewest)


def written(tmp_path, labels, **options):
    """The same as a file, each cell as it is given."""
    path = tmp_path / "t.csv"
    lines = [f'{i % 7 / 2},"{label}"' for i, label in enumerate(labels)]
    path.write_text("\n".join(["x,y", *lines]) + "\n", encoding="utf-8")
    fewest = options.pop("fewest", 1)
    return prepare_table(path, "y", TableOptions(labels=LabelOptions(**options)), fewest=fewest)


def kinds(table):
    return {finding.kind: finding for finding in table.report.findings}


def test_only_an_empty_cell_is_missing(tmp_path):
    table = written(tmp_path, ["None", "NA", "nan", "null", "", "?", "N/A"] * 2)
    assert table.classes == ("?", "N/A", "NA", "None", "nan", "null")
    assert kinds(table)["unlabeled"].count == 2
    assert table.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 13]


def test_a_class_called_none_may_be_the_majority_as_in_the_sleep_health_table(tmp_path):
    table = written(tmp_path, ["None"] * 219 + ["Insomnia"] * 77 + ["Sleep Apnea"] * 78)
    assert table.classes == ("Insomnia", "None", "Sleep Apnea")
    assert np.bincount(table.given).tolist() == [77, 219, 78]
    assert table.report.findings == ()


def test_a_rare_class_that_is_spelled_like_a_missing_value_is_named(tmp_path):
    """As in the penguins' table of R, whose unknown sexes are NA."""
    table = written(tmp_path, ["FEMALE"] * 165 + ["MALE"] * 168 + ["NA"] * 10 + ["."])
    assert table.classes == (".", "FEMALE", "MALE", "NA")
    assert kinds(table)["like missing"].observation == (
        "the class 'NA' (10 rows) of 'y' is spelled like a missing value"
    )
    assert "(skip the rows with --missing-labels NA)" in in_shell(kinds(table)["like missing"].action)
    several = written(tmp_path, ["x"] * 9 + ["?", "nan"])
    assert kinds(several)["like missing"].observation.startswith("the classes '?' (1 row) and 'nan' (1 row) of 'y' are")
    assert "like missing" not in kinds(written(tmp_path, ["x", "", "y", "Nan"] * 5))


def test_texts_that_mean_that_there_is_no_label_are_skipped_when_asked(tmp_path):
    lines = ["a", "b", "NA", " NA", "", "?", "nan"] * 2
    table = written(tmp_path, lines, missing=("NA", "?"))
    assert table.classes == ("a", "b", "nan")
    assert table.rows.tolist() == [0, 1, 6, 7, 8, 13]
    assert kinds(table)["unlabeled"].observation.startswith(
        "the label column 'y' is empty or 'NA' or '?' in 8 of 14 rows"
    )
    with pytest.raises(TableError, match="is empty or 'NA' in 6 of 14 rows"):
        written(tmp_path, lines, missing=("NA",), unlabeled="error")


def test_leading_zeros_survive(tmp_path):
    assert written(tmp_path, ["010", "10", "01", "1", "010"]).classes == ("01", "1", "010", "10")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([True, False, True], ("False", "True")),
        ([3, 10, 3], ("3", "10")),
        ([3.0, 10.0, None, 3.0], ("3", "10")),
        (pd.array([2**60 + 1, 2**60, None], dtype="Int64"), (str(2**60), str(2**60 + 1))),
        (pd.Categorical(["b", "a", "b"]), ("a", "b")),
        (["None", "x", None], ("None", "x")),
        ([0.5, 1.5, 0.5], ("0.5", "1.5")),
    ],
)
def test_types_have_their_natural_texts(labels, classes):
    assert labeled(labels).classes == classes


def test_large_numbers_beside_gaps_stay_exact_in_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = pyarrow.array([2**60 + 1, 2**60, None, 2**60])
    parquet.write_table(pyarrow.table({"x": [1.5, 2.5, 0.5, 1.0], "y": column}), tmp_path / "t.parquet")
    table = prepare_table(tmp_path / "t.parquet", "y")
    assert table.classes == (str(2**60), str(2**60 + 1))
    assert kinds(table)["unlabeled"].count == 1


def test_spellings_of_one_class_are_listed_and_merged(tmp_path):
    labels = [
        "yes",
        "yes",
        "yes ",
        " yes",
        "no",
        "YES",
        "e\u0301t\u00e9",
        "\u00e9t\u00e9",
        "\u00e9t\u00e9",
        "\ufb01ne",
        "fine",
    ]
    table = written(tmp_path, labels)
    assert set(table.classes) == {"YES", "\ufb01ne", "no", "yes", "\u00e9t\u00e9"}
    merged = [finding for finding in table.report.findings if finding.kind == "spellings"]
    assert sorted(finding.count for finding in merged) == [2, 3, 4]
    assert "'yes ' (1)" in str(merged[0])
    assert "merged as 'yes'" in str(merged[0])
    case = kinds(table)["case"]
    assert "lower case alone: 'YES' and 'yes'" in str(case)
    assert "--merge-spellings case" in in_shell(case.text)
    assert "case" not in kinds(written(tmp_path, labels, merge_spellings="case"))
    assert set(written(tmp_path, labels, merge_spellings="case").classes) == {"yes", "\ufb01ne", "no", "\u00e9t\u00e9"}
    apart = written(tmp_path, labels, merge_spellings="none")
    assert len(apart.classes) == 9  # csv itself leaves out blanks behind a separator, but not within quotes
    assert "spellings" not in kinds(apart)


def test_rows_without_a_label_are_refused_when_asked(tmp_path):
    with pytest.raises(TableError, match=r"'y' is empty in 2 of 6 rows \(rows 1, 4\); .*\(unlabeled=drop\)") as error:
        written(tmp_path, ["a", "", "b", "a", " ", "b"], unlabeled="error")
    assert "(--unlabeled drop)" in error.value.for_command()


def test_rare_classes_are_kept_merged_dropped_or_refused(tmp_path):
    labels = ["a"] * 6 + ["b"] * 6 + ["c", "c", "d"]
    kept = written(tmp_path, labels, fewest=5)
    assert (kept.classes, len(kept.given)) == (("a", "b", "c"), 14)  # a single row cannot be held out
    assert "'c' (2), 'd' (1): kept, but for 'd' with a single row" in str(kinds(kept)["rare class"])
    merged = written(tmp_path, labels, fewest=5, rare_classes="merge")
    assert (merged.classes, np.bincount(merged.given).tolist()) == (("a", "b", "other"), [6, 6, 3])
    dropped = written(tmp_path, labels, fewest=5, rare_classes="drop")
    assert (dropped.classes, dropped.report.used, dropped.report.rows) == (("a", "b"), 12, 15)
    assert dropped.report.lines()[-1] == "12 of 15 rows are used"
    with pytest.raises(TableError, match=r"have fewer than 5 rows: 'c' \(2\), 'd' \(1\)"):
        written(tmp_path, labels, fewest=5, rare_classes="error")
    assert written(tmp_path, labels).classes == ("a", "b", "c", "d")


def test_more_than_a_hundred_classes_are_classes_and_names_of_rows_are_not(tmp_path):
    assert len(written(tmp_path, [f"intent {i % 150}" for i in range(600)]).classes) == 150
    with pytest.raises(TableError, match="'y' has 300 distinct values in 300 rows, too many for classes"):
        written(tmp_path, [f"row {i}" for i in range(300)])
    with pytest.raises(TableError, match=r"holds 0\.125: classes are texts or whole numbers"):
        written(tmp_path, [i % 50 / 8 for i in range(300)])
    with pytest.raises(TableError, match=r"holds 0\.125: classes are texts or whole numbers"):
        written(tmp_path, [f"{i % 50 / 8}".replace(".", ",") for i in range(300)])
    grades = [f"{i % 6 + 1},{3 * (i % 2)}" for i in range(300)]
    assert written(tmp_path, grades).classes == tuple(sorted(set(grades)))  # few of them are names
    with pytest.raises(TableError, match="holds lists"):
        labeled([[1], [2], [1]])


def test_everything_that_forbids_a_table_is_said_at_once_in_the_words_of_the_door(tmp_path):
    frame = pd.DataFrame(
        {
            "x": [np.inf, *np.arange(59) / 7],
            "odd": [[1]] * 60,
            "y": ["a", "b", None] * 20,
        }
    )
    options = TableOptions(labels=LabelOptions(unlabeled="error"))
    with pytest.raises(TableError) as error:
        prepare_table(frame, "y", options)
    assert len(error.value.problems) == 3
    for part in (
        "3 problems in",
        "'y' is empty in 20 of 60",
        "'x' holds inf",
        "holds lists",
    ):
        assert part in str(error.value)
    assert "(--unlabeled drop)" in error.value.for_command()
    with pytest.raises(TableError, match=r"(?s)no column 'z'.*no column 'w'"):
        prepare_table(frame, "z", TableOptions(drop=["w"]))


def test_findings_name_options_on_the_command_line(tmp_path):
    table = prepare_table(pd.DataFrame({"id": range(30), "x": np.arange(30) / 4, "y": ["a", "b"] * 15}), "y")
    assert table.report.lines() == ["the column 'id' numbers the rows: ignored (use it with keep=...)"]
    assert table.report.lines(in_shell) == ["the column 'id' numbers the rows: ignored (use it with --keep)"]
    assert table.report.to_dict()["findings"][0]["kind"] == "row number"
    keys = pd.DataFrame({"key": [f"c{i}" for i in range(30)], "x": np.arange(30) / 4, "y": ["a", "b"] * 15})
    (said,) = prepare_table(keys, "y").report.lines(in_shell)
    assert said.endswith("ignored (name the rows by it with --id, or use it with --keep)")
