"""A disk that is full, or that can only be read: the command says so, keeps what is whole, and goes on afterwards."""

import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from emphasis.cli.main import main
from emphasis.files import replacing
from emphasis.tabular.models import MODELS
from emphasis.weighting import DEFAULT_WEIGHTING

RECIPE = """
extends = "digits"
name = "disks"
figures = []
seeds = 1
network = { dropout = 0.1 }
solver = { iterations = 40 }
evaluation = { trace = false }
"""
TABLE = ["table.csv", "--label", "class", "--no-progress"]
COMMANDS = {
    "run": [
        "run",
        "recipe.toml",
        "--no-progress",
        "--workers",
        "1",
        "--threads",
        "1",
        "--accelerator",
        "cpu",
        "--checkpoint-seconds",
        "0",
        "--methods",
        "CCE",
        "MAE",
    ],
    "fit": ["fit", *TABLE, "--folds", "3", "--set", "n_estimators=10"],
    "audit": ["audit", *TABLE, "--iterations", "40", "--set", "solver.learning_rate=0.1"],
    "tune": ["tune", *TABLE, "--iterations", "30", "--trials", "2", "--folds", "1", "--workers", "1"],
}
CHANGING = ("seconds", "revision")


class Disk:
    """A disk of its own, of so many KiB."""

    def __init__(self, place):
        self.place = place
        place.mkdir()

    def mount(self, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.place)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")

    def remount(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.place)], check=True)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    if shutil.which("mount") is None:
        pytest.skip("there is no program to mount a small disk with")
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(RECIPE)
    load_wine(as_frame=True).frame.rename(columns={"target": "class"}).to_csv("table.csv", index=False)
    made = Disk(tmp_path / "disk")
    yield made
    subprocess.run(["umount", "-l", str(made.place)], check=False, stderr=subprocess.DEVNULL)


