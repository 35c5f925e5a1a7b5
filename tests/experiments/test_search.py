"""The validation search on digits: it finds what is good, looks at no test example, and goes on where it was."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from waiting import wait_for

from forked import end, start

pytest.importorskip("optuna")

from emphasis.cli.main import main
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs.context import SILENT, RunContext
from emphasis.experiments.runs.data import load_split, make_task
from emphasis.experiments.runs.store import JOURNAL, SEARCH, finished_rows
from emphasis.experiments.studies.search import search
from emphasis.experiments.studies.space import Vary, parse_vary

TINY_TOML = str(Path(__file__).parent / "tiny.toml")
TINY = load_recipe(TINY_TOML).changed({"solver.iterations": 120, "seeds": 2})
SPACE = (Vary("weighting.lam", (0.0, 0.5, 1.0)), Vary("weighting.beta", low=0.5, high=16.0))
METHOD = "DM"
ONE_THREAD = RunContext(threads=1)


def replace_method(recipe, **changes):
    """The recipe with its method METHOD changed."""
    methods = tuple(dataclasses.replace(one, **changes) if one.name == METHOD else one for one in recipe.methods)
    return dataclasses.replace(recipe, methods=methods)


def _search(folder, trials=6, reporter=SILENT, **changes):
    return search(TINY, folder, ONE_THREAD, reporter, method=METHOD, space=SPACE, trials=trials, batch=3, **changes)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "run"
    return folder, _search(folder)


def test_the_best_trial_is_the_one_with_the_highest_validation_accuracy(found):
    folder, result = found
    means = [trial.mean for trial in result.trials]
    assert len(means) == 6
    assert result.best == result.trials[int(np.argmax(means))]
    assert {*result.best.settings} == {"weighting.lam", "weighting.beta"}
    summary = json.loads((folder / SEARCH).read_text())
    assert summary["best"] == result.best.settings
    assert summary["test"]["n"] == len(result.rows) == 2
    assert summary["objective"]["weighting"]["beta"] == result.best.settings["weighting.beta"]
    assert result.rows[0]["n_train"] == 1297
    assert result.rows[0]["n_test"] == 500


def test_the_trials_are_exported_for_optuna_dashboard(found):
    import optuna

    folder, result = found
    _search(folder)  # given again: the journal is written anew, and has each trial once
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    study = optuna.load_study(study_name=None, storage=storage)
    assert [trial.value for trial in study.trials] == [trial.mean for trial in result.trials]
    suggested = [trial.params["weighting.beta"] for trial in study.trials]
    assert suggested == pytest.approx(
        [trial.settings["weighting.beta"] for trial in result.trials], rel=0.01
    )  # rounded
    assert not [path for path in folder.iterdir() if "journal" in path.name and path.name != JOURNAL]


def test_trials_see_no_test_example_and_are_judged_by_true_labels(found):
    folder, _ = found
    trained = [row for row in finished_rows(folder).values() if row["dataset"]["validation"]]
    assert {row["n_train"] for row in trained} == {1038}
    assert {row["n_test"] for row in trained} == {259}
    cell = next(TINY.changed({"dataset.validation": 0.2}).cells())
    whole = load_split(dataclasses.replace(cell.dataset, validation=0.0), cell.noise)
    task = make_task(cell, load_split(cell.dataset, cell.noise), [0])
    everything = {image.tobytes() for image in whole.train_inputs}
    validation = {image.tobytes() for image in task.test_inputs.numpy()}
    assert validation <= everything
    assert not validation & {image.tobytes() for image in task.inputs.numpy()}
    true = {image.tobytes(): label for image, label in zip(whole.train_inputs, whole.train_labels, strict=True)}
    assert all(true[x.tobytes()] == y for x, y in zip(task.test_inputs.numpy(), task.test_labels.numpy(), strict=True))
    assert task.noisy.float().mean() == pytest.approx(cell.noise.rate, abs=0.01)


def test_a_finished_search_is_shown_again_and_can_be_extended(found):
    folder, result = found
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert _search(folder).trials == result.trials
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == before
    more = _search(folder, trials=8)
    assert more.trials[:6] == result.trials
    assert len(more.trials) == 8


def test_another_search_in_the_same_folder_is_another(found):
    folder, result = found
    space = (Vary("weighting.q", (0.3, 0.7)),)
    changed = replace_method(TINY, weighting={"family": "GCE", "q": 0.5}, normalization="none")
    other = search(changed, folder, ONE_THREAD, method=METHOD, space=space, trials=2, batch=2, retrain=False)
    assert {*other.best.settings} == {"weighting.q"}
    assert _search(folder).trials == result.trials


def test_a_network_that_diverges_is_right_about_nothing(tmp_path):
    space = (Vary("solver.learning_rate", (0.1, 1e38)),)
    found = search(TINY, tmp_path / "run", ONE_THREAD, method="CCE", space=space, trials=6, batch=6, retrain=False)
    for trial in found.trials:
        assert trial.mean == 0.0 if trial.settings["solver.learning_rate"] > 1 else trial.mean > 0.1  # chance
    assert found.best.settings == {"solver.learning_rate": 0.1}


def test_a_killed_search_goes_on_and_finds_the_same(tmp_path):
    folder, alone = tmp_path / "run", tmp_path / "alone"
    space = ["--vary", "weighting.lam=0.0,0.5,1.0", "--vary", "weighting.beta=0.5:16", "--trials", "4", "--batch", "2"]
    command = ["search", TINY_TOML, "--method", METHOD, *space, "--iterations", "120", "--seeds", "2"]
    command += ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu", "--out"]
    assert main([*command, str(alone)]) == 0
    process = start([*command, str(folder)], tmp_path / "log")
    wait_for(lambda: list(folder.glob("cells/*.jsonl")), process)  # the first batch has been trained
    process.kill()
    end(process)
    assert not (folder / SEARCH).exists(), "killed too late to test anything"
    assert main([*command, str(folder)]) == 0
    assert (folder / SEARCH).read_bytes() == (alone / SEARCH).read_bytes()


@pytest.mark.parametrize(
    ("text", "vary"),
    [
        ("weighting.beta=4,8,12", Vary("weighting.beta", (4, 8, 12))),
        ("weighting.beta=0.5:24", Vary("weighting.beta", low=0.5, high=24.0)),
        ("solver.learning_rate=1e-3:0.1:log", Vary("solver.learning_rate", low=1e-3, high=0.1, log=True)),
        ("normalization=batch,integral", Vary("normalization", ("batch", "integral"))),
    ],
)
def test_what_to_vary_is_read(text, vary):
    assert parse_vary(text) == vary


@pytest.mark.parametrize(
    "text",
    [
        "beta=1,2",
        "weighting.beta",
        "weighting.beta=",
        "weighting.beta=3:1",
        "weighting.beta=0:1:log",
        "dataset.name=a",
        "weighting.beta=1:2:lin",
        "weighting.beta=a:b",
    ],
)
def test_what_cannot_be_varied_is_an_error_with_the_cure(text):
    with pytest.raises(RecipeError, match=r"use PART\.KEY=|use LOW:HIGH"):
        parse_vary(text)


def test_a_setting_that_a_weighting_does_not_have_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="gamma"):
        search(TINY, tmp_path / "a", method=METHOD, space=(Vary("weighting.gamma", (1.0,)),), trials=1)
    with pytest.raises(RecipeError, match="whole number >= 1"):
        search(TINY, tmp_path / "b", method=METHOD, trials=0)


def test_trials_that_fall_behind_on_one_fold_are_not_given_the_others(tmp_path):
    space = (Vary("solver.learning_rate", (0.1, 0.09, 0.08, 1e-6)),)
    folder = tmp_path / "run"
    settings = {"method": "CCE", "space": space, "trials": 12, "batch": 4, "retrain": False, "folds": 3}
    found = search(TINY, folder, ONE_THREAD, **settings)
    assert {1, 3} <= {trial.folds for trial in found.trials} <= {1, 2, 3}
    for trial in found.trials[4:]:
        assert trial.folds == (1 if trial.settings["solver.learning_rate"] < 0.01 else trial.folds)
    assert found.best.folds == 3
    assert found.best.mean == max(trial.mean for trial in found.trials if trial.folds == 3)
    rate = found.best.settings["solver.learning_rate"]
    trained = [row for row in finished_rows(folder).values() if row["solver"]["learning_rate"] == rate]
    assert {row["dataset"].get("fold", 0) for row in trained} == {0, 1, 2}
    again = search(TINY, folder, ONE_THREAD, **settings)
    assert again.trials == found.trials


def test_each_fold_is_judged_by_other_examples():
    cells = [next(TINY.changed({"dataset.validation": 0.2, "dataset.fold": fold}).cells()) for fold in range(5)]
    held = [load_split(cell.dataset, cell.noise).test_inputs for cell in cells]
    images = {image.tobytes() for part in held for image in part}
    assert len(images) > 0.99 * sum(map(len, held))  # digits has a few equal images
    assert len({cell.key for cell in cells}) == 5
    assert cells[0].key == next(TINY.changed({"dataset.validation": 0.2}).cells()).key
