"""Who runs a recipe runs the code that it names; who reads results, models and traces runs none of it."""

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from emphasis.cli.main import main
from emphasis.diagnostics.trace import EmphasisTrace
from emphasis.experiments.reports.paper_figures import FIGURES
from emphasis.experiments.reports.report import histograms_of, read_summary
from emphasis.experiments.runs.store import stored_recipe
from emphasis.experiments.studies.audit import has_changed
from emphasis.tabular import fit_table, load_model
from emphasis.weighting.serialise import is_named

CODE = """
from pathlib import Path
from emphasis.baselines import Baseline

with (Path(__file__).parent / "ran").open("a") as file:
    file.write("ran\\n")

def weight(p):
    return 4.0 * p * (1.0 - p) + 0.1

class Own(Baseline):
    def __init__(self, problem, *, share=0.5):
        super().__init__(problem)

    def example_losses(self, logits, labels):
        return -logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
"""
RECIPE = """
extends = "digits"
name = "mine"
title = "Code of one's own"
seeds = 1
baseline = "CCE"
compare = ["DM"]
figures = ["curves", "probabilities", "emphasis"]
[solver]
iterations = 40
[evaluation]
every = 20
[[methods]]
name = "CCE"
weighting = {{ family = "CCE" }}
[[methods]]
name = "DM"
weighting = {{ family = "DM", lam = 0.5, beta = 8 }}
[[methods]]
name = "Function"
normalization = "integral"
[methods.weighting]
family = "Scaled"
factor = 2.0
weighting = {{ family = "function", function = "code_of_mine:weight" }}
[[methods]]
name = "Method"
training = {{ name = "{folder}/code_of_mine.py:Own", share = 0.3 }}
"""
HOW = ["--no-progress", "--accelerator", "cpu", "--workers", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, a trace and a model that name code; whether that code was run since is told by the file "ran"."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "code_of_mine.py").write_text(CODE)
    (folder / "mine.toml").write_text(RECIPE.format(folder=folder))
    sys.path.insert(0, str(folder))
    try:
        assert main(["run", str(folder / "mine.toml"), *HOW, "--out", str(folder / "run")]) == 0
        assert (folder / "ran").exists()  # as it is to
        own = importlib.import_module("code_of_mine")
        generator = torch.Generator().manual_seed(0)
        with EmphasisTrace(folder / "trace", 30, own.weight) as trace:
            for _ in range(3):
                trace.record(torch.arange(30), torch.randn(30, 3, generator=generator), torch.arange(30) % 3)
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"x": rng.normal(size=60), "class": np.arange(60) % 2})
        table.to_csv(folder / "table.csv", index=False)
        fit_table(
            folder / "table.csv",
            label="class",
            folder=folder / "fit",
            folds=2,
            weighting=own.weight,
            settings={"n_estimators": 3},
        )
        for text in (folder / "run" / "run.json", folder / "trace" / "trace.json", folder / "fit/model/manifest.json"):
            assert "code_of_mine:weight" in text.read_text()
        yield folder
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("code_of_mine", None)


@pytest.fixture
def unread(made):
    """The same, none of it imported yet."""
    sys.modules.pop("code_of_mine", None)
    (made / "ran").unlink(missing_ok=True)
    return made


def ran(folder):
    return (folder / "ran").exists() or any(name.startswith("code_of_mine") for name in sys.modules)


@pytest.fixture(autouse=True)
def no_method_is_known_from_before():
    from emphasis.baselines import registry

    registry._own_method.cache_clear()
    for name in [name for name in sys.modules if name.startswith("code_of_mine")]:
        del sys.modules[name]


def test_a_report_shows_the_names_and_runs_nothing(unread, capsys, tmp_path):
    for form in (
        [],
        ["--format", "text"],
        ["--format", "csv"],
        ["--format", "html", "--out", str(tmp_path / "r.html")],
    ):
        assert main(["report", str(unread / "run"), *form]) == 0
    shown = capsys.readouterr().out
    assert "Function" in shown
    assert "Method" in shown
    page = (tmp_path / "r.html").read_text()
    assert "2.0 * from_function(code_of_mine:weight)" in page
    assert "code_of_mine.py:Own(share=0.3)" in page
    assert not ran(unread)


def test_every_network_is_in_the_report_although_its_code_has_changed_or_gone(unread, capsys):
    own = unread / "code_of_mine.py"
    text = own.read_text()
    try:
        for change in (lambda: own.write_text(text + "# changed\n"), own.unlink):
            change()
            summary = read_summary(unread / "run")
            assert [len(entry.rows) for entry in summary.entries] == [1, 1, 1, 1]
            assert main(["report", str(unread / "run"), "--format", "text"]) == 0
            assert "not trained yet" not in capsys.readouterr().out
    finally:
        own.write_text(text)
    assert not ran(unread)


def test_figures_and_the_design_page_run_nothing(unread, tmp_path, capsys):
    for name in FIGURES:
        assert main(["figure", name, "--run", str(unread / "run"), "--out", str(tmp_path / "f.svg")]) in (0, 2)
        said = capsys.readouterr()
        assert "drawn to" in said.out or len(said.err.strip().splitlines()) == 1
    assert set(histograms_of(unread / "run")) == {"CCE", "DM", "Function", "Method"}
    assert not ran(unread)


def test_the_audit_of_a_trace_shows_the_name_and_runs_nothing(unread, tmp_path):
    assert main(["audit", str(unread / "trace"), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "audit.html").read_text()
    assert "with from_function(code_of_mine:weight)" in page
    assert not ran(unread)


def test_a_model_predicts_and_runs_nothing(unread, tmp_path, capsys):
    out = tmp_path / "predicted.csv"
    assert main(["predict", str(unread / "fit"), str(unread / "table.csv"), "--out", str(out)]) == 0
    assert len(pd.read_csv(out)) == 60
    weighting = load_model(unread / "fit").weighting
    assert is_named(weighting)
    assert repr(weighting) == "from_function(code_of_mine:weight)"
    assert not ran(unread)


def test_folders_of_a_search_and_a_tuning_are_looked_at_and_run_nothing(unread):
    recipe = stored_recipe(unread / "run")
    assert [cell.method for cell in recipe.cells()] == ["CCE", "DM", "Function", "Method"]
    assert not has_changed(unread / "run", recipe)
    assert not ran(unread)


def test_running_it_again_finds_all_of_it_and_imports_it_for_that(unread, capsys):
    assert main(["run", str(unread / "mine.toml"), *HOW, "--out", str(unread / "run")]) == 0
    assert "already holds all" in capsys.readouterr().out
    assert ran(unread)


def test_a_results_folder_cannot_have_a_file_run_by_naming_it(unread, tmp_path):
    """What a stranger may write into run.json, results.jsonl and manifests."""
    run = json.loads((unread / "run" / "run.json").read_text())
    named = str(unread / "code_of_mine.py:Own")
    for where in ("training", "at"):
        tables = json.loads(json.dumps(run))
        method = tables["methods"][3]
        if where == "at":
            method["at"] = {"": {"training": {"name": named}}}
        for extra in ({}, {"source": "0" * 16}, {"options": {"share": 1}}):
            method["training"] = {"name": named, **extra}
            folder = tmp_path / f"{where} {len(extra)} {next(iter(extra), '')}"
            folder.mkdir()
            (folder / "run.json").write_text(json.dumps(tables))
            (folder / "results.jsonl").write_text((unread / "run" / "results.jsonl").read_text())
            assert main(["report", str(folder), "--format", "text"]) == 0
    assert not ran(unread)
