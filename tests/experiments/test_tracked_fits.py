"""Fits of images and on Dask in each tracker that is installed: what is killed and given again is recorded once."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emphasis.cli.main import main
from emphasis.experiments.runs.store import TRACKED
from emphasis.experiments.tracking import TRACKERS
from wandb_files import wandb_records

INSTALLED = [name for name in TRACKERS if importlib.util.find_spec(name)]
METRIC = "final_accuracy"


def _tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run_folder,) = (folder / "tensorboard").iterdir()
    networks = [EventAccumulator(str(path)).Reload() for path in run_folder.iterdir() if path.name != "report"]
    assert all(events.Tensors("parameters/text_summary") for events in networks)
    return [events.Scalars(METRIC)[-1].value for events in networks]


def _mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(folder.name).experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert "metrics.json" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    networks = [run for run in runs if run is not parent]
    assert all(run.data.params["folds"] == "2" for run in networks)
    assert all(run.info.status == "FINISHED" for run in runs)
    return [run.data.metrics[METRIC] for run in networks]


def _trackio(folder):
    from trackio.sqlite_storage import SQLiteStorage

    names = [name for name in SQLiteStorage.get_runs(folder.name) if not name.startswith("report")]
    assert all(SQLiteStorage.get_run_config(folder.name, name)["folds"] == 2 for name in names)
    logs = [log for name in names for log in SQLiteStorage.get_logs(folder.name, name)]
    return [log[METRIC] for log in logs if METRIC in log]


def _wandb(folder):
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in (folder / "wandb").glob("offline-run-*/*.wandb"):
        for data in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found += [
                json.loads(item.value_json) for item in record.history.item if METRIC in (item.key, *item.nested_key)
            ]
    return found


READERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "trackio": _trackio, "wandb": _wandb}


def _images():
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        folder = Path("photos", name)
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = rng.normal(level, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return ["photos", "--network", "small-cnn", "--iterations", "4", "--accelerator", "cpu", "--no-calibration"]


def _parts():
    rng = np.random.default_rng(0)
    for part in range(2):
        x = rng.normal(size=(80, 3))
        pd.DataFrame(x, columns=list("abc")).assign(y=(x[:, 0] > 0).astype(int)).to_parquet(f"{part}.parquet")
    return ["0.parquet", "1.parquet", "--label", "y", "--engine", "dask", "--workers", "1", "--set", "n_estimators=3"]


@pytest.mark.skipif(not INSTALLED, reason="no tracker is installed")
@pytest.mark.filterwarnings("default")  # of the trackers' own packages
@pytest.mark.parametrize("make", [_images, _parts], ids=["images", "dask"])
def test_a_fit_is_one_run_in_every_tracker_though_it_was_killed_and_given_again(make, tmp_path, monkeypatch, capsys):
    if make is _parts:
        pytest.importorskip("distributed")
    for variable in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / f"fit{make.__name__}"  # Trackio reads TRACKIO_DIR once, so that both fits share its folder
    arguments = ["fit", *make(), "--folds", "2", "--no-progress", "--out", str(out)]
    for name in INSTALLED:
        assert main([*arguments, "--track", name]) == 0, capsys.readouterr().err
        notes = (out / TRACKED).read_text().splitlines(keepends=True)
        (out / TRACKED).write_text("".join(notes[:-1]))  # killed before it was noted that the last one is recorded
        assert main([*arguments, "--track", name]) == 0, capsys.readouterr().err
        assert "--track" not in capsys.readouterr().err
        scores = json.loads((out / "metrics.json").read_text())["methods"]
        expected = sorted(score["accuracy"]["value"] for score in scores.values())
        assert len(expected) == 2
        assert sorted(READERS[name](out)) == pytest.approx(expected, abs=1e-6)
        noted = [json.loads(line) for line in (out / TRACKED).read_text().splitlines()]
        assert len([entry for entry in noted if entry["tracker"] == name and "key" in entry]) == 2
