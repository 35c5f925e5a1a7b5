"""Recipes whose rows are methods of emphasis.baselines: trained, resumed, reported, searched."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from waiting import wait_for

from emphasis.baselines import find
from emphasis.cli.main import main
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import load_recipe, parse_recipe, recipe_from_tables, recipe_to_tables
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.data import load_split, make_task
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import stored_recipe
from emphasis.experiments.runs.user_code import with_sources
from emphasis.experiments.studies.search import search
from emphasis.experiments.studies.space import Vary
from finished_runs import rows_of
from forked import end, start

TINY = (Path(__file__).parent / "tiny.toml").read_text()
HEAD = (
    TINY.split("[[methods]]")[0]
    .replace("seeds = 2", 'seeds = 2\ncompare = ["DM"]')
    .replace("iterations = 400", "iterations = 100")
)
ROWS = """
[[methods]]
name = "CCE"
weighting = { family = "CCE" }
[[methods]]
name = "DM"
weighting = { family = "DM", lam = 0.5, beta = 8 }
normalization = "integral"
[[methods]]
name = "ELR"
training = { name = "elr" }
[[methods]]
name = "Co-teaching"
training = { name = "co-teaching", forget_rate = 0.4 }
[[methods]]
name = "MentorNet DD"
training = { name = "mentornet-dd" }
"""
OWN = """
from emphasis.baselines import Baseline

class Own(Baseline):
    def __init__(self, problem, *, share=0.5):
        super().__init__(problem)
        self.share = share

    def example_losses(self, logits, labels):
        return -logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
