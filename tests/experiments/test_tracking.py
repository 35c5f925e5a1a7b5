"""Each tracker records to its real backend on this machine, a killed and resumed run once, and nothing is sent."""

import json
import socket
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from emphasis.cli.main import main
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.reports.recipe_figures import draw_images
from emphasis.experiments.reports.report import read_summary, write_report
from emphasis.experiments.runs.context import Reporter, RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import TRACKED
from emphasis.experiments.tracking import TRACKERS, tracking
from emphasis.experiments.tracking.tracking import Destination, Tracking
from emphasis.extras import MissingExtraError
from emphasis.training.settings import Execution
from wandb_files import wandb_records

SMALL = {
    "network.hidden": [8],
    "solver.iterations": 20,
    "evaluation.every": 10,
    "evaluation.trace": False,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked") / "run"
    recipe = load_recipe("digits").limited([], ["CCE", "MAE", "MSE"]).changed({**SMALL, "seeds": 1})
    recipe = replace(recipe, figures=("curves",))
    rows = run(recipe, folder, RunContext(execution=Execution("cpu"), threads=1))
    summary = read_summary(folder)
    return rows, [folder / name for name in write_report(folder, summary)], partial(draw_images, summary)


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, and what it interrupts does not go on."""


def _tensorboard(folder, rows):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run_folder,) = (folder / "tensorboard").iterdir()
    found = {}
    for path in run_folder.iterdir():
        events = EventAccumulator(str(path)).Reload()
        if path.name == "report":
            assert events.Tags()["images"] == ["curves"]
            continue
        assert len(list(path.iterdir())) == 1, "recorded twice"
        text = events.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "| solver.iterations | 20 |" in text
        key = path.name.split()[-1]
        found[key] = [(point.step, point.value) for point in events.Scalars("test_accuracy")]
    return found


def _mlflow(folder, rows):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {
        "curves.svg",
        "report.html",
        "table.csv",
    }
    found = {}
    for nested in runs:
        if nested is parent:
            continue
        assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert nested.data.params["solver.iterations"] == "20"
        history = client.get_metric_history(nested.info.run_id, "test_accuracy")
        key = nested.data.tags["emphasis.identity"].split("-")[-1]
        assert key not in found, "recorded twice"
        found[key] = [(point.step, point.value) for point in history]
    return found


def _trackio(folder, rows):
    from trackio.sqlite_storage import SQLiteStorage

    found = {}
    for name in SQLiteStorage.get_runs("digits"):
        if name.startswith("report"):
            (log,) = SQLiteStorage.get_logs("digits", name)
            assert log["curves"]["_type"] == "trackio.image"
            continue
        logs = SQLiteStorage.get_logs("digits", name)
        assert SQLiteStorage.get_run_config("digits", name)["solver.iterations"] == 20
        found[name.split("-")[-1]] = [(log["step"], log["test_accuracy"]) for log in logs if "test_accuracy" in log]
    return found


def _wandb(folder, rows):
    from wandb.proto import wandb_internal_pb2

    found, reports = {}, 0
    for path in (folder / "wandb").glob("offline-run-*/*.wandb"):
        curve, settings, names = [], {}, set()
        for data in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            for item in record.history.item:
                names.update((item.key, *item.nested_key))
                if "test_accuracy" in (item.key, *item.nested_key):
                    curve.append((record.history.step.num, json.loads(item.value_json)))
            settings |= {item.key: item.value_json for item in record.config.update}
        identity = path.stem.removeprefix("run-")
        if identity.endswith("-report"):
            assert "curves" in names
            reports += 1
            continue
        assert settings["solver.iterations"] == "20"
        key = identity.split("-")[-1]
        assert key not in found, "recorded twice"
        found[key] = curve
    assert reports == 1
    return found


READERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "trackio": _trackio, "wandb": _wandb}


@pytest.mark.filterwarnings("default")  # of the trackers' own packages
@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_that_is_killed_and_resumed_is_one_run_in_the_tracker(name, finished, tmp_path, monkeypatch):
    pytest.importorskip(name)
    for variable in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    addresses = []
    connect = socket.socket.connect

    def noted(self, address):
        addresses.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    rows, files, images = finished
    folder = tmp_path / "run"
    folder.mkdir()
    destination = Destination(name)
    first = Tracking(Reporter(), folder, "digits", destination)
    first.finished(None, rows[:1])
    with monkeypatch.context() as patch:  # killed after the second network was recorded, and before that was noted

        def killed(*_):
            raise Killed

        patch.setattr(Tracking, "_note", killed)
        with pytest.raises(Killed):
            first.finished(None, rows[1:2])
    Tracking(Reporter(), folder, "digits", destination).finish(rows, files, images)
    Tracking(Reporter(), folder, "digits", destination).finish(rows, files, images)  # the command given again
    expected = {
        row["key"]: [*zip(row["curves"]["iteration"], row["curves"]["test_accuracy"], strict=True)] for row in rows
    }
    found = READERS[name](folder, rows)
    assert found.keys() == expected.keys()
    for key, curve in expected.items():
        assert [step for step, _ in found[key]] == [step for step, _ in curve]
        assert [value for _, value in found[key]] == pytest.approx([value for _, value in curve], abs=1e-6)
    entries = [json.loads(line) for line in (folder / TRACKED).read_text().splitlines()]
    assert [entry.get("key") for entry in entries] == [None, *(row["key"] for row in rows)]
    internet = [
        address for address in addresses if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1")
    ]
    assert not internet


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_whose_extra_is_missing_is_named_in_one_line(name, monkeypatch, tmp_path, capsys):
    for module in {name, *(each for each in sys.modules if each.startswith(f"{name}."))}:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"emphasis.experiments.tracking.to_{name}", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        Tracking(Reporter(), tmp_path, "digits", Destination(name))
    assert str(caught.value).startswith(
        f"--track {name} needs the extra '{name}' ({name} is missing): pip install '.[{name}]' in a checkout"
    )


def test_a_tracker_that_cannot_be_reached_stops_nothing(finished, tmp_path, monkeypatch):
    class Unreachable:
        def start_network(self, identity, title):
            raise ConnectionError("no route to host")

    class Messages(Reporter):
        def message(self, text, level="info"):
            texts.append(text)

    monkeypatch.setattr(tracking, "require_tracker", lambda name: None)
    monkeypatch.setattr(tracking, "make_tracker", lambda *_: Unreachable())
    texts = []
    reporter = Messages()
    recorder = Tracking(reporter, tmp_path, "digits", Destination("mlflow"))
    recorder.finished(None, finished[0])
    recorder.finished(None, finished[0])
    assert texts == ["--track mlflow: no route to host; the same command records later"]


TRACKED_COMMANDS = {
    "fit": (["--folds", "2", "--set", "n_estimators=3"], 2, "accuracy"),
    "tune": (["--folds", "2", "--trials", "2", "--set", "n_estimators=3"], 2, "accuracy"),
    "audit": (["--iterations", "20", "--set", "solver.learning_rate=0.1"], 1, "test_accuracy"),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", TRACKED_COMMANDS)
def test_fits_tunings_and_audits_are_recorded(command, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(120, 3))
    pd.DataFrame(x, columns=list("abc")).assign(y=x[:, 0] > 0).to_csv("t.csv", index=False)
    options, least, metric = TRACKED_COMMANDS[command]
    arguments = [command, "t.csv", "--label", "y", "--out", "out", "--no-progress", "--track", "tensorboard", *options]
    for _ in range(2):  # the command given again is one run
        assert main(arguments) == 0, capsys.readouterr().err
    (run_folder,) = (tmp_path / "out" / "tensorboard").iterdir()
    recorded = [EventAccumulator(str(path)).Reload() for path in run_folder.iterdir() if path.name != "report"]
    assert len(recorded) >= least
    for events in recorded:
        assert len(list(events.Scalars(metric))) >= 2
        assert events.Tensors("parameters/text_summary")
    assert len((tmp_path / "out" / TRACKED).read_text().splitlines()) == 1 + len(recorded)


def test_track_to_needs_a_tracker(capsys):
    assert main(["run", "digits", "--track-to", "there"]) == 2
    assert "--track-to needs --track" in capsys.readouterr().err
