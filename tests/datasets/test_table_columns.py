from __future__ import annotations

import datetime

import numpy as np
import pytest

from emphasis.datasets.table import TableOptions, prepare_table, read_like
from emphasis.datasets.table_columns import ColumnOptions
from emphasis.datasets.table_encoder import DateColumn, LevelsColumn, NumericColumn, TableEncoder
from emphasis.datasets.table_report import TableError
from emphasis.datasets.table_source import ReadOptions

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

N = 40
rng = np.random.default_rng(0)
BASE = {"height": rng.normal(size=N), "town": rng.choice(["Ulm", "Bern"], N), "y": ["a", "b"] * (N // 2)}


def prepared(columns, first=None, **options):
    frame = pd.DataFrame({**(first or {}), **BASE, **columns})
    return prepare_table(frame, "y", TableOptions(columns=ColumnOptions(**options)))


def text_file(tmp_path, columns, sep=",", **read):
    path = tmp_path / "t.csv"
    pd.DataFrame(columns).to_csv(path, index=False, sep=sep)
    return prepare_table(path, "y", TableOptions(read=ReadOptions(**read)))


@pytest.mark.parametrize(
    ("first", "more", "left_out"),
    [
        ({"Unnamed: 0": np.arange(N)}, {}, "Unnamed: 0"),
        ({"": np.arange(1, N + 1)}, {}, ""),
        ({"": rng.permutation(N)}, {}, ""),
        ({"": [f"r{i}" for i in range(N)]}, {}, ""),
        ({"number": np.arange(N)}, {}, "number"),
        ({"anything": np.arange(1, N + 1)}, {}, "anything"),
        ({}, {"index": np.arange(N)}, "index"),
        ({}, {"row": np.arange(1, N + 1)}, "row"),
        ({}, {"customer_id": rng.permutation(10 * N)[:N]}, "customer_id"),
        ({}, {"CustomerId": rng.permutation(10 * N)[:N]}, "CustomerId"),
        ({}, {"code": [f"A{i}" for i in rng.permutation(N)]}, "code"),
        ({}, {"name": [f"Mr. John Smith the {i}." for i in range(N)]}, "name"),
        ({}, {"gone": [None] * N}, "gone"),
    ],
)
def test_what_names_the_rows_is_left_out_and_named(first, more, left_out):
    table = prepared(more, first)
    assert table.features == ["height", "town"]
    assert [finding.column for finding in table.report.findings] == [left_out]
    assert table.kinds[left_out] in ("row number", "identifier", "names", "empty")


@pytest.mark.parametrize(
    ("first", "more"),
    [
        ({}, {"paid": rng.permutation(10 * N)[:N]}),
        ({}, {"acid": rng.permutation(10 * N)[:N]}),
        ({}, {"steps": np.arange(N)}),  # neither first nor named so
        ({"age": rng.integers(0, 90, N)}, {}),
        ({"x": rng.permutation(N)}, {}),
        ({}, {"branch_id": rng.integers(0, 5, N)}),
        ({}, {"note": rng.choice(["a b c d", "e f g h", "i j k l"], N)}),
    ],
)
def test_other_columns_are_features(first, more):
    table = prepared(more, first)
    assert table.features == [*first, "height", "town", *more]
    assert table.report.findings == ()


def test_columns_are_kept_when_asked():
    table = prepared({"id": np.arange(N), "code": [f"A{i}" for i in range(N)]}, keep=["id"], categorical=["code"])
    assert table.features == ["height", "town", "id", "code"]


def test_a_file_with_an_index_is_learned_without_it(tmp_path):
    """Sorted by class, the index alone would tell the classes: 0.987 of accuracy on noise."""
    frame = pd.DataFrame({"noise": rng.normal(size=N), "y": ["a"] * (N // 2) + ["b"] * (N // 2)})
    frame.to_csv(tmp_path / "t.csv")
    assert prepare_table(tmp_path / "t.csv", "y").features == ["noise"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y,y\n1,a,a\n2,b,b\n")
    with pytest.raises(TableError, match="has two columns 'y'; rename a column"):
        prepare_table(path, "y")
    path.write_text("x,x ,y,z,z\n1,1,a,0,0\n2,2,b,0,0\n")
    with pytest.raises(TableError, match="two columns of each of the names 'x', 'z'"):
        prepare_table(path, "y")
    twice = pd.DataFrame([[1, 2, "a"], [3, 4, "b"]], columns=["x", "x", "y"])
    with pytest.raises(TableError, match="two columns 'x'"):
        prepare_table(twice, "y")


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%d %b %Y"]
)
def test_dates_become_parts(form, tmp_path):
    days = pd.Series(pd.date_range("2021-05-23", periods=N, freq="37D"))
    table = text_file(tmp_path, {**BASE, "when": days.dt.strftime(form)})
    column = table.encoder.columns[-1]
    assert isinstance(column, DateColumn)
    assert column.feature_names == [f"when: {p}" for p in ("year", "month", "day", "weekday", "days since the first")]
    for values, part in zip(
        column.encode(table.frame["when"]).T,
        (days.dt.year, days.dt.month, days.dt.day, days.dt.day_of_week, (days - days[0]) / pd.Timedelta(days=1)),
        strict=True,
    ):
        np.testing.assert_allclose(values, (part - part.mean()) / part.std(ddof=0), atol=1e-6)
    # Further rows are read in the same format, even where day and month could be exchanged.
    saved = TableEncoder.from_dict(table.encoder.to_dict())
    assert saved == table.encoder
    pd.DataFrame({**BASE, "when": days.dt.strftime(form)})[10:11].to_csv(tmp_path / "new.csv", index=False)
    new = read_like(tmp_path / "new.csv", saved)
    np.testing.assert_allclose(saved.transform(new.frame), table.encoder.transform(table.frame)[10:11], rtol=1e-5)


def test_dates_of_other_types_have_parts_too():
    dates = [datetime.date(2020, 1, 1) + datetime.timedelta(int(i)) for i in rng.permutation(N)]
    for values in (dates, pd.to_datetime(pd.Series(dates)), pd.to_datetime(pd.Series(dates), utc=True)):
        table = prepared({"when": values})
        assert isinstance(table.encoder.columns[-1], DateColumn)
        assert np.isfinite(table.encoder.transform(table.frame)).all()
    texts = prepared({"when": [None, *(f"{date:%d.%m.%Y}" for date in dates[1:])]})  # as pandas reads them from CSV
    assert texts.encoder.columns[-1].format == "%d.%m.%Y"
    new = read_like(pd.DataFrame({**BASE, "when": "03.04.2020"}), texts.encoder).frame
    month = texts.encoder.columns[-1].parts[1]
    assert texts.encoder.transform(new)[0, -5] == pytest.approx(month.encode(pd.Series([4.0]))[0, 0])
    missing = pd.to_datetime(pd.Series([None, *dates[1:]]))
    assert prepared({"when": missing}).encoder.columns[-1].feature_names[-1] == "when is missing"


def test_ambiguous_dates_are_said(tmp_path):
    days = [f"{1 + i % 12:02}/{1 + i % 7:02}/2020" for i in range(N)]
    table = text_file(tmp_path, {**BASE, "when": days})
    assert "'when' may begin with the day or the month: read with the month first" in table.report.lines()[0]
    table = text_file(tmp_path, {**BASE, "when": days}, sep=";")
    assert "read with the day first" in "".join(table.report.lines())


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1,5", "2,25", "-3"], [1.5, 2.25, -3.0]),
        (["1.234,5", "2", "12.345.678,25"], [1234.5, 2.0, 12345678.25]),
        (["1,234.5", "2", "12,345,678.25"], [1234.5, 2.0, 12345678.25]),
        (["1 234,5", "2\u00a0000", "3\u202f000"], [1234.5, 2000.0, 3000.0]),
        (["12%", "3.5 %", "100%"], [0.12, 0.035, 1.0]),
        (["1", "?", "NA"], [1.0, np.nan, np.nan]),
        (["\u22125", "+3", "1e3"], [-5.0, 3.0, 1000.0]),
        (["1,234,567", "2", "3"], [1234567.0, 2.0, 3.0]),
    ],
)
def test_numbers_are_read_as_people_write_them(cells, numbers, tmp_path):
    table = text_file(tmp_path, {**BASE, "n": cells + [numbers[0] and cells[0]] * (N - 3)})
    np.testing.assert_array_equal(table.frame["n"].to_numpy(dtype=float)[:3], numbers)


def test_an_ambiguous_number_is_read_as_the_other_numbers_of_its_file(tmp_path):
    base = {"y": BASE["y"], "town": BASE["town"], "n": ["1,234"] * (N - 1) + ["5,678"]}
    assert text_file(tmp_path, {**base, "m": ["0.5"] * N}).frame["n"][0] == 1234
    assert text_file(tmp_path, {**base, "m": ["0,5"] * N}).frame["n"][0] == 1.234
    assert text_file(tmp_path, base).frame["n"][0] == 1234
    assert text_file(tmp_path, base, sep=";").frame["n"][0] == 1.234
    assert text_file(tmp_path, base, sep=";", decimal=".").frame["n"][0] == 1234
    table = text_file(tmp_path, {**base, "m": ["0,5%"] * N}, sep=";")
    assert table.report.lines()[0] == (
        "read with separator semicolon, encoding utf-8; a decimal comma in 'n', 'm'; percent in 'm'"
    )


def test_an_encoder_of_before_is_read_and_other_spellings_of_its_levels_are_known():
    encoder = TableEncoder.from_dict(
        {
            "columns": [
                {
                    "kind": "numbers",
                    "name": "n",
                    "median": 1.0,
                    "scale": 2.0,
                    "mean": 0.5,
                    "deviation": 0.5,
                    "gaps": True,
                },
                {"kind": "levels", "name": "flag", "levels": ["False", "True"]},
                {"kind": "levels", "name": "code", "levels": ["1", "2", None]},
            ]
        }
    )
    assert [type(column) for column in encoder.columns] == [NumericColumn, LevelsColumn, LevelsColumn]
    expected = [[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0], [2.0 / 2 - 1, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]
    expected[1][0] = (2 / 2.0 - 0.5) / 0.5
    for flags, codes in (
        ([0, 1], [2.0, 1.0]),
        ([False, True], [2, 1]),
        (["false", "TRUE"], ["2.0", "1"]),
        (["0", "1"], ["2", "1.0"]),
        ([0.0, 1.0], ["2", "1"]),
    ):
        rows = encoder.transform(pd.DataFrame({"n": [1.0, 2.0], "flag": flags, "code": codes}))
        np.testing.assert_allclose(rows, expected)


def test_columns_of_another_kind_are_named_with_which_side_is_which():
    table = prepared({})
    encoder, good = table.encoder, table.frame
    with pytest.raises(TableError, match=r"'height' holds numbers in the training table, and texts, such as 'tall'"):
        encoder.transform(good.assign(height="tall"))
    with pytest.raises(TableError, match=r"'height' holds numbers .* dates"):
        encoder.transform(good.assign(height=pd.Timestamp("2020-01-01")))
    dated = prepared({"when": pd.date_range("2020-01-01", periods=N)})
    with pytest.raises(TableError, match=r"'when' holds dates in .* numbers, such as 3"):
        dated.encoder.transform(dated.frame.assign(when=3))
    with pytest.raises(TableError, match=r"'when' holds dates in .* other texts, such as 'soon'"):
        dated.encoder.transform(dated.frame.assign(when="soon"))
    assert encoder.notes(good) == []
    assert encoder.notes(good.assign(height=np.nan))[0].startswith("the column 'height' is empty in all 40 rows")
    (note,) = encoder.notes(good.assign(town="Rome"))
    assert "'town' holds no value of the training table: 'Rome' in this table, 'Bern', 'Ulm' in" in note
    assert (
        "in 1 row that are not in the training table" in encoder.notes(good.assign(town=["Rome", *good["town"][1:]]))[0]
    )


def test_rare_values_of_a_column_with_many_values_are_one_category():
    towns = [f"t{i}" for i in range(12) for _ in range(14 - i)][:N] * 2
    codes = [f"{i}.5" for i in range(15)] * 5 + ["unknown"] * 5
    frame = pd.DataFrame({"town": towns, "code": codes, "x": np.arange(2 * N) / 7, "y": ["a", "b"] * N})
    table = prepare_table(frame, "y", TableOptions(columns=ColumnOptions(max_levels=2)))
    assert [finding.column for finding in table.report.findings] == ["town", "code"]
    assert str(table.report.findings[0]) == (
        "the column 'town' has 4 distinct values in 80 rows: the 2 most frequent, in 68 % of the rows, are categories, "
        "and the others one category (max_levels=2; leave it out with drop=...)"
    )
    assert "of which 15 are numbers (name texts that mean missing with missing=...)" in str(table.report.findings[1])
    column = TableEncoder.from_dict(table.encoder.to_dict()).columns[0]
    assert column == LevelsColumn("town", ("t0", "t1"), others=True)
    assert column.feature_names == ["town = t0", "town = t1", "town is another value"]
    new = pd.Series(["t1", "t3", "elsewhere", None])
    assert column.encode(new).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert column.note(new) == ""
    assert "'town' holds none of the 2 most frequent values of the training table" in column.note(pd.Series(["?"]))