def found_in(folder):
    """What a command wrote, without times; pages and models apart, which are named or checked elsewhere."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl" and not path.name.startswith("."):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in CHANGING} for line in lines]
        elif path.suffix in (".csv", ".ubj", ".json"):
            found[name] = path.read_bytes()
        else:
            found[name] = path.is_dir()
    return found


@pytest.mark.parametrize(
    ("name", "kib", "refused"),
    [
        ("run", 4, r"CCE, seed 0: cannot write disk/out/cells/\w{16}\.npz"),
        ("run", 24, r"MAE, seed 0: cannot write disk/out/cells/\w{16}\.(npz|jsonl)"),
        ("fit", 8, r"cannot write disk/out/folds/1\.npz"),
        ("fit", 24, r"cannot write disk/out/model/model\.ubj"),
        ("audit", 8, r"audit, seed 0: cannot write disk/out/cells/\w{16}\.(npz|jsonl)"),
        ("audit", 48, r"cannot write disk/out/(suspects\.csv|audit\.json|audit\.html)"),
        ("tune", 8, r"5 networks: cannot write disk/out/search/cells/\w{16}\.(npz|jsonl)"),
        ("tune", 60, r"cannot write disk/out/audit/[/\w]+\.(csv|html|jsonl?)"),
    ],
)
def test_a_full_disk_is_said_and_the_next_run_goes_on(name, kib, refused, disk, capsys):
    disk.mount(f"size={kib}k")
    assert main([*COMMANDS[name], "--out", "disk/out"]) == 2
    said = capsys.readouterr()
    assert re.fullmatch(rf"emphasis: {refused}: No space left on device; free some space.*\n", said.err), said.err
    retried = "training goes on, and checkpoints are tried again every 0 s"
    assert " ".join(said.out.split()).count(retried) == (name == "run") * (1 if kib < 10 else 2)
    assert not list(disk.place.rglob("*.partial.*"))
    whole = {
        path: path.stat().st_mtime_ns
        for path in disk.place.rglob("*")
        if re.fullmatch(r"[0-9a-f]{16}\.jsonl|\d\.npz", path.name)
    }
    assert len(whole) >= {("run", 24): 1, ("fit", 8): 1, ("fit", 24): 3, ("audit", 48): 1, ("tune", 60): 2}.get(
        (name, kib), 0
    )
    disk.remount("size=50m")
    assert main([*COMMANDS[name], "--out", "disk/out"]) == 0
    assert {path: path.stat().st_mtime_ns for path in whole} == whole  # not trained again
    assert main([*COMMANDS[name], "--out", "alone"]) == 0
    assert found_in(Path("disk/out")) == found_in(Path("alone"))


def test_a_run_whose_checkpoints_are_refused_ends_all_the_same(disk, capsys):
    disk.mount("size=120k")
    assert main([*COMMANDS["run"], "--out", "disk/out"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for method in ("CCE", "MAE"):  # once each, of 39 that were tried
        assert len(re.findall(rf"{method}, seed 0: cannot write disk/out/cells/\w+\.pt: No space left", out)) == 1
    assert len((disk.place / "out" / "results.jsonl").read_text().splitlines()) == 2


def test_a_checkpoint_is_tried_again_once_there_is_room(disk, capsys, monkeypatch):
    from emphasis.experiments.runs import checkpointing

    written = []
    save = checkpointing.save_checkpoint

    def saved(path, state, *rest):
        if state.iteration == 20:
            disk.remount("size=50m")
        save(path, state, *rest)
        written.append(state.iteration)

    monkeypatch.setattr(checkpointing, "save_checkpoint", saved)
    disk.mount("size=60k")
    assert main([*COMMANDS["run"][:-1], "--out", "disk/out"]) == 0
    assert written == list(range(20, 40))
    assert " ".join(capsys.readouterr().out.split()).count("training goes on") == 1


@pytest.mark.parametrize("name", ["run", "fit", "report"])
def test_a_disk_that_can_only_be_read_is_one_line(name, disk, capsys):
    disk.mount("size=50m")
    assert main([*COMMANDS["run"], "--out", "disk/out"]) == 0
    disk.remount("ro")
    capsys.readouterr()
    command = {"report": ["report", "disk/out"], "run": [*COMMANDS["run"], "--out", "disk/out"]}
    assert main(command.get(name, [*COMMANDS["fit"], "--out", "disk/fit"])) == 2
    error = capsys.readouterr().err
    assert "Read-only file system" in error
    assert error.count("\n") == 1


def test_a_model_is_whole_or_an_error_to_the_last_block(disk):
    """XGBoost's own writer leaves a file without its end, and says nothing."""
    rng = np.random.default_rng(0)
    x = rng.random((300, 5), dtype=np.float32)
    labels = (x[:, 0] > 0.5).astype(int)
    for name, settings in (("xgboost", {"n_estimators": 30}), ("net", {"max_epochs": 2, "hidden": (512,)})):
        kind = MODELS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a training that has not ended
            model = kind.make(DEFAULT_WEIGHTING, {**kind.settings, **settings}, 0).fit(x, labels)
        kind.save(model, Path(kind.file))
        size = Path(kind.file).stat().st_size
        assert size % 4096
        disk.mount(f"size={size // 4096 * 4}k")
        with pytest.raises(OSError, match="No space left on device"), replacing(disk.place / kind.file) as partial:
            kind.save(model, partial)
        assert not list(disk.place.iterdir())
        subprocess.run(["umount", "-l", str(disk.place)], check=True)


def test_a_failed_checkpoint_holds_no_room(disk):
    """torch's own file stays open, and keeps the disk full, for as long as somebody holds the error."""
    disk.mount("size=1m")
    errors = []
    for _ in range(3):
        with (
            pytest.raises(OSError, match="No space left on device") as caught,
            replacing(disk.place / "a.pt") as partial,
            partial.open("wb") as file,
        ):
            torch.save(torch.zeros(2**20), file)
        errors.append(caught.value)
        assert shutil.disk_usage(disk.place).used == 0
