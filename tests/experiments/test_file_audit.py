import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from controls import share_of_the_way
from emphasis.cli.main import main
from emphasis.corruption import symmetric
from emphasis.review.examples import read_examples


@pytest.fixture
def intents(tmp_path, monkeypatch):
    """A table of 120 classes with 10 % wrong labels and texts alone, and probabilities of a model that knows better."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(120), 10)
    noisy = symmetric(truth, 0.1, num_classes=120, seed=0).labels
    names = np.array([f"{i:03}" for i in range(120)])
    p = np.full((1200, 120), 0.2 / 119)
    p[np.arange(1200), truth] = 0.8
    p = p * rng.uniform(0.9, 1.1, p.shape)
    p /= p.sum(1, keepdims=True)
    table = pd.DataFrame({"key": [f"k{i}" for i in range(1200)], "text": "some words here", "intent": names[noisy]})
    table.to_csv("t.csv", index=False)
    np.save("p.npy", p)
    return table, names, p, noisy != truth


def test_labels_are_ranked_by_the_probabilities_of_another_model(intents, capsys):
    table, names, p, wrong = intents
    pd.DataFrame(p, columns=names).to_parquet("p.parquet")
    for file in ("p.npy", "p.parquet"):
        command = ["audit", "t.csv", "--label", "intent", "--probabilities", file, "--id", "key", "--out", f"a-{file}"]
        assert main([*command, "--export", "cleaned.csv"]) == 0
        lines = pd.read_csv(f"a-{file}/suspects.csv", dtype=str)
        first = lines[: wrong.sum()]
        assert set(first["row"].astype(int)) == set(np.flatnonzero(wrong))
        assert first["source"].tolist() == [f"k{row}" for row in first["row"]]
        assert set(lines["given"]) == set(names)
        assert json.loads(Path(f"a-{file}/audit.json").read_text())["classes"] == 120
        cleaned = pd.read_csv("cleaned.csv", dtype=str)
        assert (cleaned["intent"] == table["intent"]).all()
        truth, is_suspect = names[np.repeat(np.arange(120), 10)], (cleaned["suspect"] == "True").to_numpy()
        assert 0.3 * wrong.sum() < is_suspect.sum()
        assert not (is_suspect & ~wrong).any()
        assert (cleaned["intent_cleaned"] == np.where(is_suspect, truth, table["intent"])).all()
    assert "Probabilities of another model, from p.npy" in Path("a-p.npy/audit.html").read_text()


def test_rows_without_a_label_keep_their_numbers_and_have_no_weight(intents):
    table, names, _, wrong = intents
    table.loc[[0, 5], "intent"] = ""
    table.to_csv("t.csv", index=False)
    command = [
        "audit",
        "t.csv",
        "--label",
        "intent",
        "--probabilities",
        "p.npy",
        "--out",
        "a",
        "--export",
        "cleaned.csv",
    ]
    assert main(command) == 0
    lines = pd.read_csv("a/suspects.csv")
    wrong[[0, 5]] = False
    assert set(lines["row"][: wrong.sum()]) == set(np.flatnonzero(wrong))
    page = Path("a/audit.html").read_text()
    assert "is empty in 2 of 1,200 rows (rows 0, 5): skipped" in page
    assert "What happened during training" not in page
    cleaned = pd.read_csv("cleaned.csv", dtype=str, keep_default_na=False)
    assert cleaned["intent_cleaned"][[0, 5]].tolist() == ["", ""]
    assert cleaned["sample_weight"][[0, 5]].astype(float).tolist() == [0.0, 0.0]
    is_suspect = (cleaned["suspect"] == "True").to_numpy()
    assert (
        cleaned["intent_cleaned"] == np.where(is_suspect, names[np.repeat(np.arange(120), 10)], table["intent"])
    ).all()


def test_probabilities_for_a_recipe_and_its_known_noise(tmp_path, monkeypatch, capsys):
    from sklearn.datasets import load_digits

    monkeypatch.chdir(tmp_path)
    from emphasis import datasets

    split = datasets.load("digits")
    p = np.full((len(split.train_labels), 10), 0.01)
    p[np.arange(len(p)), split.train_labels] = 0.91
    np.savez("p.npz", probabilities=p, images=load_digits().data)
    assert (
        main(["audit", "digits", "--noise-rate", "0.2", "--probabilities", "p.npz", "--out", "a", "--no-progress"]) == 0
    )
    numbers = json.loads(Path("a/audit.json").read_text())
    assert numbers["auroc"] == 1.0
    assert numbers["recall"] == numbers["precision"] == 1.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weighting", "CCE"], "--weighting is for training; with --probabilities nothing is trained"),
        (["--set", "solver.learning_rate=1"], "--set is for training"),
        (["--probabilities", "none.npy"], "there is no file 'none.npy' of probabilities"),
        (["--probabilities", "short.npy"], "has 7 rows of probabilities, but the data 1,200"),
        (["--label", "txt"], "no column 'txt' (did you mean 'text'?)"),
    ],
)
def test_mistakes_are_one_line(more, message, intents, capsys):
    np.save("short.npy", intents[2][:7])
    assert main(["audit", "t.csv", "--label", "intent", "--probabilities", "p.npy", *more]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A table of 600 digits that holds no features, with 10 % wrong labels and a label missing, and their pixels."""
    monkeypatch.chdir(tmp_path)
    pixels, truth = load_digits(return_X_y=True)
    pixels, truth = pixels[:600], truth[:600]
    noisy = symmetric(truth, 0.1, num_classes=10, seed=0).labels
    table = pd.DataFrame({"key": [f"k{i}" for i in range(600)], "digit": [f"d{code}" for code in noisy]})
    table.loc[7, "digit"] = ""
    table.to_csv("t.csv", index=False)
    wrong = noisy != truth
    wrong[7] = False
    return pixels, wrong