"""
HOW = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    base = tmp_path_factory.mktemp("methods")
    (base / "mine.toml").write_text(HEAD + ROWS)
    assert main(["run", str(base / "mine.toml"), *HOW, "--out", str(base / "run")]) == 0
    return base / "mine.toml", base / "run"


def test_rows_say_what_each_method_took(finished):
    rows = {(row["method"], row["seed"]): row for row in rows_of(finished[1])}
    assert len(rows) == 10
    passes = 100 * 64 / 1297
    for seed in (0, 1):
        assert rows["ELR", seed]["training"] == {"name": "elr"}
        assert rows["ELR", seed]["networks_trained"] == 1
        assert rows["ELR", seed]["passes"] == pytest.approx(passes, rel=0.05)
        assert rows["CCE", seed]["passes"] == pytest.approx(rows["ELR", seed]["passes"])
        assert rows["Co-teaching", seed]["networks_trained"] == 2
        assert rows["Co-teaching", seed]["passes"] == pytest.approx(2 * rows["ELR", seed]["passes"], abs=0.01)
        assert rows["MentorNet DD", seed]["true_labels_asked"] == 130
        assert rows["ELR", seed]["true_labels_asked"] == 0
        assert rows["Co-teaching", seed]["outcome"] == "learned"
    assert rows["ELR", 0]["curves"] != rows["ELR", 1]["curves"]


def test_the_report_ranks_them_and_states_the_compute(finished):
    page = (finished[1] / "report.html").read_text()
    assert "2 networks" in page
    assert "130 true labels" in page
    assert "Mean rank" in page
    lines = (finished[1] / "ranks.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in lines[1:]} == {"CCE", "DM", "ELR", "Co-teaching", "MentorNet DD"}


def test_plain_data_and_back_are_the_same_cells():
    recipe = parse_recipe(HEAD + ROWS)
    again = recipe_from_tables(json.loads(json.dumps(recipe_to_tables(recipe))))
    assert [cell.key for cell in again.cells()] == [cell.key for cell in recipe.cells()]
    assert again.compare == recipe.compare


def test_a_run_that_is_killed_goes_on_and_ends_alike(finished, tmp_path):
    recipe, whole = finished
    process = start(["run", str(recipe), *HOW, "--out", str(tmp_path / "run"), "--checkpoint-seconds", "0"], os.devnull)
    # The losses' job, and one method's.
    wait_for(lambda: len(list((tmp_path / "run").glob("cells/*.jsonl"))) >= 2, process)
    process.kill()
    end(process)
    assert not (tmp_path / "run" / "results.jsonl").exists() or len(rows_of(tmp_path / "run")) < 10
    assert main(["run", str(recipe), *HOW, "--out", str(tmp_path / "run")]) == 0
    assert rows_of(tmp_path / "run") == rows_of(whole)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('training = { name = "ekr" }', "unknown method 'ekr' (did you mean 'elr'"),
        ('training = { name = "elr", lamb = 3 }', "elr has no option 'lamb'"),
        ('training = { name = "elr", source = "x" }', "elr has no option 'source'"),
        ('training = { name = "co-teaching" }\nweighting = { family = "CCE" }', "'weighting' or 'training', not both"),
        ("", "the setting 'weighting' is missing"),
    ],
)
def test_a_mistake_in_a_row_is_named(row, said):
    with pytest.raises((RecipeError, ValueError), match=said.replace("(", r"\(")):
        with_row(row)


def with_row(row):
    return parse_recipe(
        f'{HEAD}[[methods]]\nname = "CCE"\nweighting = {{ family = "CCE" }}\n[[methods]]\nname = "DM"\n{row}\n'
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('training = { name = "nowhere.py:Own" }', "nowhere.py:Own' cannot be read"),
        ('training = { name = "json:loads" }', "is not a subclass of emphasis.baselines.Baseline"),
        ('training = { name = "emphasis.baselines:Missing" }', "cannot be read"),
        ('training = { name = "own.py:Own", shard = 1 }', "own.py:Own has no option 'shard' (did you mean 'share'"),
        ('weighting = { family = "function", function = "nowhere:f" }', "function 'nowhere:f' cannot be imported"),
        ('weighting = { family = "function", function = "json:loads" }', "'json:loads' is not a weighting: TypeError"),
    ],
)
def test_a_mistake_in_code_of_ones_own_is_named_before_anything_is_written(row, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    recipe = with_row(row)
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_hyperparameter_out_of_bounds_is_named_before_anything_is_written(tmp_path, capsys):
    text = HEAD + ROWS.replace("forget_rate = 0.4", "forget_rate = 1.5")
    (tmp_path / "mine.toml").write_text(text)
    assert main(["run", str(tmp_path / "mine.toml"), *HOW, "--out", str(tmp_path / "run")]) == 2
    assert "forget_rate=1.5 is not allowed" in capsys.readouterr().err


def test_a_method_of_ones_own_is_trained_again_when_its_file_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    row = '[[methods]]\nname = "DM"\ntraining = { name = "own.py:Own", share = 0.3 }\n'
    text = HEAD + '[[methods]]\nname = "CCE"\nweighting = { family = "CCE" }\n' + row
    (tmp_path / "mine.toml").write_text(text)
    keys = [cell.key for cell in with_sources(parse_recipe(text)).cells()]
    assert main(["run", "mine.toml", *HOW, "--out", "run", "--seeds", "1"]) == 0
    first = rows_of(tmp_path / "run")
    assert [one["key"] for one in first] == [keys[0], keys[2]]
    cce, own = (one["final_test_accuracy"] for one in first)
    assert own == pytest.approx(cce, abs=0.005)  # its loss is cross-entropy, its network starts like the others
    (tmp_path / "own.py").write_text(OWN.replace("return -", "return -0.001 * "))
    assert [cell.key for cell in stored_recipe(tmp_path / "run").cells()] == [keys[0], keys[2]]
    after = [cell.key for cell in with_sources(parse_recipe(text)).cells()]
    assert after[:2] == keys[:2]
    assert not set(after[2:]) & set(keys[2:])


def test_a_file_of_ones_own_is_read_again_when_it_changes_and_may_hold_dataclasses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    more = "\n@dataclass\nclass Settings:\n    share: float = 0.5\n"
    (tmp_path / "own.py").write_text(head + OWN + more)
    first = find("own.py:Own")
    assert find("own.py:Own") is first
    (tmp_path / "own.py").write_text(head + OWN + more + "\nOwn.changed = True\n")
    assert find("own.py:Own").changed
    assert not hasattr(first, "changed")
    (tmp_path / "own.py").write_text("class Own(:\n")
    with pytest.raises(ValueError, match=r"'own\.py:Own' cannot be read: SyntaxError"):
        find("own.py:Own")


def test_a_validation_part_with_noisy_labels_has_them_and_the_test_set_is_left_out():
    cell = next(parse_recipe(HEAD + ROWS).changed({"dataset.validation": 0.2}).cells())
    noisy = next(
        parse_recipe(HEAD + ROWS).changed({"dataset.validation": 0.2, "dataset.validation_labels": "noisy"}).cells()
    )
    assert cell.key != noisy.key
    whole = make_task(cell, load_split(cell.dataset, cell.noise), [0])
    task = make_task(noisy, load_split(noisy.dataset, noisy.noise), [0])
    assert np.array_equal(task.test_inputs, whole.test_inputs)  # the same examples, of the training part
    assert len(task.test_labels) == 259
    wrong = (task.test_labels != whole.test_labels).float().mean()
    assert wrong == pytest.approx(0.4, abs=0.02)
    assert task.noisy.float().mean() == pytest.approx(0.4, abs=0.01)


def test_a_search_may_vary_a_methods_hyperparameters_and_judge_by_noisy_labels(tmp_path):
    recipe = parse_recipe(HEAD + ROWS)
    space = (Vary("training.forget_rate", (0.2, 0.5)),)
    context = RunContext(threads=1)
    how = {"method": "Co-teaching", "space": space, "trials": 2, "batch": 2, "noisy_validation": True}
    result = search(recipe, tmp_path / "run", context, **how)
    assert {trial.settings["training.forget_rate"] for trial in result.trials} == {0.2, 0.5}
    assert max(trial.mean for trial in result.trials) < 0.75  # four in ten of the labels that judge are wrong
    summary = json.loads((tmp_path / "run" / "search.json").read_text())
    assert summary["validation_labels"] == "noisy"
    assert summary["objective"]["training"]["forget_rate"] == result.best.settings["training.forget_rate"]


@pytest.mark.parametrize(("name", "rows"), [("table1", 18), ("table2", 18), ("table3", 18), ("noisy-benchmark", 40)])
def test_every_row_of_tables_1_to_3_is_a_method_that_runs(name, rows):
    recipe = load_recipe(name)
    assert len(recipe.methods) == rows
    assert not recipe.reported
