"""`emphasis fit` and `predict` on images: folders, tables of paths, frozen networks, and what goes wrong."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import emphasis
from controls import share_of_the_way
from emphasis.cli.main import main
from emphasis.datasets import DamagedFileError
from emphasis.images import load_model

HOW = ["--no-progress", "--accelerator", "cpu", "--iterations", "60", "--set", "solver.learning_rate=0.03"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Digits 0 to 2 in folders and folders within them, a tenth of which lie in a wrong folder, and new ones."""
    base = tmp_path_factory.mktemp("images")
    digits = load_digits()
    rng = np.random.default_rng(0)
    chosen = np.flatnonzero(digits.target < 3)
    for place, number in enumerate(chosen):
        label = int(digits.target[number])
        new = place >= 300
        given = (label + 1) % 3 if not new and rng.random() < 0.1 else label
        folder = base / ("new" if new else "photos") / f"digit-{given}" / ("more" if number % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(folder / f"{number:04d}-{label}.png")
    (base / "photos" / "empty").mkdir()
    first, *_ = sorted((base / "photos" / "digit-0").glob("*-0.png"))
    (base / "photos" / "digit-1" / "copy-0.png").write_bytes(first.read_bytes())
    (base / "photos" / "digit-0" / "broken.png").write_bytes(b"no image")
    (base / "new" / "digit-0" / "broken.png").write_bytes(b"no image")
    return base


@pytest.fixture(scope="module")
def fitted(photos):
    out = photos / "fit"
    assert main(["fit", str(photos / "photos"), *HOW, "--folds", "2", "--out", str(out)]) == 0
    return out


def truth(names):
    return np.array([f"digit-{name[-5]}" for name in names])


def test_a_folder_is_fitted_with_all_that_a_fit_of_a_table_has(photos, fitted):
    table = pd.read_csv(fitted / "predictions.csv")
    assert len(table) == 301
    copies = [table["file"].str.endswith("copy-0.png"), table["file"].str.endswith("0000-0.png")]
    assert table["fold"][copies[0]].item() == table["fold"][copies[1]].item()
    assert set(table["fold"]) == {0, 1}
    right = truth(table["file"])
    assert (table["given"] != right).mean() == pytest.approx(0.1, abs=0.05)
    assert share_of_the_way((table["predicted"] == right).mean(), 1 / 3) > 0.8
    scores = json.loads((fitted / "metrics.json").read_text())
    assert set(scores["methods"]) == {"Relative(q=1.0, doubt=0.2)", "cross-entropy"}
    assert scores["verdict"]["headline"]
    page = (fitted / "report.html").read_text(encoding="utf-8")
    worst = table[table["predicted"] != table["given"]].sort_values("p_given")["file"]
    assert worst.iloc[0] in page
    assert page.count('<li><img src="data:image/png;base64,') == min(60, len(worst))
    assert "1 folder without images skipped: empty" in page
    assert "1 of 301 images repeats an earlier image (digit-1/copy-0.png): equal images are held out together" in page
    assert "equal images have different labels in 1 case, such as digit-0/0000-0.png and digit-1/copy-0.png" in page
    assert "1 of 302 images cannot be read and were skipped: " in page
    assert "NEW_IMAGES" in page
    assert "Columns" not in page
    manifest = json.loads((fitted / "model" / "manifest.json").read_text())
    assert manifest["recipe"]["solver"]["iterations"] == 60
    assert manifest["input"]["size"] == 8
    assert manifest["input"]["channels"] == 1
    assert {path.name for path in (fitted / "model").iterdir()} == {"README.md", "manifest.json", "model.safetensors"}
    card = (fitted / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: emphasis-learn\npipeline_tag: image-classification\n---\n")
    assert "images with labels, as given" in card
    assert all(
        bool(torch.isfinite(value).all()) for value in load_file(fitted / "model" / "model.safetensors").values()
    )


def test_new_images_are_predicted_from_folders_files_and_tables(photos, fitted, tmp_path, capsys):
    out = tmp_path / "p.csv"
    assert main(["predict", str(fitted), str(photos / "new"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 of " in printed
    assert "images cannot be read and were skipped: " in printed
    assert "accuracy by the folders of the images: " in printed
    table = pd.read_csv(out)
    assert share_of_the_way((table["predicted"] == truth(table["file"])).mean(), 1 / 3) > 0.8
    np.testing.assert_allclose(table[[f"p_digit-{c}" for c in range(3)]].sum(axis=1), 1.0, rtol=1e-6)
    files = [str(photos / "new" / name) for name in table["file"][:3]]
    model = load_model(fitted)
    np.testing.assert_allclose(model.predict_proba(files), table.filter(like="p_").to_numpy()[:3], rtol=1e-5)
    pd.DataFrame({"picture": [f"new/{name}" for name in table["file"]]}).to_csv(photos / "list.csv", index=False)
    command = [
        "predict",
        str(fitted),
        str(photos / "list.csv"),
        "--images",
        "picture",
        "--out",
        str(tmp_path / "q.csv"),
    ]
    assert main(command) == 0
    assert (pd.read_csv(tmp_path / "q.csv")["predicted"] == table["predicted"]).all()
    assert main(["predict", str(fitted), str(photos / "photos"), "--out", str(out)]) == 0
    assert "rows that the model was trained on, whose accuracy says nothing about new rows" in capsys.readouterr().out


def test_a_fit_that_was_stopped_continues_and_another_one_is_refused(photos, fitted, capsys):
    command = ["fit", str(photos / "photos"), *HOW, "--folds", "2", "--out", str(fitted)]
    before = (fitted / "folds" / "0.npz").stat().st_mtime_ns, (fitted / "predictions.csv").read_bytes()
    (fitted / "folds" / "1.npz").unlink()
    assert main(command) == 0
    assert before == ((fitted / "folds" / "0.npz").stat().st_mtime_ns, (fitted / "predictions.csv").read_bytes())
    assert main([*command, "--seed", "1"]) == 2
    assert "holds a fit of other settings or other data" in capsys.readouterr().err


def test_a_linear_layer_on_the_features_of_a_fit_needs_few_images(photos, fitted, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = [
        f"{path.relative_to(photos)},{truth([path.name])[0]}" for path in sorted((photos / "new").rglob("*-*.png"))
    ]
    (photos / "few.csv").write_text("\n".join(["path,kind", *lines[::4]]))
    options = {"label": "kind", "images": "path", "features": str(fitted), "folds": 2, "accelerator": "cpu"}
    result = emphasis.fit(photos / "few.csv", folder=tmp_path / "probe", **options)
    (features,) = (tmp_path / "cache" / "emphasis" / "features").iterdir()
    assert np.load(features).shape == (len(lines[::4]), 64)
    ours = next(iter(result.scores["methods"].values()))
    assert share_of_the_way(ours["accuracy"]["value"], 1 / 3) > 0.8
    again = load_model(tmp_path / "probe")
    predicted = again.predict([photos / name for name in result.names])
    assert share_of_the_way((predicted == truth(result.names)).mean(), 1 / 3) > 0.9
    body = {name: value for name, value in load_model(fitted).network.state_dict().items() if name.startswith("body")}
    for name, value in body.items():  # the frozen network has not changed
        assert torch.equal(again.network.state_dict()[f"0.{name}"], value)


def test_damage_to_a_model_is_found(fitted, tmp_path):
    import shutil

    shutil.copytree(fitted / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    with pytest.raises(DamagedFileError, match=r"is missing, incomplete or does not match manifest\.json"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--label", "x"], "--label and --images are for tables"),
        (["photos", "--drop", "x"], "--drop is for tables, not for images"),
        (["photos", "--model", "lightgbm"], "images have --network and --features"),
        (["photos", "--network", "small-cnn", "--features", "small-cnn"], "two ways to classify images"),
        (["photos", "--features", "small-cn"], "did you mean 'small-cnn'?"),
        (
            ["photos", "--features", "timm:resnet18", "--weights", "absent.safetensors"],
            "there is no file of parameters",
        ),
        (["photos", "--folds", "1"], "--folds 1 is not allowed"),
        (["photos", "--set", "noise.rate=0.1"], "set something of network or solver"),
        (["list.csv"], "name the column of list.csv to predict: --label COLUMN"),
        (["list.csv", "--label", "x", "--augment"], "--augment is for images"),
        (["list.csv", "--label", "picture", "--images", "pictur"], "did you mean 'picture'?"),
    ],
)
def test_mistakes_are_named_in_one_line(arguments, message, photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    pd.DataFrame({"picture": ["new/a.png", "new/b.png"]}).to_csv("list.csv", index=False)
    assert main(["fit", *arguments, "--no-progress"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
