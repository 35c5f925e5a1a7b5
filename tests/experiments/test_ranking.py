"""Ranks and paired comparisons of a recipe that asks for them."""

import csv
import dataclasses
import html
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emphasis.experiments.recipes.load import parse_recipe, recipe_from_tables, recipe_to_tables
from emphasis.experiments.recipes.recipe import RecipeError
from emphasis.experiments.reports.ranking import rank, rank_text, ranks_csv, verdict
from emphasis.experiments.reports.report import render, write_report
from emphasis.experiments.reports.summary import summarize
from synthetic import TABLE, make_rows, plain

COMPARED = TABLE.replace("seeds = 2\n", 'seeds = 2\ncompare = ["DM", "Vanishing DM"]\n', 1)
METHODS = ("CCE", "GCE", "DM", "Vanishing DM")


def ranked(final, diverged=(), text=COMPARED):
    recipe = parse_recipe(text)
    summary = summarize(recipe, make_rows(recipe, final, diverged))
    return summary, rank(summary)


def test_ranks_are_those_of_the_final_accuracies():
    summary, found = ranked(plain)  # DM .86, GCE .85, Vanishing DM .84, CCE .80, in every condition and seed
    assert [(one.method, one.mean.mean) for one in found] == [("DM", 1), ("GCE", 2), ("Vanishing DM", 3), ("CCE", 4)]
    assert all(one.mean.std == 0.0 for one in found)
    (gain,) = {(round(g.mean, 9), round(g.std, 9), g.n, g.ahead) for g in found[1].gains["DM"].values()}
    assert gain == (0.01, 0.0, 2, 2)
    assert "DM" not in found[0].gains  # nothing is compared with itself
    assert verdict(summary, found) == [
        "By mean rank in each seed, over 2 tasks, DM is first of 4 (1.0); by rank of the means, DM (1.0).",
        "Vanishing DM is not best: number 3 by mean rank in each seed (3.0) and number 3 by rank of the means (3.0).",
    ]


@given(st.lists(st.sampled_from([0.2, 0.4, 0.5, 0.7, 0.9]), min_size=16, max_size=16))
@settings(max_examples=40, deadline=None)
def test_ranks_sum_alike_whatever_is_equal_and_agree_with_scipy(values):
    stats = pytest.importorskip("scipy.stats")
    keys = [(c, m, s) for c in ("r = 0", "r = 0.4") for m in METHODS for s in (0, 1)]
    places = dict(zip(keys, values, strict=True))
    _, found = ranked(lambda *where: places[where])
    by_name = {one.method: one for one in found}
    for condition in ("r = 0", "r = 0.4"):
        ours = np.array([by_name[name].ranks[condition].mean for name in METHODS])
        table = -np.array([[places[condition, name, seed] for seed in (0, 1)] for name in METHODS])
        np.testing.assert_allclose(ours, stats.rankdata(table, axis=0).mean(1))
    assert sum(one.mean.mean for one in found) == pytest.approx(10.0)


def test_one_network_that_did_not_learn_costs_the_rank_of_means_more_than_the_mean_rank():
    """DM is ahead of GCE in one seed of two, by a little, and far behind in the other."""
    _, found = ranked(lambda c, m, s: 0.9 if m == "GCE" else 0.91 - 0.8 * s if m == "DM" else 0.5 + 0.1 * (m == "CCE"))
    by_name = {one.method: one for one in found}
    assert by_name["DM"].mean.mean == 2.5  # 1 and 4
    assert by_name["DM"].rank_of_means == 3  # .51, between .6 of CCE and .5 of Vanishing DM
    assert by_name["GCE"].rank_of_means == 1
    _, found = ranked(plain, diverged={("r = 0", "DM", 0)})
    assert {one.method: one.not_learned for one in found} == {"DM": 1, "GCE": 0, "Vanishing DM": 0, "CCE": 0}
    assert found[0].rank_of_means == 1.5


def test_means_that_are_equal_but_for_rounding_share_their_rank():
    """0.1 + 0.2 + 0.3 is 0.6000000000000001, and 0.3 + 0.2 + 0.1 is 0.6."""
    accuracies = {
        "DM": (0.1, 0.2, 0.3),
        "GCE": (0.3, 0.2, 0.1),
        "CCE": (0.5, 0.5, 0.5),
        "Vanishing DM": (0.0, 0.0, 0.0),
    }
    three_seeds = COMPARED.replace("seeds = 2\n", "seeds = 3\n", 1)
    _, found = ranked(lambda c, m, s: accuracies[m][s], text=three_seeds)
    assert {one.method: one.rank_of_means for one in found} == {"CCE": 1, "DM": 2.5, "GCE": 2.5, "Vanishing DM": 4}


