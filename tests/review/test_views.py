"""What a reviewer is shown of a row: the columns that matter first, and what is odd about it."""

import argparse

import numpy as np
import pytest

from emphasis.cli.options import show_page
from emphasis.review import Decisions

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")


def test_names_of_rows_neither_lead_the_columns_nor_are_odd():
    from emphasis.review.views import TableViews

    rows = 400
    labels = np.arange(rows) % 2
    plan = np.where(labels == 1, "full", "basic")
    plan[0] = "full"
    frame = pd.DataFrame(
        {"customer": [f"K{row}" for row in range(rows)], "plan": plan, "age": labels + np.arange(rows)}
    )
    columns = {column["name"]: column for column in TableViews(frame, labels).content(0)["columns"]}
    assert next(iter(columns)) == "plan"
    assert columns["plan"]["odd"]
    assert columns["plan"]["usual"] == "mostly basic"
    assert not columns["customer"]["odd"]
    assert columns["age"]["usual"].startswith("usually ")


def test_numbers_are_shown_in_full_with_separators_and_neighbors_by_a_few_columns():
    from emphasis.review.views import TableViews, TextViews

    rows = 400
    labels = np.arange(rows) % 2
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{k}": rng.normal(size=rows) + k * labels for k in range(9)})
    frame = frame.assign(price=1234567.5 + 1e6 * labels, year=2024, note=np.nan, floor=np.float64(80331))
    views = TableViews(frame, labels)
    cells = {cell["name"]: (cell["value"], cell["usual"]) for cell in views.content(0)["columns"]}
    assert cells["price"] == ("1,234,567.50", "usually 1,234,567.50 to 1,234,567.50")
    assert cells["year"][0] == "2024"
    assert cells["floor"][0] == "80,331"
    assert cells["note"][0] == "missing"
    assert "price: 1234567.50" in views.text(0)  # for other tools
    lines = views.brief(0).splitlines()
    assert len(lines) == 4
    assert "price: 1,234,567.50" in lines
    assert {line.partition(":")[0] for line in lines} <= {"price", "x6", "x7", "x8"}
    assert TextViews(["short", "long " * 100]).brief(0) == "short"
    assert len(TextViews(["long " * 100]).brief(0)) == 240


def test_the_address_of_a_page_stands_by_itself(capsys):
    show_page(argparse.Namespace(no_browser=True), "http://localhost:1/")
    assert "http://localhost:1/" in capsys.readouterr().out.split()


def test_missing_decisions_are_named_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="emphasis review"):
        Decisions.read(tmp_path)
