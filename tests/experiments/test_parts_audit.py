"""An audit of labels and probabilities in several files is that of all of them in one array."""

import json

import numpy as np
import pandas as pd
import pytest

from commands import mistake_of
from emphasis.cli.main import main
from emphasis.experiments.studies.label_audit import audit_predictions

RNG = np.random.default_rng(0)
NAMES = ["low", "given"]  # a class that is named like a column
GIVEN = RNG.integers(0, 3, 500)
P = RNG.dirichlet(np.ones(3), 500) * 0.5 + 0.5 * (np.arange(3) == GIVEN[:, None])
P[:40] = P[:40, [1, 2, 0]]
PARTS = np.array_split(np.arange(500), 4)


def _write(folder):
    folder.mkdir()
    for number, rows in enumerate(PARTS):
        p = np.c_[P[rows][:, :1], P[rows][:, 1:].sum(1)]
        columns = {f"p_{name}": p[:, place].astype(np.float32) for place, name in enumerate(NAMES)}
        given = np.array(NAMES)[np.minimum(GIVEN[rows], 1)]
        frame = pd.DataFrame({"row": rows, "given": given, **columns})
        frame.to_parquet(folder / f"{number}.parquet", index=False)
    return np.c_[P[:, :1], P[:, 1:].sum(1)].astype(np.float32).astype(float), np.minimum(GIVEN, 1)


def test_the_ranking_is_that_of_one_array(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    p, given = _write(tmp_path / "predictions")
    whole = audit_predictions(given, p, class_names=NAMES)
    assert main(["audit", "predictions", "--out", "audit", "--json", "--no-progress"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {key: result[key] for key in whole.numbers} == pytest.approx(whole.numbers)
    ranked = pd.concat([pd.read_parquet(tmp_path / "audit" / "suspects" / f"{n}.parquet") for n in range(4)])
    assert ranked["suspect"].tolist() == whole.suspects.suspect.tolist()
    assert 10 < ranked["suspect"].sum() < 200
    np.testing.assert_allclose(ranked["score"], whole.suspects.score)
    assert ranked["suggested"].tolist() == [NAMES[code] for code in whole.suspects.suggested]
    first = pd.read_csv(tmp_path / "audit" / "suspects.csv")
    assert first["row"].tolist() == whole.suspects.order.tolist()
    assert result["most_suspicious"][0]["source"] == f"{first['row'][0] // 125}.parquet"


def test_files_that_do_not_fit_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "predictions")
    settled = "--label has no meaning for files of probabilities"
    assert settled in mistake_of(capsys, "audit", "predictions", "--label", "y")
    other = pd.read_parquet("predictions/3.parquet")
    other.assign(given="strange").to_parquet("predictions/3.parquet")
    assert "3.parquet: the label 'strange' has no column p_strange" in mistake_of(capsys, "audit", "predictions")
    other.drop(columns="p_low").to_parquet("predictions/3.parquet")
    assert "3.parquet needs the column 'given'" in mistake_of(capsys, "audit", "predictions")
    other.assign(p_low=3.0).to_parquet("predictions/3.parquet")
    assert "3.parquet: probabilities reach from" in mistake_of(capsys, "audit", "predictions")
