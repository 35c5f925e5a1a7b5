"""The schema of recipes: tables become cells and come back, and every mistake is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emphasis.corruption import CIFAR100_SUPERCLASS
from emphasis.datasets import Split
from emphasis.experiments.recipes.convert import RecipeError, merged
from emphasis.experiments.recipes.load import (
    load_recipe,
    parse_recipe,
    recipe_digest,
    recipe_from_tables,
    recipe_names,
    recipe_to_tables,
)
from emphasis.experiments.recipes.settings import Noise
from emphasis.experiments.runs.data import corrupted, load_split, make_task
from emphasis.weighting import CCE

TINY = (Path(__file__).parent / "tiny.toml").read_text()
NAMES = recipe_names()
LOADED = {name: load_recipe(name) for name in ("table1", "table5", "table8", "table9")}


def test_a_recipe_becomes_cells():
    recipe = parse_recipe(TINY)
    cells = list(recipe.cells())
    assert [(cell.method, cell.seed) for cell in cells] == [(m.name, s) for m in recipe.methods for s in (0, 1)]
    assert cells[0].network.options == {"hidden": [16]}
    assert cells[0].objective.weighting == CCE()
    assert cells[2].objective.max_margin is None
    assert cells[4].objective.max_margin == "auto"


@pytest.mark.parametrize("name", NAMES)
def test_plain_data_and_back_are_the_same_cells(name):
    recipe = load_recipe(name)
    again = recipe_from_tables(recipe_to_tables(recipe))
    assert [(cell.key, cell.condition, cell.method) for cell in again.cells()] == [
        (cell.key, cell.condition, cell.method) for cell in recipe.cells()
    ]
    assert recipe_to_tables(again).keys() == recipe_to_tables(recipe).keys()
    assert (again.seeds, again.figures, again.baseline) == (recipe.seeds, recipe.figures, recipe.baseline)


@settings(max_examples=25)
@given(data=st.data(), name=st.sampled_from(["table1", "table5", "table8", "table9"]))
def test_limited_keeps_cells_and_figures_of_what_is_left(data, name):
    recipe = LOADED[name]
    conditions = data.draw(st.sets(st.sampled_from(recipe.condition_names)))
    methods = data.draw(st.sets(st.sampled_from([method.name for method in recipe.methods])))
    part = recipe.limited(sorted(conditions), sorted(methods))
    wanted = [
        cell
        for cell in recipe.cells()
        if (not conditions or cell.condition in conditions) and (not methods or cell.method in methods)
    ]
    assert list(part.cells()) == wanted
    for cell in wanted:
        for metric in recipe.paper:
            figures = [one.paper_value(metric, cell.method, cell.condition) for one in (part, recipe)]
            assert figures[0] == pytest.approx(figures[1], abs=0, nan_ok=True)
    assert part.baseline in {method.name for method in part.methods}
    # What is stored of a limited run can be read again.
    again = recipe_from_tables(recipe_to_tables(part))
    assert recipe_digest(again) == recipe_digest(part)
    if part.scaled:
        assert {cell.key for cell in part.scaled_down().cells()} <= {c.key for c in recipe.scaled_down().cells()}


@given(
    seeds=st.integers(1, 9),
    rate=st.floats(0.0, 1.0),
    iterations=st.integers(1, 10**6),
    width=st.integers(1, 999),
    text=st.sampled_from([TINY, TINY + '[[conditions]]\nname = "one"\nnoise = { rate = 0.1 }\n']),
)
def test_changed_settings_hold_in_every_cell(seeds, rate, iterations, width, text):
    recipe = parse_recipe(text)
    changed = recipe.changed(
        {
            "seeds": seeds,
            "noise.rate": rate,
            "solver.iterations": iterations,
            "network.hidden": [width, 3],
            "solver.schedule.policy": "inv",
            "precision": "bf16-mixed",
        }
    )
    cells = list(changed.cells())
    assert {cell.seed for cell in cells} == set(range(seeds))
    for cell in cells:
        assert (cell.noise.rate, cell.solver.iterations, cell.precision) == (rate, iterations, "bf16-mixed")
        assert (cell.network.options, cell.solver.schedule.policy) == ({"hidden": [width, 3]}, "inv")
        assert cell.solver.batch_size == 64
    assert recipe == parse_recipe(text)


def test_the_digest_follows_settings_and_not_texts():
    recipe = parse_recipe(TINY)
    assert recipe_digest(parse_recipe(TINY.replace("Does it run?", "Why?"))) == recipe_digest(recipe)
    assert recipe_digest(recipe.changed({"noise.rate": 0.2})) != recipe_digest(recipe)


def test_extends_takes_all_but_what_it_says(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('extends = "table9"\nname = "mine"\n[solver]\nlearning_rate = 0.2\nschedule = { at = [7] }\n')
    mine, table9 = load_recipe(str(file)), load_recipe("table9")
    assert (mine.name, mine.title, repr(mine.paper)) == ("mine", table9.title, repr(table9.paper))  # holds NaN
    for cell, other in zip(mine.cells(), table9.cells(), strict=True):
        assert (cell.solver.learning_rate, cell.solver.schedule.at) == (0.2, (7,))
        assert (cell.solver.momentum, cell.solver.schedule.factor) == (0.9, 0.1)
        assert (cell.objective, cell.noise, cell.dataset) == (other.objective, other.noise, other.dataset)
    # Lists are replaced: with other methods, the paper's figures for those gone are a mistake that is named.
    methods = '[[methods]]\nname = "CCE"\nweighting = { family = "CCE" }\n'
    with pytest.raises(RecipeError, match=r"mine: paper\.\w+: there is no method 'DM beta=0'"):
        parse_recipe(f'extends = "table9"\n{methods}', "mine")


def test_extends_changes_rows_by_name():
    changes = '[methods.SL]\ntraining = { nu = 0.5 }\n[methods.CCE]\nweighting = { family = "MAE" }\nat = {}\n'
    mine, base = parse_recipe(f'extends = "noisy-benchmark"\n{changes}'), load_recipe("noisy-benchmark")
    for row, before in zip(mine.methods, base.methods, strict=True):
        if row.name == "SL":
            assert row.training == {**before.training, "nu": 0.5}
        elif row.name == "CCE":
            assert row.weighting == {"family": "MAE"}
        else:
            assert row == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("[methods.Mae]\nweighting = {}", r"mine: methods: there is no method 'Mae' \(did you mean 'MAE'\?\)"),
        ("[methods]\nMAE = 3", r"mine: methods\.MAE=3 is not allowed; use a table of settings"),
        ("[methods.MAE]\nweight = 3", r"mine: methods\[1\]: unknown setting 'weight'"),
    ],
)
def test_a_change_of_a_row_that_cannot_be_is_named(changes, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe(f'extends = "noisy-benchmark"\n{changes}', "mine")


@pytest.mark.parametrize("base", ['"table55"', '"mine.toml"', "3", "[]"])
def test_extending_what_is_not_there_is_named(base):
    with pytest.raises(RecipeError, match=r"mine: extends: .* is no recipe of the package; use one of .*table5"):
        parse_recipe(f"extends = {base}", "mine")


TABLES = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(*[st.dictionaries(st.sampled_from("abc"), TABLES, max_size=3) for _ in range(3)])
def test_merging_is_associative_and_the_last_word_counts(a, b, c):
    assert merged(a, b, c) == merged(merged(a, b), c)
    assert merged(a, {}) == merged({}, a) == merged(a, a) == a
    for key, value in b.items():
        if not isinstance(value, dict):
            assert merged(a, b)[key] == value


def test_weightings_are_replaced_whole():
    both = merged({"w": {"family": "DM", "lam": 1, "vanishing": True}}, {"w": {"family": "GCE", "q": 0.3}})
    assert both == {"w": {"family": "GCE", "q": 0.3}}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate = 0.4", "rate = 1.4", r"tiny / CCE: noise: rate=1.4 is not allowed; use a number in \[0, 1\]"),
        ("rate = 0.4", 'rate = "much"', "tiny / CCE: noise: rate must be a number, got 'much'"),
        ("rate = 0.4", "rate = true", "noise: rate must be a number"),
        ("rate = 0.4", "rates = 0.4", r"unknown setting 'rates' \(did you mean 'rate'"),
        ("rate = 0.4", "rate = nan", r"rate=nan is not allowed; use a number in \[0, 1\]"),
        ('kind = "symmetric"', "", "rate=0.4 is not allowed; it needs a kind of symmetric, pair_flip"),
        ('kind = "symmetric"', 'kind = "pair"', "kind='pair' is not allowed; use one of none, symmetric, pair_flip"),
        ('kind = "symmetric"\nrate = 0.4', 'kind = "pn_ratio"', "ratio=0.0 is not allowed; give pn_ratio and"),
        ('kind = "symmetric"\nrate = 0.4', 'kind = "human"', "labels='' is not allowed; name them"),
        ("[noise]", "[noises]", r"tiny: unknown setting 'noises' \(did you mean 'noise'"),
        ('name = "mlp"', "", "network: the setting 'name' is missing"),
        ("iterations = 400", "", "tiny / CCE: solver: the setting 'iterations' is missing"),
        ("iterations = 400", "iterations = 400.5", "iterations must be a whole number, got 400.5"),
        ("iterations = 400", "iteration = 400", r"unknown setting 'iteration' \(did you mean 'iterations'"),
        ("seeds = 2", "seeds = 0", "tiny: seeds=0 is not allowed; use a whole number >= 1"),
        ("seeds = 2", "seeds = true", "seeds must be a whole number, got True"),
        ("seeds = 2", 'precision = "8-bit"', "precision='8-bit' is not allowed; use one of 32-true, bf16-mixed"),
        ("seeds = 2", 'figures = ["pie"]', "figures='pie' is not allowed; use any of curves, fits, prob"),
        ("seeds = 2", 'figures = "curves"', "figures must be a list, got 'curves'"),
        ("seeds = 2", 'status = "done"', "status must be one of 'full', 'scaled', 'data-unavailable', got 'done'"),
        ("momentum = 0.9", "momentum = 2", "momentum=2.0 is not allowed"),
        ("momentum = 0.9", 'schedule = { policy = "triangle" }', "schedule: policy must be one of 'constant', 'step'"),
        (
            "momentum = 0.9",
            'schedule = { policy = "step", at = [5, 5] }',
            r"at=\(5, 5\) is not allowed; use iterations > 0 in ascending order",
        ),
        ("every = 50", "every = 0", "evaluation: every=0 is not allowed"),
        ('family = "CCE"', 'family = "CCEE"', "tiny / CCE: .*did you mean 'CCE'"),
        ("beta = 12 }", "betta = 12 }", "tiny / DM: .*DM has no parameter 'betta'"),
        ("beta = 12, vanishing", "beta = -1, vanishing", "tiny / Vanishing DM: DM: beta=-1.0 is not allowed with"),
        ('"batch"', '"rows"', "normalization='rows' is not allowed"),
        ('max_margin = "none"', 'max_margin = "never"', "max_margin='never' is not allowed"),
        ('name = "Vanishing DM"', 'name = "CCE"', "give each its own name"),
        ('baseline = "CCE"', 'baseline = "MAE"', "baseline='MAE' is not allowed; use a method's name: CCE, DM"),
        ("[network]", "[network", "tiny: not valid TOML"),
        ('group = "Losses"', 'at = { "r = 0.3" = {} }', "CCE: condition='r = 0.3' is not allowed; use one of"),
        ('group = "Losses"', 'only = ["r = 0.3"]', "CCE: condition='r = 0.3' is not allowed; use one of"),
        ('group = "Losses"', 'at = { "" = { seeds = 3 } }', "tiny / CCE: unknown setting 'seeds'; a method may set"),
        ('group = "Losses"', "noise = { rate = 0.1 }", r"tiny: methods\[0\]: unknown setting 'noise'"),
        (
            "[network]",
            "[paper]\nfinal_test_accuracy = { CCE = [1.0, 2.0] }\n[network]",
            "tiny: paper.final_test_accuracy: CCE has 2 figures for 1 conditions; give one for each, nan where",
        ),
        (
            "[network]",
            "[paper]\nfinal_test_accuracy = { CEC = [1.0] }\n[network]",
            r"tiny: paper.final_test_accuracy: there is no method 'CEC' \(did you mean 'CCE'",
        ),
        ("[network]", "[paper_spread]\nCCE = []\n[network]", "tiny: paper_spread: CCE has 0 figures for 1 conditions"),
        (
            "[network]",
            '[[reported]]\nname = "SL"\ngroup = "g"\nvalues = [1, 2]\n[network]',
            "tiny: reported: SL has 2 figures for 1 conditions",
        ),
        (
            "[network]",
            '[scaled]\ntitle = "t"\ncost = "c"\ndeviations = "d"\nmethods = ["CEC"]\n[network]',
            r"tiny has no method 'CEC' \(did you mean 'CCE'",
        ),
        ("[network]", '[scaled]\ntitle = "t"\ncost = "c"\n[network]', "scaled: the setting 'deviations' is missing"),
    ],
)
def test_mistakes_are_named(old, new, message):
    assert old in TINY
    with pytest.raises(RecipeError, match=message):
        parse_recipe(TINY.replace(old, new, 1), "tiny")


def test_a_missing_weighting_is_named():
    text = TINY.replace('weighting = { family = "CCE" }', "")
    with pytest.raises(RecipeError, match="tiny / CCE: the setting 'weighting' is missing, e"):
        parse_recipe(text, "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": 0.1}, "unknown setting 'noise'; use seeds, precision, or PART.KEY"),
        ({"noises.rate": 0.1}, "unknown setting 'noises.rate'"),
        ({"seeds": 0}, "tiny: seeds=0 is not allowed; use a whole number >= 1"),
        ({"seeds": "many"}, "tiny: seeds must be a whole number, got 'many'"),
        ({"precision": "64"}, "tiny: precision='64' is not allowed; use one of"),
        ({"solver.momentums": 1}, r"solver: unknown setting 'momentums' \(did you mean 'momentum'"),
    ],
)
def test_changes_that_cannot_be_are_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        list(parse_recipe(TINY).changed(changes).cells())


def test_limits_that_leave_nothing_are_named():
    with pytest.raises(
        RecipeError, match=r"table9 has no condition 'r = 0.3' \(did you mean .*; it has 'r = 0', 'r = 0.2'"
    ):
        load_recipe("table9").limited(["r = 0.3"])
    columns = "".join(f'[[conditions]]\nname = "{name}"\n' for name in "ab")
    only = parse_recipe(TINY.replace('group = "Losses"', 'only = ["a"]') + columns)
    assert [(cell.condition, cell.method) for cell in only.cells()][::2] == [
        ("a", "CCE"),
        ("a", "DM"),
        ("a", "Vanishing DM"),
        ("b", "DM"),
        ("b", "Vanishing DM"),
    ]
    assert only.limited(["b"]).baseline == "DM"
    with pytest.raises(RecipeError, match="tiny has no method CCE in b"):
        only.limited(["b"], ["CCE"])


def test_unknown_recipes_are_named(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'digits'"):
        load_recipe("digit")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(str(tmp_path / "none.toml"))


def test_a_changed_recipe_is_no_longer_the_papers():
    """Its figures must not stand beside the paper's as if they were of the same experiment."""
    table7 = load_recipe("table7")
    changed = table7.changed({"solver.iterations": 3, "network.name": "resnet20"})
    assert changed.status == "scaled"
    assert changed.deviations.startswith(
        "Scaled: not the paper's experiment, since solver.iterations = 3, network.name"
    )
    assert table7.changed({"seeds": 2, "precision": "bf16-mixed"}).status == "full"
    assert load_recipe("digits").changed({"solver.iterations": 3}).status == "full"


