"""The learning rate of `audit` and `tune`: found from the data unless given, and close to the best there is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emphasis.cli.main import main
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.recipes.recipe import Method
from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import read_rows
from emphasis.experiments.studies.accuracy import final_accuracy
from emphasis.experiments.studies.own_data import recipe_of, recipe_of_table, single_method_recipe, suitable_length
from emphasis.experiments.studies.rates import needs_rate, with_best_rate, with_rate
from emphasis.learning_rate import RATES, middle_rate

CCE = Method("CCE", weighting={"family": "CCE"})
ONE_THREAD = RunContext(threads=1)
HOW = ["--no-progress", "--accelerator", "cpu"]


def solver_of(recipe):
    return next(recipe.cells()).solver


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """26 clouds in 20 dimensions, 50 points of each."""
    rng = np.random.default_rng(0)
    true = np.arange(1300) % 26
    points = rng.normal(size=(26, 20))[true] + 0.75 * rng.normal(size=(1300, 20))
    path = tmp_path_factory.mktemp("many") / "clouds.csv"
    pd.DataFrame(points).add_prefix("x").assign(label=[f"class{c}" for c in true]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def task(many):
    return single_method_recipe(recipe_of_table(many, "label", {}), CCE, noise_rate=0.4, iterations=400)


def test_with_many_classes_and_wrong_labels_the_rate_found_is_nearly_the_best(task, tmp_path):
    """By true labels of examples that are held out; the constant rate of earlier versions is the control."""
    recipe, split = task
    found = solver_of(with_best_rate(recipe, split, tmp_path / "rates", ONE_THREAD)).learning_rate
    constant = {"learning_rate": 0.1, "schedule": {"policy": "constant"}}
    methods = [replace(CCE, name=f"{rate:g}", solver={"learning_rate": rate}) for rate in RATES["sgd"]]
    methods.append(replace(CCE, name="constant", solver=constant))
    judged = recipe.changed({"dataset.validation": 0.2, "dataset.fold": 4, "evaluation.every": 10_000})
    judged = replace(judged, methods=tuple(methods), baseline="constant", seeds=2)
    rows = run(judged, tmp_path / "judged", ONE_THREAD)
    accuracy = {
        method.name: final_accuracy([row for row in rows if row["method"] == method.name])[0] for method in methods
    }
    print(found, accuracy)  # shown where it fails
    best = max(accuracy.values())
    assert accuracy[f"{found:g}"] >= best - 0.02
    assert accuracy["constant"] < best - 0.1


def test_all_rates_train_at_once_and_the_same_search_trains_nothing(task, tmp_path):
    recipe, split = task
    short = recipe.changed({"solver.iterations": 30})
    found = with_best_rate(short, split, tmp_path / "rates", ONE_THREAD, force=True)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rates" / "cells").iterdir()}
    rows = [row for path in (tmp_path / "rates").glob("cells/*.jsonl") for row in read_rows(path)]
    assert sum(name.endswith(".jsonl") for name in files) == 2  # a fold each, also where an earlier search is replaced
    assert {row["networks_at_once"] for row in rows} == {len(RATES["sgd"])}
    assert sorted({row["solver"]["learning_rate"] for row in rows}) == list(RATES["sgd"])
    assert with_best_rate(short, split, tmp_path / "rates", ONE_THREAD) == found
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rates" / "cells").iterdir()} == files


def test_networks_that_train_one_by_one_take_fewer_steps_that_go_as_far(task, tmp_path):
    recipe, split = task
    deep = recipe.changed({"network.dropout": 0.1, "solver.iterations": 20})
    with_best_rate(deep, split, tmp_path / "rates", ONE_THREAD)
    rows = [row for path in (tmp_path / "rates").glob("cells/*.jsonl") for row in read_rows(path)]
    gone = sorted(row["solver"]["learning_rate"] * row["solver"]["iterations"] for row in rows)
    assert {row["solver"]["iterations"] for row in rows} == {4}
    np.testing.assert_allclose(gone, [20 * rate for rate in RATES["sgd"]])


def test_a_rate_that_is_given_wins(task, tmp_path):
    recipe, split = task
    given = with_rate(recipe, 0.02)
    assert with_best_rate(given, split, tmp_path / "rates") is given
    assert not (tmp_path / "rates").exists()
    few = replace(split, train_inputs=split.train_inputs[:51], train_labels=split.train_labels[:51])
    assert solver_of(with_best_rate(recipe, few, tmp_path / "rates")).learning_rate == middle_rate("sgd")
    assert not (tmp_path / "rates").exists()


def test_recipes_keep_what_they_say_where_they_are_run(tmp_path):
    published = load_recipe("digits")
    assert solver_of(published).learning_rate == 0.1
    assert solver_of(published).schedule.policy == "constant"
    audited = recipe_of("digits", {})
    assert needs_rate(audited)
    assert solver_of(audited).schedule.policy == "cosine"
    assert recipe_of("table5", {}) == load_recipe("table5")  # its schedule ends
    source = Path(load_recipe.__code__.co_filename).parent / "digits.toml"
    (tmp_path / "mine.toml").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    mine = recipe_of(str(tmp_path / "mine.toml"), {})
    assert solver_of(mine) == solver_of(published)


def test_the_key_of_a_network_says_its_rate():
    cells: list[Cell] = [next(with_rate(load_recipe("digits"), rate).cells()) for rate in (0.1, 0.2)]
    assert cells[0].key == next(load_recipe("digits").cells()).key != cells[1].key


def test_an_audit_of_an_earlier_version_is_read_and_done_anew(many, tmp_path, capsys):
    command = ["audit", str(many), "--label", "label", *HOW, "--iterations", "40", "--out", str(tmp_path / "run")]
    earlier = ["--set", "solver.learning_rate=0.1", "--set", "solver.schedule.policy=constant"]
    assert main([*command, *earlier]) == 0
    assert not (tmp_path / "run" / "rates").exists()
    assert "learning rate" not in capsys.readouterr().out
    assert "learning rate 0.1," in (tmp_path / "run" / "audit.html").read_text(encoding="utf-8")
    assert main(command) == 0
    assert "by held-out labels" in capsys.readouterr().out
    assert (tmp_path / "run" / "rates").exists()


@given(st.sampled_from(["vectors", "images"]), st.integers(1, 3_000_000), st.integers(0, 100_000))
def test_training_of_own_data_grows_with_the_data_up_to_a_limit(kind, examples, more):
    batch, steps = suitable_length(kind, examples, 128)
    larger_batch, larger_steps = suitable_length(kind, examples + more, 128)
    assert 1 <= batch <= larger_batch <= (512 if kind == "vectors" else 128)
    assert batch == max(1, min(128, examples // 4)) or examples > 20_480
    assert 300 <= steps <= 20_000
    assert steps * batch <= 2_560_000
    assert larger_steps * larger_batch >= 0.99 * steps * batch - larger_batch  # less only by rounding