def test_a_network_that_diverged_is_last_and_no_gain_is_made_of_it():
    _, found = ranked(plain, diverged={("r = 0", "DM", 0)})
    dm = next(one for one in found if one.method == "DM")
    assert dm.ranks["r = 0"].mean == 2.5  # 4 and 1
    assert dm.ranks["r = 0.4"].mean == 1.0
    gain = next(one for one in found if one.method == "CCE").gains["DM"]["r = 0"]
    assert gain.n == 1


def test_a_method_that_was_not_trained_everywhere_has_no_rank():
    recipe = parse_recipe(COMPARED)
    rows = [
        row for row in make_rows(recipe, plain) if (row["method"], row["seed"], row["condition"]) != ("GCE", 1, "r = 0")
    ]
    found = rank(summarize(recipe, rows))
    assert [one.method for one in found] == ["DM", "Vanishing DM", "CCE"]
    assert [one.mean.mean for one in found] == [1, 2, 3]
    assert rank(summarize(recipe, [])) == []
    summary = summarize(recipe, [row for row in make_rows(recipe, plain) if "DM" not in row["method"]])
    for kind in ("text", "html"):  # nothing to compare with yet
        assert "minus the method" not in render(summary, kind)


def test_text_file_and_page_say_the_same(tmp_path):
    summary, found = ranked(lambda c, m, s: plain(c, m, s) + 0.03 * (m == "CCE") * s)
    rows = list(csv.DictReader(io.StringIO(ranks_csv(found))))
    assert len(rows) == 8
    text = " ".join(render(summary, "text").split())
    write_report(tmp_path, summary)
    document = " ".join(html.unescape((tmp_path / "report.html").read_text()).split())
    assert (tmp_path / "ranks.csv").read_text() == ranks_csv(found)
    assert (tmp_path / "ranks.svg").stat().st_size > 5_000
    for one, row in zip((each for each in found for _ in each.ranks), rows, strict=True):
        assert row["method"] == one.method
        assert float(row["mean_rank"]) == pytest.approx(one.mean.mean, abs=1e-3)
        own = one.ranks[row["condition"]]
        assert (float(row["rank"]), int(row["n"])) == (pytest.approx(own.mean, abs=1e-3), 2)
        for shown in (text, document):
            assert rank_text(own) in shown
        for other, gains in one.gains.items():
            gain = gains[row["condition"]]
            assert float(row[f"{other} minus it: mean"]) == pytest.approx(100 * gain.mean, abs=1e-3)
            for shown in (text, document):
                assert str(gain) in shown
    for sentence in verdict(summary, found):
        assert sentence in text
        assert sentence in document


def test_a_recipe_without_comparisons_has_no_ranks(tmp_path):
    recipe = parse_recipe(TABLE)
    summary = summarize(recipe, make_rows(recipe, plain))
    write_report(tmp_path, summary)
    assert not (tmp_path / "ranks.csv").exists()
    assert "Ranks" not in render(summary, "text")


def test_a_condition_may_have_seeds_of_its_own():
    recipe = parse_recipe(COMPARED.replace('name = "r = 0"\n', 'name = "r = 0"\nseeds = 1\n', 1))
    seeds = [(cell.condition, cell.seed) for cell in recipe.cells() if cell.method == "CCE"]
    assert seeds == [("r = 0", 0), ("r = 0.4", 0), ("r = 0.4", 1)]
    again = recipe_from_tables(recipe_to_tables(recipe))
    assert [cell.key for cell in again.cells()] == [cell.key for cell in recipe.cells()]
    found = rank(summarize(recipe, make_rows(recipe, plain)))
    assert [one.n for one in found[0].ranks.values()] == [1, 2]
    assert math.isnan(found[0].ranks["r = 0"].std)
    fewer = dataclasses.replace(recipe, seeds=1)
    assert len(list(fewer.cells())) == 8


def test_a_comparison_with_a_method_that_is_not_there_is_refused():
    with pytest.raises(RecipeError, match=r"compare='GEC' is not allowed; use a method's name: CCE, GCE"):
        parse_recipe(COMPARED.replace('"Vanishing DM"]', '"GEC"]'))
