"""The table of scores that `emphasis fit` prints."""

import io
from types import SimpleNamespace

import pytest

from emphasis.cli.fits import print_fit
from emphasis.scores import METRICS

rich_console = pytest.importorskip("rich.console")


def test_each_score_stands_under_the_name_of_its_method():
    methods = {name: {key: {"value": 0.5} for key in METRICS} for name in ("w", "cross-entropy", "labels as given")}
    difference = {key: {"value": 0.1, "low": 0.0, "high": 0.2, "result": "unclear"} for key in METRICS}
    result = SimpleNamespace(
        scores={"methods": methods, "difference": difference},
        request={"folds": 2, "model": "linear"},
        weighting="w",
        calibration={},
        folder="runs/x",
        predictions_name="predictions.csv",
    )
    console = rich_console.Console(file=io.StringIO(), width=160)
    print_fit(result, console)
    heading = next(line for line in console.file.getvalue().splitlines() if "Difference" in line)
    assert " ".join(heading.split()) == "Score Weighting Cross-entropy labels as given Difference 95 % interval"
