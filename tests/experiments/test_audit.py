"""`emphasis audit`: planted mistakes are found in recipes, tables, folders of images and traces."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_breast_cancer
from sklearn.datasets import load_digits as digits_of_sklearn

from controls import share_of_the_way
from emphasis.cli.main import main
from emphasis.diagnostics.trace import EmphasisTrace
from emphasis.experiments.runs.data import load_split
from emphasis.experiments.runs.store import FolderError, stored_recipe
from emphasis.experiments.studies import audit as audits
from emphasis.weighting import DM

HOW = ["--no-progress", "--accelerator", "cpu"]


def ranked(folder):
    with (folder / "suspects.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "run"
    assert main(["audit", "digits", *HOW, "--iterations", "500", "--out", str(folder)]) == 0
    return folder


def test_the_noise_of_a_recipe_is_found(digits):
    found = json.loads((digits / "audit.json").read_text())
    assert found["examples"] == 1297
    assert found["true_noise_rate"] == pytest.approx(0.4, abs=0.005)
    assert found["estimated_noise_rate"] == pytest.approx(0.4, abs=0.1)
    chance = {"auroc": 0.5, "average_precision": 0.4, "precision": 0.4, "recall": found["suspects"] / 1297}
    for name, control in chance.items():
        assert share_of_the_way(found[name], control) > 0.5, name
    rows = ranked(digits)
    assert [int(row["rank"]) for row in rows] == list(range(1, 1298))
    assert sorted(int(row["row"]) for row in rows) == list(range(1297))
    assert sum(row["suspect"] == "1" for row in rows) == found["suspects"]
    for row in rows:
        assert row["cleaned"] == (row["suggested"] if row["suspect"] == "1" else row["given"])
    scores = np.array([float(row["score"]) for row in rows])
    weights = np.array([float(row["sample_weight"]) for row in rows])
    assert (np.diff(scores) >= 0).all()
    np.testing.assert_allclose(weights, 1 / (1 + np.exp(-scores)), atol=2e-4)


def test_cleaned_labels_are_far_closer_to_the_truth(digits):
    from emphasis.datasets import load

    true = load("digits").train_labels
    rows = ranked(digits)
    given = np.mean([int(row["given"]) == true[int(row["row"])] for row in rows])
    cleaned = np.mean([int(row["cleaned"]) == true[int(row["row"])] for row in rows])
    assert given == pytest.approx(0.6, abs=0.005)
    assert share_of_the_way(cleaned, given) > 0.5


def test_the_page_shows_the_worst_and_both_figures(digits):
    page = (digits / "audit.html").read_text(encoding="utf-8")
    assert share_of_the_way(page.count("label is wrong") / 60, 0.4) > 0.5
    assert page.count("data:image/png;base64,") == 60
    assert page.count('<div class="chart">') == 2
    assert "AUROC of the ranking" in page
    assert "http" not in re.sub("http-equiv|base64,[A-Za-z0-9+/=]*", "", page)  # whose letters may be any


def test_the_same_command_again_trains_nothing(digits, capsys):
    before = {path.name: path.read_bytes() for path in (digits / "cells").iterdir()}
    assert main(["audit", "digits", *HOW, "--iterations", "500", "--out", str(digits)]) == 0
    assert "already holds all" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (digits / "cells").iterdir()} == before


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The breast cancer data with 15 % of the labels swapped, and which those are."""
    frame = load_breast_cancer(as_frame=True).frame
    wrong = np.random.default_rng(0).random(len(frame)) < 0.15
    frame["target"] = np.where(frame["target"].to_numpy() ^ wrong, "benign", "malignant")
    frame.insert(0, "id", np.arange(len(frame)))
    path = tmp_path_factory.mktemp("table") / "cancer.csv"
    frame.to_csv(path, index=False)
    return path, wrong


