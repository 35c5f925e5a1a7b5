from __future__ import annotations

import pytest

from emphasis.datasets import DamagedFileError
from emphasis.datasets.table_dialect import detect_encoding, read_text_table
from emphasis.datasets.table_report import TableError

pytest.importorskip("pandas")
pytest.importorskip("pyarrow")


def read(tmp_path, content, name="t.csv", encoding="utf-8", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return read_text_table(path, **options)


def cells(table):
    return [list(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.tsv"])
def test_the_separator_is_what_cuts_all_rows_alike(sep, name, tmp_path):
    table = read(tmp_path, f"x{sep}y{sep}z\n1{sep}a b{sep}2\n3{sep}c{sep}4\n", name)
    assert (table.names, table.dialect.sep) == (["x", "y", "z"], sep)
    assert cells(table) == [["1", "a b", "2"], ["3", "c", "4"]]


def test_decimal_commas_and_commas_in_texts_do_not_pass_for_separators(tmp_path):
    table = read(tmp_path, "x;y;label\n1,5;2,5;yes\n3,5;4,5;no\n")
    assert (table.dialect.sep, table.names) == (";", ["x", "y", "label"])
    table = read(tmp_path, "text;label\nHello, you;a\nGood, bad;b\nand, also;a\n")
    assert table.dialect.sep == ";"
    # "a;b" and "1,5" would do with either; the label that was asked for decides.
    assert read(tmp_path, "a;b,c\n1;2,3\n", needed=["c"]).dialect.sep == ","
    assert read(tmp_path, "a;b,c\n1;2,3\n", needed=["a"]).dialect.sep == ";"


@pytest.mark.parametrize(
    ("encoding", "detected"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("latin-1", "cp1252"),
        ("cp1252", "cp1252"),
    ],
)
def test_encodings_are_detected(encoding, detected, tmp_path):
    table = read(tmp_path, "größe,Straße\n1,Zürich\n2,Genève\n", encoding=encoding)
    assert table.dialect.encoding == detected
    assert table.names == ["größe", "Straße"]
    assert cells(table) == [["1", "Zürich"], ["2", "Genève"]]


@pytest.mark.parametrize(("encoding", "word"), [("cp1251", "Москва и область "), ("shift_jis", "東京と大阪の間")])
def test_texts_without_latin_letters_are_read_by_their_alphabet(encoding, word, tmp_path):
    table = read(tmp_path, "x,y\n" + f"1,{word}\n" * 60, encoding=encoding)
    assert cells(table)[0][1].strip() == word.strip()


def test_a_damaged_utf8_file_is_not_taken_for_latin_1(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("x,y\n1,äöü\n2,ß\n".encode() + b"3,\xff\n")
    with pytest.raises(DamagedFileError, match=r"byte \d+ is not UTF-8"):
        detect_encoding(path)
    with pytest.raises(DamagedFileError, match="cannot be read as utf-8"):
        read_text_table(path, encoding="utf-8")
    assert read_text_table(path, encoding="latin-1").total == 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines_blank_lines_and_a_declared_separator(end, tmp_path):
    table = read(tmp_path, end.join(["sep=;", "a;b", "1;2", "", "3;4"]))
    assert (table.names, cells(table), table.total) == (["a", "b"], [["1", "2"], ["3", "4"]], 2)


def test_quotes_are_doubled_or_escaped(tmp_path):
    assert cells(read(tmp_path, 'a,b\n"say ""hi"", you","two\nlines"\n')) == [['say "hi", you', "two\nlines"]]
    assert cells(read(tmp_path, 'a,b\n"say \\"hi\\", you",2\nx,y\n'))[0] == ['say "hi", you', "2"]
    assert cells(read(tmp_path, 'a,b\n"C:\\",2\n"D:\\",3\n')) == [["C:\\", "2"], ["D:\\", "3"]]
    assert cells(read(tmp_path, 'a,b\n5" pipe,2\n"7" pipe,3\n')) == [['5" pipe', "2"], ["7 pipe", "3"]]
    assert cells(read(tmp_path, 'a, b\n"x, y", "z, w"\n1, 2\n')) == [["x, y", "z, w"], ["1", "2"]]


@pytest.mark.parametrize("content", ['a,b\n1,2\n"3,4\n5,6\n', 'a,b\n"x,1\n"y",2\n3,4\n', 'a,b\n1,"x\n'])
def test_a_quote_that_takes_in_rows_is_an_error(content, tmp_path):
    with pytest.raises(DamagedFileError, match="cannot be read"):
        read(tmp_path, content)


def test_rows_with_another_number_of_cells_are_counted_and_all_keep_their_numbers(tmp_path):
    table = read(tmp_path, "a,b,c\n1,2,3\n4,5\n6,7,8\n9,10,11,12\n13,14,15\n16,17,18\n")
    assert table.rows.tolist() == [0, 2, 4, 5]
    assert (table.total, table.ragged) == (6, [(3, 2), (5, 4)])
    with pytest.raises(DamagedFileError, match=r"its header has 3 columns, but 2 rows of 2 .* first in line 2"):
        read(tmp_path, "a,b,c\n1\n2\n", sep=",")


def test_names_of_rows_without_a_header_and_separators_at_the_end(tmp_path):
    assert read(tmp_path, "a,b\nr1,1,2\nr2,3,4\n").names == ["", "a", "b"]
    assert read(tmp_path, "a,b\n1,2,\n3,4,\n").names == ["a", "b", ""]


def test_arguments_that_make_no_sense_are_named_in_the_words_of_the_door(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TableError, match=r"^encoding='utf-9' is unknown") as error:
        read_text_table(tmp_path / "t.csv", encoding="utf-9")
    assert error.value.for_command().startswith("--encoding 'utf-9' is unknown")
    with pytest.raises(TableError, match=r"^sep=';;' is not allowed") as error:
        read_text_table(tmp_path / "t.csv", sep=";;")
    assert error.value.for_command().startswith("--sep ';;'")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  "])
def test_an_empty_file_is_an_error(content, tmp_path):
    with pytest.raises(DamagedFileError, match="it is empty"):
        read(tmp_path, content)
