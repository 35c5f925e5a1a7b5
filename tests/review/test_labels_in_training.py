"""`emphasis fit --labels` and recipes with reviewed labels."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from decided import decided
from emphasis.cli.main import main
from emphasis.experiments.recipes.settings import Dataset, Noise
from emphasis.experiments.runs.data import corrupted, load_split
from emphasis.experiments.runs.reviewed_labels import labels_settings, with_reviewed_noise
from emphasis.review.decisions import DECISIONS, DecisionLog


def test_fit_trains_on_reviewed_labels_and_compares_with_those_given(tmp_path, capsys):
    rng = np.random.default_rng(0)
    true = rng.integers(2, size=300)
    wrong = rng.random(300) < 0.3
    names = np.array(["no", "yes"])
    given = names[true ^ wrong]
    frame = pd.DataFrame({"x": true + 0.3 * rng.normal(size=300), "noise": rng.normal(size=300), "label": given})
    frame.to_csv(tmp_path / "table.csv", index=False)
    log = DecisionLog(tmp_path / DECISIONS)
    log.append([decided(str(row), names[true[row]], before=given[row]) for row in range(300) if row % 3])
    command = ["fit", str(tmp_path / "table.csv"), "--label", "label", "--out", str(tmp_path / "fit"), "--folds", "2"]
    command += ["--set", "n_estimators=20", "--no-compare", "--no-progress", "--labels", str(log.path)]
    assert main(command) == 0
    fit = json.loads((tmp_path / "fit" / "fit.json").read_text())
    reviewed = np.arange(300) % 3 > 0
    assert fit["reviewed"] == (
        f"of {reviewed.sum()} reviewed labels, {(wrong & reviewed).sum()} were corrected, "
        f"and {(~wrong & reviewed).sum()} confirmed"
    )
    page = (tmp_path / "fit" / "report.html").read_text()
    assert "labels as given" in page
    assert fit["reviewed"] in page
    predicted = pd.read_csv(tmp_path / "fit" / "predictions.csv")
    assert predicted["given"].tolist() == np.where(reviewed, names[true], given).tolist()
    capsys.readouterr()
    log.append([decided("0", names[1 - true[0]], before=given[0])])
    assert main(command) == 2  # other decisions are another fit
    assert "other settings or other data" in capsys.readouterr().err
    log.append([decided("1", "moth", before="moth")])
    assert main([*command, "--force"]) == 2
    assert "about other data" in capsys.readouterr().err


@pytest.fixture
def photos(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    log = DecisionLog(tmp_path / DECISIONS)
    log.append([decided("ant/1.png", "bee"), decided("bee/2.png", "bee", before="bee")])
    return tmp_path / "photos", log


def test_a_recipe_trains_on_reviewed_labels(photos):
    folder, log = photos
    settings = {name.removeprefix("dataset."): value for name, value in labels_settings(log.path).items()}
    options = {"folder": str(folder), "size": 8, "test_share": 0.0}
    plain = Dataset("image-folder", options=options)
    reviewed = dataclasses.replace(plain, **settings)
    given, after = (load_split(dataset, Noise()).train_labels for dataset in (plain, reviewed))
    assert (after != given).tolist() == [False, True, *[False] * 6]
    log.append([decided("ant/0.png", "bee")])
    with pytest.raises(ValueError, match="has changed since"):
        load_split(reviewed, Noise())
    assert labels_settings(log.path)["dataset.labels_digest"] != settings["labels_digest"]


def test_decisions_about_noisy_labels_are_applied_to_the_noise(photos):
    folder, log = photos
    split = load_split(Dataset("image-folder", options={"folder": str(folder), "size": 8, "test_share": 0.0}), Noise())
    noise = Noise("symmetric", 0.5)
    noisy = corrupted(split, noise, 0)
    names = np.array(["ant", "bee"])
    path = log.path.with_name("noisy.jsonl")
    changed = np.flatnonzero(noisy.changed)
    DecisionLog(path).append(
        [decided(split.sources[i], names[split.train_labels[i]], before=names[noisy.labels[i]]) for i in changed[:2]]
    )
    dataset = Dataset("image-folder", labels=str(path))
    after = with_reviewed_noise(noisy, split, dataset)
    assert (after.labels != split.train_labels).sum() == len(changed) - 2
    assert np.array_equal(after.changed, after.labels != split.train_labels)
