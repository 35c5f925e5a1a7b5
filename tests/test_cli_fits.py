"""The table of scores that `emphasis fit` prints."""

import io
from types import SimpleNamespace

import pytest

from emphasis.cli.fits import print_fit
from emphasis.scores import METRICS

rich_console = pytest.importorskip("rich.console")


def printed(names, width, **changed):
    methods = {name: {key: {"value": 0.5} for key in METRICS} for name in names}
    difference = {key: {"value": 0.1, "low": -0.05, "high": 0.2, "result": "better"} for key in METRICS} | changed
    result = SimpleNamespace(
        scores={"methods": methods, "difference": difference},
        request={"folds": 2, "model": "linear"},
        weighting="w",
        calibration={},
        folder="runs/x",
        predictions_name="predictions.csv",
    )
    console = rich_console.Console(file=io.StringIO(), width=width)
    print_fit(result, console)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_each_score_stands_under_the_name_of_its_method_on_screens_of_80_columns(width):
    lines = printed(("w", "cross-entropy", "labels as given"), width)
    heading = next(number for number, line in enumerate(lines) if "Difference" in line)
    assert lines[heading - 1 : heading + 1] == [
        "Cross- labels",
        "Score Weighting entropy as given Difference 95 % interval",
    ]
    assert "Balanced 0.500 0.500 0.500 +0.100 -0.050, +0.200 better" in lines
    lines = printed(("w", "cross-entropy"), width)
    assert "Score Weighting Cross-entropy Difference 95 % interval" in lines
    assert "Balanced accuracy 0.500 0.500 +0.100 -0.050, +0.200 better" in lines


def test_an_interval_that_ends_just_below_0_is_not_printed_as_if_it_contained_0():
    below = {"value": -0.007, "low": -0.015, "high": -0.0003, "result": "worse"}
    lines = printed(("w", "cross-entropy"), 80, auc=below, ece={"value": -0.0, "low": 0.0, "high": 0.0})
    assert "AUC 0.500 0.500 -0.007 -0.015, -0.000 worse" in lines
    assert "ECE 0.500 0.500 +0.000 +0.000, +0.000" in lines
