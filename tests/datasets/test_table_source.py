from __future__ import annotations

import json

import numpy as np
import pytest

from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.table import TableOptions, prepare_table
from emphasis.datasets.table_report import TableError
from emphasis.datasets.table_source import ReadOptions, frame_of, open_table
from emphasis.errors import EmphasisTypeError
from emphasis.experiments.studies.own_data import recipe_of

pd = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")

COLUMNS = {
    "x": [1.5, 2.5, None, 4.0],
    "town": ["Ulm", "Bern", None, "Ulm"],
    "flag": [True, False, True, True],
    "y": ["010", "10", "010", None],
}


def test_tables_of_all_libraries_are_the_same_table(tmp_path):
    frame = pd.DataFrame(COLUMNS)
    expected = prepare_table(frame, "y")
    sources = {"pyarrow": pyarrow.table(COLUMNS)}
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    sources |= {"parquet": tmp_path / "t.parquet", "csv": str(tmp_path / "t.csv")}
    try:
        import polars
    except ModuleNotFoundError:
        pass
    else:
        sources |= {"polars": polars.DataFrame(COLUMNS), "polars, lazily": polars.DataFrame(COLUMNS).lazy()}
    for name, source in sources.items():
        table = prepare_table(source, "y")
        assert (table.classes, table.rows.tolist()) == (("010", "10"), [0, 1, 2]), name
        assert table.encoder == expected.encoder, name
        np.testing.assert_array_equal(table.encoder.transform(table.frame), expected.encoder.transform(expected.frame))


def test_a_dataset_with_named_classes_brings_their_names():
    """As Hugging Face's datasets: numbers stand for names, and -1 for no label."""

    class ClassLabel:
        def int2str(self, number):
            return ["cat", "dog"][number]

    class Dataset:
        def __init__(self):
            self.features = {"x": object(), "y": ClassLabel()}

        def to_pandas(self):
            return pd.DataFrame({"x": [0.5, 1.5, 2.5, 3.5], "y": [1, 0, -1, 1]})

    table = prepare_table(Dataset(), "y")
    assert table.classes == ("cat", "dog")
    assert table.given.tolist() == [1, 0, 1]


def test_a_dataset_that_was_saved_to_a_folder_is_a_table(tmp_path):
    """The files are those that datasets 5.2 writes."""
    folder = tmp_path / "train"
    folder.mkdir()
    parts = [{"x": [0.5, 1.5, 2.5], "y": [1, 0, -1]}, {"x": [3.5], "y": [1]}]
    for number, columns in enumerate(parts):
        part = pyarrow.table(columns)
        with pyarrow.ipc.new_stream(folder / f"data-{number:05d}-of-00002.arrow", part.schema) as stream:
            stream.write_table(part)
    files = [{"filename": path.name} for path in sorted(folder.iterdir())]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None}))
    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    info = {"features": {"x": {"dtype": "float64", "_type": "Value"}, "y": label}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    table = prepare_table(folder, "y")
    assert table.classes == ("cat", "dog")
    assert table.given.tolist() == [1, 0, 1]
    assert table.frame["x"].tolist() == [0.5, 1.5, 3.5]
    assert recipe_of(str(folder), {"label": "y"}).name == "train-y"
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(TableError, match=f"several parts of a dataset; name one of them: {folder}"):
        prepare_table(tmp_path, "y")
    (folder / files[0]["filename"]).write_bytes(b"cut off")
    with pytest.raises(DamagedFileError, match="cannot be read"):
        prepare_table(folder, "y")


def test_what_is_no_table_is_refused():
    for source in (3, [1, 2], None, {"a": 1}):
        with pytest.raises(
            EmphasisTypeError, match="is not a table; give the path of a file, or a table of pandas, polars"
        ):
            frame_of(source)


def test_ids_and_row_numbers_are_those_of_the_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("key,x,y\n007,1.5,a\n008,2.5,\n009,3.5,4.5,b\n010,0.5,b\n011,1.0,a\n012,2.0,b\n")
    table = prepare_table(path, "y", TableOptions(id_column="key"))
    assert table.rows.tolist() == [0, 3, 4, 5]
    assert table.ids == ("007", "010", "011", "012")
    assert table.features == ["x"]
    assert table.report.lines() == [
        "1 row of 6 has another number of cells than the header's 3 (line 4): skipped",
        "the label column 'y' is empty in 1 of 5 rows (row 1): skipped",
        "4 of 6 rows are used",
    ]


def test_a_plain_table_has_nothing_to_say_and_another_says_it_in_one_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1.5,a\n2.5,b\n")
    assert prepare_table(path, "y").report.lines() == []
    path.write_text("x;y\n1,5;ä\n2,5;b\n", encoding="latin-1")
    assert prepare_table(path, "y").report.lines() == [
        "read with separator semicolon, encoding cp1252; a decimal comma in 'x'"
    ]
    explicit = prepare_table(path, "y", TableOptions(ReadOptions(sep=";", encoding="latin-1", decimal=",")))
    assert explicit.frame["x"].tolist() == [1.5, 2.5]


def test_columns_without_a_name_are_numbered_or_left_out_if_they_are_empty(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,,y,\n1.5,3,a,\n2.5,4,b,\n")
    table = open_table(path)
    assert list(table.frame.columns) == ["x", "column 2", "y"]
    assert [finding.kind for finding in table.findings] == ["unnamed column"]
