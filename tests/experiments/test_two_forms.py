"""A comparison in two forms: which rates are chosen, by which labels, and what the two recipes then train."""

from dataclasses import replace
from pathlib import Path

import pytest

from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import load_recipe, parse_recipe
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.studies.two_forms import FORMS, in_form, measure_rates, rates_of

GRID = (0.001, 0.1)
ONE_THREAD = RunContext(threads=1)
RECIPE = parse_recipe((Path(__file__).parent / "tiny.toml").read_text(encoding="utf-8")).changed(
    {"solver.iterations": 60, "evaluation.every": 60}
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    return measure_rates(RECIPE, folder, ONE_THREAD, grid=GRID), folder


def rates_in(recipe):
    return {(cell.condition, cell.method): cell.solver.learning_rate for cell in recipe.cells()}


def test_every_method_is_judged_at_every_rate_by_held_out_noisy_labels(measured):
    accuracies, folder = measured
    assert {name: tuple(by_rate) for name, by_rate in accuracies[""].items()} == dict.fromkeys(
        ("CCE", "DM", "Vanishing DM"), GRID
    )
    assert max(accuracies[""]["CCE"].values()) < 0.75  # four in ten of the labels that judge are wrong
    assert accuracies[""]["CCE"][0.1] > accuracies[""]["CCE"][0.001] + 0.2  # which hardly moves in 60 steps
    again = measure_rates(RECIPE, folder, ONE_THREAD, grid=GRID)
    assert again == accuracies


def test_the_first_form_shares_cross_entropys_rate_and_the_second_gives_each_its_own(measured):
    _, folder = measured
    accuracies = {
        "": {"CCE": {0.01: 0.4, 0.1: 0.6}, "DM": {0.01: 0.5, 0.1: 0.2}, "Vanishing DM": {0.01: 0.3, 0.1: 0.3}}
    }
    shared, own = (in_form(RECIPE, accuracies, form) for form in FORMS)
    assert rates_in(shared) == {("", name): 0.1 for name in ("CCE", "DM", "Vanishing DM")}
    assert rates_in(own) == {("", "CCE"): 0.1, ("", "DM"): 0.01, ("", "Vanishing DM"): 0.1}
    assert (shared.name, own.name) == ("tiny-shared-rate", "tiny-own-rate")
    assert shared.title == f"{RECIPE.title}, at CCE's best learning rate"
    assert own.title == f"{RECIPE.title}, at each method's own best learning rate"
    assert shared.choices.startswith("Learning rates: CCE's best in each condition, by 20%")
    assert rates_of(accuracies)[""]["DM"] == 0.01
    rows = run(replace(own, seeds=1), folder / "own", ONE_THREAD)
    assert {row["method"]: row["solver"]["learning_rate"] for row in rows} == {
        "CCE": 0.1,
        "DM": 0.01,
        "Vanishing DM": 0.1,
    }


def test_rates_are_chosen_condition_by_condition_and_keep_what_a_row_says_there():
    recipe = load_recipe("noisy-benchmark").limited(["digits 40 %", "MNIST 60 %"], ["CCE", "Self-paced"])
    accuracies = {
        condition: {name: {0.01: 0.1, 0.1: 0.2} for name in ("CCE", "Self-paced")}
        for condition in recipe.condition_names
    }
    accuracies["MNIST 60 %"]["CCE"] = {0.01: 0.9, 0.1: 0.2}
    shared = in_form(recipe, accuracies, "shared-rate")
    assert {key[0]: rate for key, rate in rates_in(shared).items() if key[1] == "Self-paced"} == {
        "MNIST 60 %": 0.01,
        "digits 40 %": 0.1,
    }
    before = {(cell.condition, cell.method): cell.objective for cell in recipe.cells()}
    assert {(cell.condition, cell.method): cell.objective for cell in shared.cells()} == before


def test_what_cannot_be_measured_is_refused(tmp_path):
    table5 = load_recipe("table5").limited(["10:1"], ["CCE"])
    with pytest.raises(RecipeError, match="leaves examples out"):
        measure_rates(table5, tmp_path)
    with pytest.raises(ValueError, match="rates > 0"):
        measure_rates(RECIPE, tmp_path, grid=(0.0,))
    with pytest.raises(ValueError, match="use one of shared-rate, own-rate"):
        in_form(RECIPE, {}, "best-rate")
