"""`emphasis tune`: a weighting for labels that nobody has checked, of recipes, tables and folders of images."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_breast_cancer
from sklearn.datasets import load_digits as digits_of_sklearn
from waiting import wait_for

pytest.importorskip("optuna")

from controls import share_of_the_way
from emphasis.cli.main import main
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.studies.tune import lam_of, more_space, tune
from emphasis.weighting import CCE, DM, from_dict, lam_for
from forked import end, start

HOW = ["--no-progress", "--accelerator", "cpu", "--workers", "1"]
QUICK = [*HOW, "--iterations", "300", "--trials", "8", "--folds", "2"]


def told(folder):
    return json.loads((folder / "tune.json").read_text())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune") / "run"
    assert main(["tune", "digits", "--noise-rate", "0.4", *QUICK, "--out", str(folder)]) == 0
    return folder


def test_lam_follows_from_the_estimated_noise_rate_and_the_rest_from_noisy_labels(digits):
    found = told(digits)
    assert found["noise_rate"] == pytest.approx(0.4, abs=0.1)
    assert found["best_trial"]["lam"] == found["lam"] == round(lam_for(found["noise_rate"]), 2)
    assert eval(found["python"], {"CCE": CCE, "DM": DM, "EmphasisLoss": lambda w, normalization: w}) == from_dict(
        found["weighting"]
    )
    low, high = found["noise_rate_interval"]
    assert low < 0.4 < high < 0.6
    assert not found["noise_rate_doubtful"]
    judged = json.loads((digits / "search" / "search.json").read_text())
    assert judged["validation_labels"] == "noisy"
    assert judged["test"]["n"] == 0  # the test part is not looked at


def test_the_choice_beats_cross_entropy_as_published_on_true_labels(digits):
    from emphasis.experiments.recipes.recipe import Method
    from emphasis.experiments.runs.runner import run

    found = told(digits)
    solver = {"learning_rate": found["learning_rate"], "schedule": {"policy": "cosine"}}
    chosen = Method("chosen", weighting=found["weighting"], normalization=found["normalization"], solver=solver)
    recipe = load_recipe("digits").limited([], ["CCE"]).changed({"seeds": 3, "solver.iterations": 1000})
    recipe = replace(recipe, methods=(*recipe.methods, chosen), name="beside")
    rows = run(recipe, digits.parent / "beside", RunContext(threads=1))
    accuracy = {
        name: np.mean([row["final_test_accuracy"] for row in rows if row["method"] == name])
        for name in ("CCE", "chosen")
    }
    assert share_of_the_way(accuracy["chosen"], accuracy["CCE"]) > 0.3


def test_the_page_has_what_to_copy_and_leads_to_the_audit(digits):
    page = (digits / "tune.html").read_text(encoding="utf-8")
    assert page.count('<div class="chart">') == 3
    assert 'href="audit/audit.html"' in page
    assert (digits / "audit" / "audit.html").exists()
    assert "criterion = EmphasisLoss(" in page
    assert "cross-entropy at its best learning rate" in page
    assert "http" not in re.sub("base64,[A-Za-z0-9+/=]*", "", page)  # whose letters may be any


def test_the_same_command_again_trains_nothing_and_more_trials_go_on(digits, capsys):
    cells = digits / "search" / "cells"
    before = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
    command = ["tune", "digits", "--noise-rate", "0.4", *QUICK, "--out", str(digits)]
    first = told(digits)
    assert main(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in cells.iterdir()} == before
    assert told(digits) == first
    assert "Written to" in capsys.readouterr().out


def test_a_rate_that_is_told_is_taken_and_lam_can_be_searched(tmp_path):
    recipe = load_recipe("digits")
    settings = {"trials": 2, "batch": 2, "folds": 1, "iterations": 40, "assumed_rate": 0.6}
    found = tune(recipe, tmp_path / "told", RunContext(threads=1), **settings)
    assert (found.lam, found.best_weighting.lam, found.audit, found.rate_is_given) == (2.0, 2.0, None, True)
    assert found.learning_rate == 0.1  # the recipe's: no other was tried
    assert all("solver.learning_rate" not in trial.settings for trial in found.search.trials)
    assert not (tmp_path / "told" / "audit").exists()
    from emphasis.experiments.studies.space import Vary

    free = tune(recipe, tmp_path / "free", RunContext(threads=1), **settings, space=(Vary("weighting.lam", (0.25,)),))
    assert free.best_weighting == DM(lam=0.25, beta=4)
    # One network cannot show that anything is clearly better.
    assert free.weighting == CCE()
    assert "use more folds or seeds" in free.verdict


def test_cross_entropy_is_recommended_unless_something_is_ahead_by_more_than_the_spread(tmp_path):
    settings = {"trials": 2, "batch": 2, "folds": 2, "iterations": 20, "assumed_rate": 0.4}
    found = tune(load_recipe("digits"), tmp_path / "run", RunContext(threads=1), **settings)
    cases = {(0.02, 0.03): True, (0.001, 0.03): False, (-0.02, -0.03): False, (0.0, 0.0): False, (0.02, 0.02): True}
    for differences, clearly in cases.items():
        best = replace(found.search.best, accuracies=tuple(0.5 + one for one in differences))
        baseline = replace(found.baseline, accuracies=(0.5, 0.5))
        tuned = replace(found, search=replace(found.search, best=best), baseline=baseline)
        assert tuned.clearly_better is clearly, differences
        assert (tuned.weighting == CCE()) is not clearly
        assert tuned.recommended is (best if clearly else baseline)
        assert tuned.verdict.startswith("The best DM is clearly better" if clearly else "Nothing is clearly better")


def test_more_classes_have_a_smaller_lam_and_higher_rates_to_search():
    assert lam_of(0.4, 2) == lam_of(0.4, 10) == pytest.approx(1.0)
    assert lam_of(0.4, 150) == pytest.approx(np.log(10) / np.log(150), abs=0.006)
    highest = {}
    for classes in (2, 10, 26, 150):
        (vary,) = [one for one in more_space((), 0.01, classes, 0.4) if one.name == "solver.learning_rate"]
        assert vary.low < 0.01 < vary.high
        highest[classes] = vary.high
    assert highest[2] == pytest.approx(0.03)
    assert highest[2] < highest[10] < highest[26] <= highest[150]


def test_with_two_classes_the_estimate_is_not_relied_on():
    names = [
        [one.name for one in more_space((), None, classes, told)] for classes, told in ((2, None), (2, 0.3), (3, None))
    ]
    assert names == [["weighting.lam"], [], []]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The breast cancer data with a fifth of the labels swapped."""
    frame = load_breast_cancer(as_frame=True).frame
    wrong = np.random.default_rng(0).random(len(frame)) < 0.2
    frame["target"] = np.where(frame["target"].to_numpy() ^ wrong, "benign", "malignant")
    path = tmp_path_factory.mktemp("table") / "cancer.csv"
    frame.to_csv(path, index=False)
    return path