def test_labels_are_ranked_by_features_of_another_model(digits):
    pixels, wrong = digits
    np.save("f.npy", pixels.astype(np.float32))
    shuffled = np.random.default_rng(1).permutation(600)
    pd.DataFrame(pixels).add_prefix("x").assign(row=np.arange(600)).iloc[shuffled].to_parquet("f.parquet")
    for file in ("f.npy", "f.parquet"):
        assert (
            main(["audit", "t.csv", "--label", "digit", "--features", file, "--id", "key", "--out", f"a-{file}"]) == 0
        )
        lines = pd.read_csv(f"a-{file}/suspects.csv", dtype=str)
        assert len(lines) == 599
        first = lines["row"][: wrong.sum()].astype(int)
        assert share_of_the_way(wrong[first].mean(), wrong.mean()) > 0.5
        assert (lines["source"] == "k" + lines["row"]).all()
    assert "Features from f.npy." in Path("a-f.npy/audit.html").read_text()
    assert read_examples(Path("a-f.npy")).features is not None  # so that a review finds neighbors
    both = [pd.read_csv(f"a-{file}/suspects.csv")["row"].tolist() for file in ("f.npy", "f.parquet")]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--features", "f.npy", "--probabilities", "f.npy"], "--probabilities and --features do not go together"),
        (["--features", "f.npy", "--iterations", "5"], "--iterations has no meaning with --features"),
        (["--features", "none.npy"], "there is no file 'none.npy' of features"),
        (["--features", "short.npy"], "short.npy has 9 rows of features, but the data 600, of which 599 are used"),
        (["--features", "gaps.csv"], "gaps.csv holds features that are NaN, infinite or missing"),
        (["--features", "words.csv"], "words.csv holds other things than numbers"),
        (["--features", "flat.npy"], r"flat.npy holds features of shape \(600,\); use \(n, D\)"),
    ],
)
def test_features_that_do_not_fit_are_named(digits, arguments, match, capsys):
    np.save("f.npy", digits[0])
    np.save("short.npy", digits[0][:9])
    np.save("flat.npy", digits[0][:, 0])
    pd.DataFrame({"a": [1.0, None] * 300, "b": 2.0}).to_csv("gaps.csv", index=False)
    pd.DataFrame({"a": ["x", "y"] * 300, "b": 2.0}).to_csv("words.csv", index=False)
    assert main(["audit", "t.csv", "--label", "digit", "--out", "a", *arguments]) == 2
    assert re.search(match, " ".join(capsys.readouterr().err.split()))
    assert not Path("a").exists()


def test_a_class_of_one_example_is_named(digits, capsys):
    table = pd.read_csv("t.csv", dtype=str)
    table.loc[0, "digit"] = "only"
    table.to_csv("t.csv", index=False)
    np.save("f.npy", digits[0])
    command = ["audit", "t.csv", "--label", "digit", "--features", "f.npy", "--out", "a"]
    assert main(command) == 2
    assert "class 'only' has one example" in " ".join(capsys.readouterr().err.split())
