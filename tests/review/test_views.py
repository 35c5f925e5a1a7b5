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


def test_the_address_of_a_page_stands_by_itself(capsys):
    show_page(argparse.Namespace(no_browser=True), "http://localhost:1/")
    assert "http://localhost:1/" in capsys.readouterr().out.split()


def test_missing_decisions_are_named_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="emphasis review"):
        Decisions.read(tmp_path)
