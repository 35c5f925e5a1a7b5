"""Table 3 end to end, on real images in Clothing1M's layout: one command, killed and resumed, and every fault named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clothing_layout import write_layout
from commands import error_of
from emphasis import datasets
from emphasis.cli.main import main
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.data import load_split, make_task, network_options
from emphasis.experiments.runs.jobs import make_jobs
from emphasis.experiments.runs.store import SEARCH, finished_rows
from emphasis.experiments.runs.train_job import make_stack
from emphasis.models import build
from finished_runs import rows_of
from forked import kill_after_a_checkpoint

SMALL = """
extends = "table3"
name = "small"
figures = []
[dataset]
resize = 32
size = 28
complete = false
[network]
name = "small-cnn"
widths = [8, 16]
[solver]
iterations = 60
batch_size = 16
learning_rate = 0.05
schedule = { policy = "step", at = [40], factor = 0.1 }
[evaluation]
every = 25
train_size = 50
"""
ONE_PROCESS = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu"]
BROKEN = 5
PHOTOGRAPHS = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The recipe, the data of which one training image is broken, and the keys."""
    base = tmp_path_factory.mktemp("small")
    keys, _ = write_layout(
        base / "clothing1m", {"noisy_train": 120, "clean_train": 9, "clean_val": 9, "clean_test": 60}
    )
    path = base / "clothing1m" / keys["noisy_train"][BROKEN]
    path.write_bytes(path.read_bytes()[:400])
    (base / "small.toml").write_text(SMALL)
    return base / "small.toml", base, keys


def command(small, folder, *more, methods=("DM",)):
    recipe, base, _ = small
    return ["run", str(recipe), "--data", str(base), *ONE_PROCESS, "--methods", *methods, "--out", str(folder), *more]


SKIP = ("--set", "dataset.broken=skip")


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(command(small, folder, *SKIP, methods=("CCE", "Boot-hard", "DM"))) == 0
    return folder


def test_one_command_trains_on_noisy_labels_and_names_the_broken_image(small, finished):
    rows = rows_of(finished)
    assert [row["method"] for row in rows] == ["CCE", "DM", "Boot-hard"]
    for row in rows:
        assert (row["n_train"], row["n_test"], row["num_classes"]) == (120, 60, 14)
        assert row["broken_images"] == [small[2]["noisy_train"][BROKEN]]
        assert row["curves"]["iteration"] == [0, 25, 50, 60]
        assert sum(row["p_histogram"]["clean"]) == 50
        assert row["evaluation"] == {"every": 25, "trace": False, "train_size": 50}
    for row in rows[:2]:  # in a few steps of a tiny network
        untrained, *_, trained = row["curves"]["p_clean"]
        assert trained > 1.2 * untrained