def test_a_table_of_ones_own(table, tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_text(table.read_text())
    short = [*HOW, "--iterations", "150", "--trials", "3", "--folds", "2"]
    command = ["tune", str(path), "--label", "target", *short, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    found = told(tmp_path / "run")
    low, high = found["noise_rate_interval"]
    assert low < 0.2 < high
    assert found["noise_rate_doubtful"]
    said = capsys.readouterr().out.replace("\n", " ")
    assert "Do not rely on that estimate: with two classes" in said
    assert "Do not rely on that estimate" in (tmp_path / "run" / "tune.html").read_text(encoding="utf-8")
    path.write_text("\n".join(table.read_text().splitlines()[:300]) + "\n")
    capsys.readouterr()
    assert main(command) == 0
    assert "the data has changed since the last time" in capsys.readouterr().out
    assert main([*command, "--drop", "mean radius"]) == 2
    assert "holds work on other data or columns" in capsys.readouterr().err


def test_a_folder_of_images(tmp_path):
    data = digits_of_sklearn()
    for number, (image, label) in enumerate(zip(data.images[:200], data.target[:200], strict=True)):
        folder = tmp_path / "photos" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / f"{number}.png")
    command = [
        "tune",
        str(tmp_path / "photos"),
        "--size",
        "8",
        "--channels",
        "1",
        *HOW,
        "--iterations",
        "12",
        "--set",
        "network.widths=[4, 8]",
    ]
    assert main([*command, "--trials", "2", "--folds", "1", "--out", str(tmp_path / "run")]) == 0
    assert told(tmp_path / "run")["trials"] == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--assume-rate", "1.5"], "--assume-rate 1.5 is not allowed; use a share, 0 to 1"),
        (["--trials", "0"], "--trials 0 is not allowed"),
        (["--folds", "6"], "--folds 6 is not allowed; use a whole number, 1 to 5"),
        (["--vary", "beta=1"], "--vary 'beta=1' is not understood"),
        (["--workers", "0"], "--workers 0 is not allowed"),
        (["--set", "dataset.name=x"], "set something of network or solver"),
        (["--only", "x"], "has no condition 'x'"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, capsys, more, said):
    command = ["tune", "digits", "--no-progress", "--accelerator", "cpu", "--out", str(tmp_path / "run"), *more]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_killed_tuning_goes_on_and_finds_the_same(tmp_path):
    out, alone = tmp_path / "run", tmp_path / "alone"
    command = ["tune", "digits", "--noise-rate", "0.4", *HOW, "--iterations", "60", "--trials", "4", "--folds", "2"]
    assert main([*command, "--out", str(alone)]) == 0
    command += ["--out", str(out)]
    process = start(command, tmp_path / "log")
    wait_for(lambda: list(out.glob("search/cells/*.jsonl")), process)
    process.kill()
    end(process)
    assert not (out / "tune.json").exists(), "killed too late to test anything"
    assert main(command) == 0
    assert told(out) == told(alone)