def test_a_table_is_audited_row_by_row_and_exported(table, tmp_path):
    import pandas as pd

    path, wrong = table
    out, export = tmp_path / "run", tmp_path / "cleaned.csv"
    command = ["audit", str(path), "--label", "target", "--drop", "id", *HOW, "--out", str(out)]
    assert main([*command, "--export", str(export)]) == 0
    rows = ranked(out)
    first = [int(row["row"]) for row in rows[: wrong.sum()]]
    assert share_of_the_way(wrong[first].mean(), wrong.mean()) > 0.5
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert "mean radius" in page
    assert "wrong indeed" not in page
    given, cleaned = pd.read_csv(path), pd.read_csv(export)
    assert list(cleaned.columns) == [*given.columns, "target_cleaned", "suspect", "sample_weight"]
    assert cleaned["target"].equals(given["target"])
    truth = np.where((given["target"] == "benign").to_numpy() ^ wrong, "benign", "malignant")
    assert share_of_the_way((cleaned["target_cleaned"] == truth).mean(), (given["target"] == truth).mean()) > 0.5
    of_wrong, of_right = (cleaned.loc[rows, "sample_weight"].mean() for rows in (wrong, ~wrong))
    assert share_of_the_way(of_right - of_wrong, 0.0) > 0.5


