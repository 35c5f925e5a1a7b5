"""The recipes of the package hold the paper's experiments and figures."""

import json
import math
import re
from pathlib import Path

import pytest

from emphasis import baselines, datasets, models
from emphasis.experiments.recipes.convert import build_objective
from emphasis.experiments.recipes.load import load_recipe, recipe_names
from emphasis.experiments.recipes.recipe import RecipeError
from emphasis.experiments.recipes.settings import MethodSpec
from emphasis.weighting import CCE, DEFAULT_WEIGHTING, DM, GCE, MAE, MSE, default_schedule

NAMES = recipe_names()
UNAVAILABLE = {"clothing1m", "mars"}
FINAL = "final_test_accuracy"


def test_networks_are_as_many_as_rows_times_columns_times_seeds():
    networks = {name: len(list(load_recipe(name).cells())) for name in NAMES}
    assert networks == {
        "cifar100n-fast": 39,
        "cifar10n": 4,
        "cifar10n-fast": 39,
        "digits": 16 * 5,
        "figure10": 6,
        "figure11": 6,
        "figure2": 5,
        "figure2c": 16 * 5 * 4,
        "figure5": 5 * 9,
        "figure6": 17,
        "figure7": 17,
        "figure8": 17,
        "figure9": 17,
        "noisy-benchmark": 40 * 5 * 5,
        "schedules": 8 * 3 * 5,
        "table1": 7 * 18,
        "table2": 4 * 18,
        "table3": 18,
        "table4": 9,
        "table5": 5 * 18 * 5,
        "table5-sample": 5 * 18 * 5,
        "table5-sorted": 5 * 18 * 5,
        "table6": 10 * 5,
        "table7": 6 * 7,
        "table8": 2 * 10,
        "table9": 5 * 9,
    }
    scaled = {name: load_recipe(name).scaled_down() for name in NAMES if load_recipe(name).scaled}
    assert {name: len(list(recipe.cells())) for name, recipe in scaled.items()} == {
        "cifar100n-fast": 39,
        "cifar10n": 4 * 2,
        "cifar10n-fast": 39,
        "figure2": 4 * 2,
        "figure5": 5 * 2,
        "figure6": 17,
        "figure7": 17,
        "figure8": 17,
        "figure9": 17,
        "figure10": 6 * 2,
        "figure11": 6 * 2,
        "table1": 3 * 18,
        "table6": 10 * 2,
        "table8": 2 * 10 * 2,
        "table9": 5 * 2,
    }
    for name, count in networks.items():
        if name != "digits":
            assert re.match(rf"{count:,} networks|40 networks, and 10 ", load_recipe(name).cost), name


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_asks_for_things_that_exist(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    for variant in (recipe, recipe.scaled_down()) if recipe.scaled else (recipe,):
        cells = list(variant.cells())
        assert len({cell.key for cell in cells}) == len(cells)
        for data, network in {(cell.dataset.name, cell.network.name): cell for cell in cells}:
            assert network in models.NAMES
            assert (data in UNAVAILABLE) == (recipe.status == "data-unavailable")
            assert data in datasets.NAMES or data in UNAVAILABLE
        for cell in cells:
            assert set(cell.network.options) <= {*models.options_of(cell.network.name), "hidden", "activation"}
            if cell.dataset.name not in UNAVAILABLE:
                assert set(cell.dataset.options) <= set(datasets.options(cell.dataset.name))
            images = cell.dataset.name not in ("digits", "imdb-vectors", "table")
            assert cell.dataset.augment == (images and not cell.dataset.train_size)
            at = cell.solver.schedule.at
            assert not at or at[-1] < cell.solver.iterations


@pytest.mark.parametrize("name", NAMES)
def test_no_recipe_pushes_for_ever_unless_it_says_bare(name):
    for cell in load_recipe(name).cells():
        objective = cell.objective
        if isinstance(objective, MethodSpec):
            assert objective.name in baselines.names()
            continue
        weighting = objective.weighting
        if isinstance(weighting, DM) and not weighting.vanishing:
            assert objective.max_margin == (None if "bare" in cell.method or "released" in cell.method else 16.6)
            assert (objective.arithmetic == "float32-published") == ("released" in cell.method)
            assert objective.normalization == (
                "integral" if "integral" in cell.method or name in ("noisy-benchmark", "schedules") else "batch"
            )
        else:
            assert objective.max_margin == "auto"
            assert weighting.max_margin("auto") == math.inf
        if isinstance(weighting, GCE):
            assert weighting.q == 0.7
        if cell.method.endswith("-DN"):
            assert objective.normalization == "batch"


@pytest.mark.parametrize("name", NAMES)
def test_texts_own_up(name):
    recipe = load_recipe(name)
    assert all(
        text and text == " ".join(text.split()) for text in (recipe.title, recipe.question, recipe.source, recipe.cost)
    )
    if any(method.group == "Vanishing DM" for method in recipe.methods) and name not in ("digits", "cifar10n"):
        assert "anishing DM" in recipe.deviations + recipe.choices
    if "GPU" in recipe.cost:
        assert "estimated" in recipe.cost
    if recipe.scaled:
        small = recipe.scaled_down()
        assert "scaled" in small.title
        assert small.deviations.startswith("Scaled down")
        assert (small.status, small.name) == ("scaled", f"{name}-scaled")


def test_losses_and_dn_are_what_they_are_called():
    kinds = {"CCE": CCE, "GCE": GCE, "MAE": MAE, "MSE": MSE}
    for name in ("table1", "table2", "table3", "table4", "table5", "table7"):
        seen = set()
        for cell in load_recipe(name).cells():
            loss, _, dn = cell.method.partition("-")
            if loss in kinds:
                seen.add(cell.method)
                assert type(cell.objective.weighting) is kinds[loss]
                assert cell.objective.normalization == ("batch" if dn else None)
        assert seen == {*kinds} | ({f"{kind}-DN" for kind in kinds} if name not in ("table4", "table7") else set())


def test_table_1_has_noise_of_both_kinds():
    noises = {cell.condition: (cell.noise.kind, cell.noise.rate) for cell in load_recipe("table1").cells()}
    assert noises == {
        "clean": ("none", 0.0),
        **{f"symmetric r = {rate}": ("symmetric", rate) for rate in (0.2, 0.4, 0.6)},
        **{f"asymmetric r = {rate}": ("superclass_swap", rate) for rate in (0.2, 0.3, 0.4)},
    }


def test_the_betas_of_table_1_are_those_of_the_authors_releases():
    """Whose accuracy.txt have the table's figures as the best of all tests: 70.1, 60.9, 55.2, 44.6 for lam = 0, ..."""
    released = {"DM lam=0": (2, 1, 1, 1), "DM lam=0.5": (6, 6, 8, 8), "DM lam=1": (6, 8, 8, 2)}
    columns = ("clean", "symmetric r = 0.2", "symmetric r = 0.4", "symmetric r = 0.6")
    recipe = load_recipe("table1")
    found = {(cell.method, cell.condition): cell.objective for cell in recipe.cells()}
    for method, betas in released.items():
        assert tuple(found[method, column].weighting.beta for column in columns) == betas
    assert recipe.metric == "best_test_accuracy"


def test_table_5_has_the_papers_betas_both_ways():
    recipe = load_recipe("table5")
    found = {}
    for cell in recipe.cells():
        w = cell.objective.weighting
        if isinstance(w, DM):
            found.setdefault(cell.method, {})[cell.condition] = (w.lam, w.beta)
    paper = {"r = 0": (0, 0.9), "r = 0.2": (0, -0.52), "r = 0.4": (0, -0.33), "10:1": (0.3, 6.5), "50:1": (0.3, 6.5)}
    assert found["DM"] == found["DM, bare"] == paper
    assert found["DM, other sign"] == {name: (lam, -beta) for name, (lam, beta) in paper.items()}


def test_table_5_has_the_solver_of_appendix_d():
    for cell in load_recipe("table5").cells():
        solver = cell.solver
        assert (solver.iterations, solver.learning_rate, solver.momentum, solver.weight_decay) == (
            10000,
            0.01,
            0.9,
            0.002,
        )
        for iteration in (0, 1, 5000, 9999):  # Caffe's "inv": base_lr * (1 + gamma * iter) ^ (-power)
            assert solver.schedule.scale(iteration) == pytest.approx((1 + 0.00001 * iteration) ** -0.75, rel=1e-15)
        assert (cell.network.name, cell.network.options) == ("mlp", {"hidden": [8], "activation": "relu"})


def test_variants_of_table_5_differ_in_the_vectors_alone():
    def without_options(recipe):
        return [{**cell.config(), "dataset": cell.dataset.name} for cell in recipe.cells()]

    table5, sample, sort = (load_recipe(name) for name in ("table5", "table5-sample", "table5-sorted"))
    assert without_options(table5) == without_options(sample) == without_options(sort)
    options = [next(recipe.cells()).dataset.options for recipe in (table5, sample, sort)]
    assert options == [{"sample": 0.0}, {"sample": 1e-4}, {"sample": 1e-4, "shuffle": False}]
    assert sample.paper == sort.paper == table5.paper
    for recipe in (sample, sort):
        assert "1e-4" in recipe.title
    assert "sorted" in sort.title


@pytest.mark.parametrize("name", ["table1", "table2", "table6", "table7", "table8", "table9", "figure2", "figure11"])
def test_cifar_is_trained_as_in_section_4_2_1(name):
    for cell in load_recipe(name).cells():
        solver = cell.solver
        assert (solver.iterations, solver.batch_size) == (30000, 256)
        steps = [solver.schedule.scale(iteration) for iteration in (0, 14999, 15000, 21999, 22000, 29999)]
        assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
        if name != "table7":
            assert (solver.name, solver.learning_rate, solver.momentum) == ("sgd", 0.1, 0.9)
        if name not in ("table6", "table8"):
            assert solver.weight_decay == 1e-4


def test_schedules_of_tables_3_and_4():
    clothing, mars = (next(load_recipe(name).cells()).solver for name in ("table3", "table4"))
    assert (clothing.iterations, clothing.learning_rate, clothing.weight_decay) == (20000, 0.01, 2e-5)
    assert [clothing.schedule.scale(i) for i in (9999, 10000, 15000)] == pytest.approx([1, 0.1, 0.01])
    assert (mars.iterations, mars.batch_size, mars.learning_rate, mars.weight_decay) == (50000, 180, 0.01, 5e-4)
    assert [mars.schedule.scale(i) for i in (0, 10000, 20000, 49999)] == pytest.approx([1, 0.5, 0.25, 0.0625])


def test_table_7_runs_the_optimisers_that_its_columns_name():
    for cell in load_recipe("table7").cells():
        solver, column = cell.solver, cell.condition
        assert solver.name == ("adam" if column.startswith("Adam") else "sgd")
        assert f"lr {solver.learning_rate:g}" in column
        assert (solver.momentum == 0.9) == (column.startswith(("SGD +", "Nesterov")))
        assert solver.nesterov == column.startswith("Nesterov")
        if solver.name == "adam":
            assert f"delta {solver.delta:g})" in column


@pytest.mark.parametrize("name", ["table6", "table8"])
def test_rows_regularise_as_they_are_called(name):
    recipe = load_recipe(name)
    for variant in (recipe, recipe.scaled_down()) if recipe.scaled else (recipe,):
        for cell in variant.cells():
            assert cell.solver.weight_decay == (1e-4 if "L2" in cell.method else 0.0)
            assert cell.network.options.get("dropout", 0.0) == (0.2 if "Dropout" in cell.method else 0.0)
            if "DM" in cell.method:
                assert (cell.objective.weighting.lam, cell.objective.weighting.beta) == (0.5, 8.0)


def test_figures_that_need_p_keep_it():
    assert next(load_recipe("figure2").cells()).evaluation.trace
    for name in ("table9", "cifar10n"):
        assert all(cell.evaluation.trace for cell in load_recipe(name).scaled_down().cells())


def test_scaled_parts_shorten_and_change_nothing_else():
    table8 = load_recipe("table8").scaled_down()
    for cell in table8.cells():
        solver = cell.solver
        assert (cell.network.name, solver.iterations, solver.batch_size, solver.momentum) == (
            "small-cnn",
            1600,
            128,
            0.9,
        )
        steps = [solver.schedule.scale(i) for i in (0, 799, 800, 1199, 1200, 1599)]
        assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    table9 = load_recipe("table9").scaled_down()
    assert table9.condition_names == ["r = 0.4"]
    assert [m.name for m in table9.methods] == [
        "CCE",
        "DM lam=0.5",
        "DM lam=0.5, released",
        "GCE",
        "Vanishing DM lam=0.5",
    ]
    assert {cell.objective.weighting for cell in table9.cells()} == {
        CCE(),
        GCE(0.7),
        DM(lam=0.5, beta=12),
        DM(lam=0.5, beta=12, vanishing=True),
    }
    assert table9.paper_value(FINAL, "DM lam=0.5", "r = 0.4") == 79.9
    assert math.isnan(table9.paper_value(FINAL, "GCE", "r = 0.4"))
    with pytest.raises(RecipeError, match="table7 has no scaled form; run it as it is"):
        load_recipe("table7").scaled_down()


def test_the_settings_of_noisy_benchmark_are_those_that_were_chosen_on_noisy_labels():
    file = Path(__file__).parents[2] / "results" / "noisy_benchmark_choices.json"
    chosen = json.loads(file.read_text(encoding="utf-8"))["chosen"]
    recipe = load_recipe("noisy-benchmark")
    assert list(chosen) == recipe.condition_names
    for cell in recipe.cells():
        if cell.method in chosen[cell.condition]:
            best = build_objective(chosen[cell.condition][cell.method]["best"], cell.method)
            if isinstance(best, MethodSpec):
                assert cell.objective == best
            else:
                assert cell.objective.weighting == best.weighting


def test_the_warm_up_of_noisy_benchmark_is_that_of_estimators():
    recipe = load_recipe("noisy-benchmark")
    warmed = [cell.objective for cell in recipe.cells() if cell.method == "Relative, warm-up"]
    plain = [cell.objective for cell in recipe.cells() if cell.method == "Relative"]
    assert {objective.weighting for objective in [*warmed, *plain]} == {DEFAULT_WEIGHTING}
    assert all(dict(objective.schedule) == default_schedule(DEFAULT_WEIGHTING) for objective in warmed)
    assert not any(objective.schedule for objective in plain)
