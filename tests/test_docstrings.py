"""The examples in docstrings print what they say, and what people call first has one."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import emphasis
from emphasis.extras import MissingExtraError

ROOT = Path(emphasis.__file__).parent
PATHS = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


def module_name(path):
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", [module_name(path) for path in PATHS])
def test_examples_in_docstrings_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    tried = 0
    for example in doctest.DocTestFinder().find(module, globs={}):
        torch.manual_seed(0)
        result = doctest.DocTestRunner().run(example)
        assert result.failed == 0, example.name
        tried += result.attempted
    assert tried


CALLED_FIRST = [
    "emphasis.audit",
    "emphasis.fit",
    "emphasis.run",
    "emphasis.CCE",
    "emphasis.DM",
    "emphasis.GCE",
    "emphasis.MAE",
    "emphasis.Relative",
    "emphasis.Ramp",
    "emphasis.from_dict",
    "emphasis.from_function",
    "emphasis.from_loss",
    "emphasis.scheduled",
    "emphasis.boosting.EmphasisLGBMClassifier",
    "emphasis.boosting.EmphasisXGBClassifier",
    "emphasis.boosting.Objective",
    "emphasis.boosting.lightgbm.objective",
    "emphasis.boosting.xgboost.objective",
    "emphasis.corruption.symmetric",
    "emphasis.diagnostics.trace.EmphasisTrace",
    "emphasis.jax.emphasis_loss",
    "emphasis.review.Decisions",
    "emphasis.comparison.evaluate",
    "emphasis.sklearn.EmphasisClassifier",
    "emphasis.tabular.fit_table",
    "emphasis.torch.EmphasisLoss",
    "emphasis.torch.emphasis_loss",
    "emphasis.torch.linear_emphasis_loss",
]


def test_what_people_call_first_has_an_example():
    without = []
    for name in CALLED_FIRST:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except MissingExtraError:
            continue
        without += [name] if ">>> " not in (found.__doc__ or "") else []
    assert without == []