def test_a_table_that_has_changed_is_trained_on_anew(table, tmp_path, capsys):
    path = tmp_path / "mine.csv"
    lines = table[0].read_text().splitlines()
    path.write_text("\n".join(lines[:200]) + "\n")
    command = ["audit", str(path), "--label", "target", *HOW, "--iterations", "40", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert len(ranked(tmp_path / "run")) == 199
    path.write_text("\n".join(lines[:300]) + "\n")
    assert main(command) == 0
    assert "the data has changed since the last audit" in capsys.readouterr().out
    assert len(ranked(tmp_path / "run")) == 299


def test_the_export_leaves_every_cell_as_it_is(tmp_path):
    lines = ["zip,label,note,count"]
    for number in range(60):
        label, note = ("010", "020")[number % 2], ("N/A", "?", "seen")[number % 3]
        lines.append(f"{number:05d},{label},{note},{number if number % 5 else ''}")
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    command = ["audit", str(tmp_path / "mine.csv"), "--label", "label", "--missing", "?", "--iterations", "30", *HOW]
    out = tmp_path / "out.csv"
    assert main([*command, "--out", str(tmp_path / "run"), "--export", str(out)]) == 0
    exported = list(csv.reader(out.read_text().splitlines()))
    assert [row[:4] for row in exported] == [line.split(",") for line in lines]
    assert exported[0][4:] == ["label_cleaned", "suspect", "sample_weight"]
    assert {row[4] for row in exported[1:]} == {"010", "020"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_ranking_goes_to_a_file_of_ones_choosing(digits, tmp_path, capsys, suffix):
    import pandas as pd

    out = tmp_path / f"ranking{suffix}"
    command = ["audit", "digits", *HOW, "--iterations", "500", "--out", str(digits), "--suspects", str(out)]
    assert main(command) == 0
    assert f"The ranking: {out}" in capsys.readouterr().out.replace("\n", "")
    kept = pd.read_csv(digits / "suspects.csv")
    table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert list(table.columns) == list(kept.columns)
    assert len(table) == 1297
    for name in ("rank", "row", "suspect"):
        assert table[name].tolist() == kept[name].tolist()
    for name in ("given", "suggested", "cleaned"):
        assert table[name].astype(str).tolist() == kept[name].astype(str).tolist()
    for name in ("score", "sample_weight"):
        np.testing.assert_allclose(table[name], kept[name], rtol=0, atol=5.1e-5)


@pytest.mark.parametrize(("file", "said"), [("x.xlsx", "ends in .csv or .parquet"), ("nowhere/x.csv", "no folder")])
def test_a_ranking_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch, capsys, file, said):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "digits", *HOW, "--suspects", file]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("export", "said"),
    [
        ("mine.csv", "--export is the table itself"),
        ("x.xlsx", "ends in .csv or .parquet"),
        ("nowhere/x.csv", "there is no folder"),
    ],
)
def test_an_export_that_cannot_be_is_refused_before_training(table, tmp_path, monkeypatch, capsys, export, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text(table[0].read_text())
    assert main(["audit", "mine.csv", "--label", "target", *HOW, "--export", export]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    (tmp_path / "mine.csv").write_text(table[0].read_text().replace("mean radius", "suspect"))
    assert main(["audit", "mine.csv", "--label", "target", *HOW, "--export", "x.csv"]) == 2
    assert "has a column 'suspect' already" in capsys.readouterr().err


def test_an_audit_of_other_columns_does_not_replace_one(table, tmp_path, capsys):
    command = ["audit", str(table[0]), "--label", "target", "--iterations", "30", *HOW, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert main([*command, "--drop", "mean radius"]) == 2
    assert "holds work on other data or columns" in capsys.readouterr().err
    assert main([*command, "--drop", "mean radius", "--force"]) == 0


def test_tabs_separate_a_tsv(tmp_path, capsys):
    lines = ["x\tlabel", *(f"{x / 2}\t{'high' if x > 9 else 'low'}" for x in range(20))]
    (tmp_path / "few.tsv").write_text("\n".join(lines) + "\n")
    command = ["audit", str(tmp_path / "few.tsv"), "--label", "label", *HOW, "--iterations", "1"]
    assert main([*command, "--out", str(tmp_path / "run"), "--export", str(tmp_path / "out.csv")]) == 0
    messages = capsys.readouterr().out
    assert "note: read with separator tab" in messages
    assert "warning" not in messages
    assert main([*command, "--out", str(tmp_path / "quiet"), "--quiet"]) == 0
    assert "note:" not in capsys.readouterr().out
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "x,label,label_cleaned,suspect,sample_weight"


def test_a_table_of_a_few_rows_is_audited_too(tmp_path):
    lines = ["x,y,label", *(f"{x},{-x},{'high' if x > 9 else 'low'}" for x in range(20))]
    (tmp_path / "few.csv").write_text("\n".join(lines) + "\n")
    assert main(["audit", str(tmp_path / "few.csv"), "--label", "label", *HOW, "--out", str(tmp_path / "run")]) == 0
    assert len(ranked(tmp_path / "run")) == 20


def test_a_folder_of_images_is_audited_file_by_file(tmp_path):
    digits = digits_of_sklearn()
    rng = np.random.default_rng(0)
    chosen = np.flatnonzero(digits.target < 3)[:240]
    wrong = {}
    for number in chosen:
        label = int(digits.target[number])
        given = (label + 1) % 3 if rng.random() < 0.15 else label
        folder = tmp_path / "photos" / str(given)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(folder / f"{number:04d}.png")
        wrong[f"{given}/{number:04d}.png"] = given != label
    command = [
        "audit",
        str(tmp_path / "photos"),
        "--size",
        "8",
        "--channels",
        "1",
        "--iterations",
        "100",
        "--set",
        "network.widths=[8,16]",
        *HOW,
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(command) == 0
    rows = ranked(tmp_path / "run")
    assert {row["source"] for row in rows} == set(wrong)
    first = [wrong[row["source"]] for row in rows[: sum(wrong.values())]]
    assert share_of_the_way(np.mean(first), np.mean(list(wrong.values()))) > 0.5
    assert rows[0]["source"] in (tmp_path / "run" / "audit.html").read_text(encoding="utf-8")


def test_a_trace_of_ones_own_loop_is_audited(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(90) % 3
    inputs = torch.randn(90, 3, generator=generator) + 12.0 * torch.nn.functional.one_hot(true, 3)
    labels = torch.where(torch.rand(90, generator=generator) < 0.2, (true + 1) % 3, true)
    network = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    with EmphasisTrace(tmp_path / "trace", 90, DM(lam=0.5, beta=4)) as trace:
        for _ in range(30):
            logits = network(inputs)
            trace.record(torch.arange(90), logits, labels)
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert main(["audit", str(tmp_path / "trace")]) == 0
    rows = ranked(tmp_path / "trace")
    wrong = (labels != true).numpy()
    suspects = {int(row["row"]) for row in rows if row["suspect"] == "1"}
    assert suspects == set(np.flatnonzero(wrong))
    assert main(["audit", str(tmp_path / "trace"), "--noise-rate", "0.3"]) == 2
    assert "--noise-rate has no meaning for a trace" in capsys.readouterr().err
    (tmp_path / "trace" / "predicted-00003.npy").unlink()
    assert main(["audit", str(tmp_path / "trace")]) == 2
    assert "predicted-00003.npy cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "is no recipe, table or folder"),
        (["nowhere.csv"], "there is no table nowhere.csv"),
        (["digits", "--label", "x"], "label is for a table or a folder of images"),
        (["digits", "--weighting", "DM lam=-1"], "lam"),
        (["digits", "--iterations", "0"], "--iterations 0 is not allowed"),
        (["digits", "--export", "x.csv"], "--export writes a table's own labels"),
        (["digits", "--only", "x"], "has no condition 'x'"),
        (["digits", "--set", "solver.learning_rate=1e30"], "the network diverged at iteration"),
        (["digits", "--set", "noise.rate=0.1"], "set something of network or solver"),
    ],
)
def test_mistakes_are_named_in_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", *arguments, *HOW]) == 2
    captured = capsys.readouterr().err
    assert said in captured
    assert len(captured.strip().splitlines()) == 1


def test_a_table_needs_its_label_named(table, capsys):
    assert main(["audit", str(table[0])]) == 2
    assert "--label COLUMN" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["audit", "digits", *HOW, "--out", str(tmp_path)]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_the_labels_of_an_audit_are_stored_and_those_of_earlier_versions_computed(digits, tmp_path, monkeypatch):
    recipe = stored_recipe(digits)
    cell = next(recipe.cells())
    split = load_split(cell.dataset, cell.noise)
    computed = []
    corrupted = audits.corrupted
    monkeypatch.setattr(audits, "corrupted", lambda *rest: (computed.append(1), corrupted(*rest))[1])
    stored = audits.read_audit(recipe, split, digits)
    assert not computed
    shutil.copytree(digits, tmp_path / "earlier")
    (file,) = (tmp_path / "earlier" / "cells").glob("*.npz")
    arrays = dict(np.load(file))
    np.testing.assert_array_equal(stored.labels, arrays.pop("labels")[0])
    np.savez_compressed(file, **arrays)
    earlier = audits.read_audit(recipe, split, tmp_path / "earlier")
    assert len(computed) == 1
    np.testing.assert_array_equal(earlier.labels, stored.labels)
    np.testing.assert_array_equal(earlier.suspects.order, stored.suspects.order)
    other = dataclasses.replace(split, train_labels=np.roll(split.train_labels, 1))
    with pytest.raises(FolderError, match="is of other data than the present"):
        audits.read_audit(recipe, other, digits)


def test_what_is_odd_about_a_table_is_said_and_stands_on_the_page_with_rows_as_in_the_file(
    tmp_path, monkeypatch, capsys
):
    """Rows without a label, row numbers, ids, a label written in two ways; rows and ids lead back to the file."""
    pd = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    lines = [f"{i};k{i};{x[i]:.3f};{'01' if x[i] > 0 else '1'}".replace(".", ",") for i in range(60)]
    lines[4] = "4;k4;0,5;"
    lines[6] += " "
    (tmp_path / "t.csv").write_text("\n".join([";key;x;y", *lines]) + "\n")
    command = ["audit", "t.csv", "--label", "y", "--id", "key", "--out", "a", "--iterations", "40", "--export", "e.csv"]
    assert main([*command, "--set", "solver.learning_rate=0.1", "--no-progress"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "a" / "audit.html").read_text()
    for part in (
        "separator semicolon",
        "is empty in 1 of 60 rows (row 4): skipped",
        "the first column has no name",
        "use it with --keep",
        "spells one class in 2 ways",
        "59 of 60 rows are used",
    ):
        assert part in said
        assert part in page
    suspects = pd.read_csv(tmp_path / "a" / "suspects.csv", dtype=str)
    assert suspects["source"].tolist() == [f"k{row}" for row in suspects["row"]]
    assert sorted(map(int, suspects["row"])) == [i for i in range(60) if i != 4]
    assert set(suspects["given"]) == {"01", "1"}
    assert len(pd.read_csv(tmp_path / "e.csv")) == 60