def test_a_run_killed_twice_ends_alike_in_two_workers(small, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = command(small, folder, *SKIP, "--checkpoint-seconds", "0.01", methods=("CCE", "Boot-hard", "DM"))
    kill_after_a_checkpoint(arguments, folder)
    assert main([*arguments, "--workers", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "going on from iteration" in said
    assert f"1 images cannot be decoded and were skipped: {small[2]['noisy_train'][BROKEN]}" in said
    assert rows_of(folder) == rows_of(finished)


def test_a_broken_image_stops_the_run_and_is_named(small, tmp_path, capsys):
    said = error_of(capsys, command(small, tmp_path / "run"))
    assert small[2]["noisy_train"][BROKEN] in said
    assert 'broken = "skip"' in said


def test_a_missing_folder_and_a_list_cut_short_are_reported_before_anything_is_trained(small, tmp_path, capsys):
    recipe, base, keys = small
    shutil.copytree(base, tmp_path / "data")
    copy = (recipe, tmp_path / "data", keys)
    shutil.rmtree(tmp_path / "data" / "clothing1m" / "images" / "3")
    said = error_of(capsys, command(copy, tmp_path / "run"))
    assert "1 folders that do not exist (images/3)" in said
    assert "12 images of noisy_train_key_list.txt that do not exist" in said
    assert main(command(copy, tmp_path / "run", *SKIP, "--set", "dataset.missing=skip", "--iterations", "2")) == 0
    assert "They are skipped." in " ".join(capsys.readouterr().out.split())  # of lines folded at the terminal's width
    assert rows_of(tmp_path / "run")[0]["n_train"] == 108
    said = error_of(capsys, command(copy, tmp_path / "other", "--set", "dataset.complete=true"))
    assert "noisy_train_key_list.txt has 120 lines, not 1,000,000" in said
    assert not list(tmp_path.glob("other/cells/*.npz"))


def test_table3_starts_from_imagenet_s_parameters_and_sees_images_as_they_did(small, tmp_path, capsys):
    recipe, base, _ = small
    full = load_recipe("table3")
    cell = next(full.cells())
    assert cell.network.options == {"pretrained": "resnet50-0676ba61.pth"}
    assert (cell.dataset.augment, cell.evaluation.train_size) == (True, 10_000)
    assert {key: datasets.options("clothing1m")[key] for key in ("test", "resize", "size", "complete")} == {
        "test": "test",
        "resize": 256,
        "size": 224,
        "complete": True,
    }
    recipe = tmp_path / "resnet.toml"
    recipe.write_text(
        SMALL.replace('name = "small-cnn"\nwidths = [8, 16]', 'name = "resnet50"')
        .replace("32", "36", 1)
        .replace("28", "32", 1)
    )
    said = error_of(capsys, ["run", str(recipe), "--data", str(base), *ONE_PROCESS, "--out", str(tmp_path / "run")])
    assert "resnet50 starts from the parameters in " in said
    assert "resnet50-0676ba61.pth', which is not a file: put a state dict there" in said

    path = tmp_path / "trained.pth"
    trained = build("resnet50", (3, 32, 32), 1000, seed=7).state_dict()
    torch.save(trained, path)
    own = load_recipe(str(recipe)).changed({"network.pretrained": str(path), "dataset.broken": "skip"})
    for job in (make_jobs(list(own.limited(methods=[name]).cells()))[0] for name in ("DM", "SL")):
        first = job.cells[0]
        assert network_options(first, base) == {"pretrained": str(path)}
        task = make_task(first, load_split(first.dataset, first.noise, RunContext(base)), job.seeds)
        assert task.input_shape == (3, 32, 32)
        np.testing.assert_allclose(task.statistics[0], [0.485, 0.456, 0.406], rtol=1e-6)
        np.testing.assert_allclose(task.statistics[1], [0.229, 0.224, 0.225], rtol=1e-6)
        network = make_stack(job, task.input_shape, task.num_classes, base).network.state_dict()
        assert network["fc.weight"].shape == (14, 2048)
        assert all(torch.equal(network[name], trained[name]) for name in trained if not name.startswith("fc."))


def test_a_search_evaluates_on_the_validation_part_that_clothing1m_has(small, tmp_path, capsys):
    pytest.importorskip("optuna")
    recipe, base, _ = small
    command = ["search", str(recipe), "--data", str(base), *ONE_PROCESS, *SKIP, "--method", "DM", "--trials", "2"]
    command += ["--batch", "2", "--iterations", "10", "--vary", "weighting.lam=0.5,1", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert "Accuracy on the validation part of clothing1m" in " ".join(capsys.readouterr().out.split())
    rows = finished_rows(tmp_path / "run").values()
    trials = [row for row in rows if row["method"].startswith("trial")]
    assert {row["dataset"]["options"]["test"] for row in trials} == {"val"}
    assert [row["n_test"] for row in trials] == [9, 9]
    assert [row["n_test"] for row in rows if row not in trials] == [60]
    assert {row["n_train"] for row in rows} == {120}
    assert json.loads((tmp_path / "run" / SEARCH).read_text())["validation"] == "own"

    assert main([*command, "--noisy-validation", "--validation", "own"]) == 2
    assert "is one part with verified labels, so noisy labels is not possible" in capsys.readouterr().err
    digits = ["search", "digits", "--method", "CCE", "--validation", "own", "--out", str(tmp_path / "digits")]
    assert main(digits) == 2
    assert "the data set digits has no validation part of its own" in capsys.readouterr().err


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"the real data is not at {PHOTOGRAPHS}")
def test_photographs_of_vehicles_are_learned_through_the_layout(tmp_path):
    split = datasets.load("vehicles10", PHOTOGRAPHS)

    def source(number):
        return split.train_inputs[:number].transpose(0, 2, 3, 1), split.train_labels[:number]

    parts = {"noisy_train": 1500, "clean_train": 9, "clean_val": 9, "clean_test": 400}
    write_layout(tmp_path / "clothing1m", parts, source=source)
    (tmp_path / "photographs.toml").write_text(SMALL.replace("[8, 16]", "[16, 32, 64]").replace("60", "300", 1))
    given = (tmp_path / "photographs.toml", tmp_path, None)
    assert main(command(given, tmp_path / "run", "--set", "solver.schedule.at=[200]")) == 0
    (row,) = rows_of(tmp_path / "run")
    assert row["outcome"] == "learned"


def test_a_folder_of_one_s_own_is_streamed_to_the_numbers_of_memory(small, tmp_path):
    """The same table whether images are all in memory or decoded as they are needed."""
    base = tmp_path / "images"
    split = datasets.load_digits()
    for number in range(120):
        path = base / f"class {split.train_labels[number]}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * split.train_inputs[number].reshape(8, 8)).astype(np.uint8)).save(path)
    rows = []
    for stream in ("false", "true"):
        text = SMALL.replace(
            "resize = 32\nsize = 28\ncomplete = false", f'name = "image-folder"\nsize = 16\nstream = {stream}'
        )
        (tmp_path / f"{stream}.toml").write_text(text)
        arguments = ["run", str(tmp_path / f"{stream}.toml"), "--data", str(base), *ONE_PROCESS, "--methods", "DM"]
        assert main([*arguments, "--iterations", "30", "--out", str(tmp_path / stream)]) == 0
        (row,) = rows_of(tmp_path / stream)
        rows.append({name: row[name] for name in ("curves", "p_histogram", "final_test_accuracy", "n_train")})
    assert rows[0] == rows[1]