def test_asymmetric_noise_of_100_classes_is_of_superclasses_or_of_blocks_of_five():
    """SL's paper says superclasses; its release takes five consecutive fine labels for one, which share none."""
    labels = np.repeat(np.arange(100), 5)
    split = Split(np.zeros((500, 2), np.float32), labels, np.zeros((1, 2), np.float32), labels[:1], 100)
    groups = {"superclass_swap": np.array(CIFAR100_SUPERCLASS), "block_swap": np.arange(100) // 5}
    for kind, group in groups.items():
        noisy = corrupted(split, Noise(kind, rate=1.0), 0).labels
        moved = noisy != labels
        assert moved.mean() == 0.4
        assert (group[noisy] == group[labels]).all()
    assert (groups["superclass_swap"][noisy] != groups["superclass_swap"][labels])[moved].mean() > 0.5
    with pytest.raises(ValueError, match="blocks of five classes, the data has 4"):
        corrupted(
            replace(split, train_labels=labels % 4, test_labels=labels[:1] % 4, num_classes=4),
            Noise("block_swap", rate=0.1),
            0,
        )


@pytest.mark.parametrize("kind", ["superclass_swap", "block_swap"])
def test_held_out_noisy_labels_confuse_the_classes_that_the_training_labels_of_every_network_do(kind, monkeypatch):
    labels = np.repeat(np.arange(100), 20)
    split = Split(np.zeros((2000, 2), np.float32), labels, np.zeros((1, 2), np.float32), labels[:1], 100)
    monkeypatch.setattr("emphasis.experiments.runs.data.load_whole", lambda *_: split)
    recipe = load_recipe("digits").limited(methods=["CCE"]).changed({"noise.kind": kind, "noise.rate": 0.5})

    def swapped(given, true):
        return {(int(a), int(b)) for a, b in zip(true, given, strict=True) if a != b}

    cell = next(recipe.changed({"dataset.validation": 0.5, "dataset.validation_labels": "noisy"}).cells())
    held_out = load_split(cell.dataset, cell.noise)
    task = make_task(cell, held_out, [0, 1, 2])
    truth = load_split(replace(cell.dataset, validation_labels="true"), cell.noise).test_labels
    expected = swapped(held_out.test_labels, truth)
    assert len(expected) == 40
    assert all(swapped(row.numpy(), task.true_labels.numpy()) == expected for row in task.labels)
    assert not torch.equal(task.labels[0], task.labels[1])
    plain = make_task(replace(cell, dataset=replace(cell.dataset, validation_labels="true")), held_out, [0, 1])
    assert len({frozenset(swapped(row.numpy(), plain.true_labels.numpy())) for row in plain.labels}) == 2
