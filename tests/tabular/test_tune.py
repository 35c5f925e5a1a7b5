import json
import shlex

import numpy as np
import pandas as pd
import pytest

from emphasis import CCE, GCE
from emphasis.cli.main import main
from emphasis.tabular import load_model
from emphasis.tabular.tune import _sample, tune_table

QUICK = {"trials": 4, "folds": 2, "label": "class"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A table of 160 rows that a tree of depth 2 learns and a stump does not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 2))
    path = tmp_path_factory.mktemp("tune") / "table.csv"
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "class": np.where(x[:, 0] * x[:, 1] > 0, "in", "out")}).to_csv(
        path, index=False
    )
    return path


def test_it_searches_the_learning_rate_of_the_models_own_settings_and_continues(path, tmp_path):
    found = tune_table(path, **QUICK, folder=tmp_path / "tune")
    first, second = found.trials[:2]
    assert first.settings == second.settings == {"learning_rate": 0.1, "n_estimators": 150, "max_depth": 3}
    assert second.weighting == CCE()
    assert first.weighting.to_dict()["family"] == "Relative"
    rates = {trial.settings["learning_rate"] for trial in found.trials}
    assert len(rates) > 1
    assert found.request["settings"]["learning_rate"] in rates
    assert found.baseline.weighting == CCE()
    assert set(found.scores["methods"]) == {"best", "cross-entropy"}
    assert found.recommended in (found.best, found.baseline)
    better = found.scores["difference"]["accuracy"]["result"] == "better"
    assert (found.recommended is found.best) == better

    # A search that was stopped after two trials ends as one that was not.
    path_of_trials = tmp_path / "tune" / "tune.json"
    content = json.loads(path_of_trials.read_text())
    path_of_trials.write_text(json.dumps({"digest": content["digest"], "trials": content["trials"][:2]}))
    again = tune_table(path, **QUICK, folder=tmp_path / "tune")
    assert again.trials == found.trials
    assert again.scores == found.scores
    with pytest.raises(ValueError, match="other settings or other data"):
        tune_table(path, **{**QUICK, "folds": 3}, folder=tmp_path / "tune")


def test_what_is_given_is_not_searched(path, tmp_path):
    found = tune_table(
        path, **QUICK, folder=tmp_path / "tune", weighting=GCE(0.3), settings={"learning_rate": 0.2}, metric="log_loss"
    )
    assert {trial.weighting for trial in found.trials} == {GCE(0.3)}
    assert all("learning_rate" not in trial.settings for trial in found.trials)
    assert found.baseline is None
    assert found.request["settings"]["learning_rate"] == 0.2
    assert found.recommended.mean == min(trial.mean for trial in found.trials if len(trial.scores) == 2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metric": "acuracy"}, r"metric='acuracy' is unknown \(did you mean 'accuracy'"),
        ({"trials": 1}, "trials=1 is not allowed"),
        ({"folds": 1}, "folds=1 is not allowed"),
        ({"model": "xgbost"}, "did you mean 'xgboost'"),
    ],
)
def test_what_is_not_allowed_is_named(options, match, path, tmp_path):
    with pytest.raises(ValueError, match=match):
        tune_table(path, **{**QUICK, **options}, folder=tmp_path / "tune")


def test_a_sample_of_a_large_table_keeps_the_shares_of_the_classes():
    labels = np.r_[np.zeros(95_000, int), np.ones(5_000, int)]
    rows = _sample(labels, 0)
    assert len(np.unique(rows)) == len(rows) == 20_000
    assert labels[rows].mean() == pytest.approx(0.05, abs=1e-3)
    np.testing.assert_array_equal(_sample(labels[:100], 0), np.arange(100))


def test_the_command_ends_with_the_fit_to_type_and_fit_does_both(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tune = ["tune", str(path), "--label", "class", "--trials", "3", "--folds", "2", "--no-progress"]
    assert main(tune) == 0
    line = [line for line in capsys.readouterr().out.splitlines() if line.startswith("emphasis fit")][-1]
    assert main([*shlex.split(line)[1:], "--folds", "2", "--no-progress"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Nothing was searched: with --tune" in said
    assert "learning_rate, n_estimators, max_depth and weighting" in said
    recommended = json.loads((tmp_path / "runs" / "table-tune" / "tune.json").read_text())["recommended"]
    model = load_model(tmp_path / "runs" / "table-tuned")
    assert model.weighting.to_dict() == recommended["weighting"]

    both = ["fit", str(path), "--label", "class", "--tune", "--trials", "3", "--folds", "2", "--no-progress"]
    assert main([*both, "--out", "both"]) == 0
    manifest = json.loads((tmp_path / "both" / "model" / "manifest.json").read_text())
    assert manifest["settings"]["learning_rate"] == recommended["settings"]["learning_rate"]
    assert (tmp_path / "both-tune" / "tune.json").exists()
    capsys.readouterr()
    assert main([*tune, "--model", "xgboost", "--assume-rate", "0.2"]) == 2
    assert "--assume-rate is for networks" in capsys.readouterr().err
    assert main(["tune", "digits", "--model", "xgboost"]) == 2
    assert "--model is for tables" in capsys.readouterr().err
