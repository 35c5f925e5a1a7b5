from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

PATH = Path(__file__).parents[2] / "benchmarks" / "table_fuzz.py"


@pytest.fixture(scope="module")
def table_fuzz():
    import sys

    spec = importlib.util.spec_from_file_location("table_fuzz", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["table_fuzz"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["table_fuzz"]


def test_tables_in_random_dialects_are_read_as_they_were_written(table_fuzz):
    outcomes, failures = table_fuzz.fuzz(100, seed=1)
    assert outcomes == {"passed": 100}, "\n".join(failures)


def test_the_fuzz_sees_what_is_misread(table_fuzz, tmp_path, monkeypatch):
    """Its checks fail if a class, a number, a date or a row is not what was written."""
    import random

    path, rng = tmp_path / "table.csv", random.Random(7)
    table = table_fuzz.write(path, rng)
    assert table_fuzz.check(path, table) == ""
    row = next(row for row, name in enumerate(table.classes) if name)
    other = next(name for name in table.classes if name and name != table.classes[row])
    right, table.classes[row] = table.classes[row], other
    assert table_fuzz.check(path, table).startswith("class")
    table.classes[row] = right
    table.classes.append(right)
    assert table_fuzz.check(path, table).startswith("rows")
