"""`emphasis run --devices 2` on CPUs: one process's numbers, one writer; a killed rank ends it, and it goes on."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from waiting import OWN, wait_for

from emphasis.cli.main import main
from emphasis.training.settings import Execution, number_of_ranks

RECIPE = 'extends = "digits"\nname = "devices"\nfigures = []\nseeds = 1\n[network]\ndropout = 1e-12\n'  # next to none
OPTIONS = [
    "--methods",
    "DM 0.5/8 integral",
    "--iterations",
    "150",
    "--threads",
    "1",
    "--workers",
    "1",
    "--accelerator",
    "cpu",
    "--no-progress",
    "--checkpoint-seconds",
    "0.1",
]


def _row(folder):
    (row,) = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {name: value for name, value in row.items() if name not in ("seconds", "revision")}


def _start(recipe, folder, strategy):
    command = [sys.executable, "-W", "error", "-m", "emphasis", "run", str(recipe), *OPTIONS, "--devices", "2"]
    command += ["--strategy", strategy, "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _second_rank(parent):
    """The process that Fabric started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mother = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if mother == parent and b"emphasis" in (path / "cmdline").read_bytes():
                return int(path.name)
        except (OSError, ValueError):
            pass
    raise AssertionError("there is no second rank")


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_train_as_one_and_go_on_after_a_rank_is_killed(tmp_path, strategy):
    recipe = tmp_path / "devices.toml"
    recipe.write_text(RECIPE)
    whole = _start(recipe, tmp_path / "whole", strategy)
    out, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    assert out.count("Written to") == 1  # by the first rank alone
    assert main(["run", str(recipe), *OPTIONS, "--out", str(tmp_path / "alone")]) == 0
    both, alone = _row(tmp_path / "whole"), _row(tmp_path / "alone")
    assert (both.pop("devices"), both.pop("strategy")) == (2, strategy)
    assert (alone.pop("devices"), alone.pop("strategy")) == (1, None)
    for name, values in both["curves"].items():
        expected = np.array(alone["curves"][name])
        np.testing.assert_allclose(values[:2], expected[:2], rtol=0.0, atol=2e-5)  # the digits that are kept
        np.testing.assert_allclose(values, expected, rtol=0.0, atol=0.02)  # rounding grows with the steps

    folder = tmp_path / "killed"
    killed = _start(recipe, folder, strategy)
    deadline = time.monotonic() + 300
    while not list(folder.glob("cells/[!.]*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    rank = random.randrange(2)
    other = _second_rank(killed.pid)
    os.kill(other if rank else killed.pid, signal.SIGKILL)
    killed.communicate(timeout=300)  # returns once both have let go of the pipes
    assert killed.returncode != 0
    while _is_alive(other):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not list(folder.glob("cells/[!.]*.jsonl")), "killed too late to test anything"
    again = _start(recipe, folder, strategy)
    out, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert "going on from iteration" in out, f"rank {rank}"
    assert _row(folder) == _row(tmp_path / "whole"), f"rank {rank}"
    assert not list(folder.glob("cells/*.pt"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize(("strategy", "asked"), [("ddp", "torchrun"), ("fsdp", "second rank")])
def test_ranks_that_are_asked_to_end_write_a_checkpoint_and_end_together(tmp_path, strategy, asked):
    (tmp_path / "own.py").write_text(OWN)
    methods = 'methods = [{ name = "CCE", training = { name = "own.py:Own" } }]\n'
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("[network]", f"{methods}[network]"))
    command = [
        "emphasis",
        "run",
        "recipe.toml",
        *OPTIONS[4:-2],
        "--iterations",
        "100000",
        "--out",
        "run",
        "--strategy",
        strategy,
        "--checkpoint-seconds",
        "1000",
    ]
    if asked == "torchrun":
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            where = ["--master-port", str(one.getsockname()[1])]
        command = ["torch.distributed.run", *where, "--nproc-per-node", "2", "-m", *command]
    else:
        command += ["--devices", "2"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, stdout=log, stderr=log)
    wait_for(lambda: len(list(tmp_path.glob("begun-*"))) == 2, running)
    other = _second_rank(running.pid)
    os.kill(other if asked == "second rank" else running.pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    code = running.wait(timeout=60)
    wait_for(lambda: not _is_alive(other))
    said = (tmp_path / "log").read_text()
    line = "emphasis: stopped by SIGTERM; the same command resumes from the last checkpoint, if there is one\n"
    assert said.count(line) == 1, said
    assert "not foreseen" not in said
    if asked != "torchrun":  # which has a code, and tracebacks, of its own
        assert code == 143
        assert "Traceback" not in said
    (path,) = (tmp_path / "run").glob("cells/[!.]*.pt")  # no other was due
    assert 1 <= torch.load(path, weights_only=True)["iteration"] < 100000


STACKS_AND_METHODS = """
extends = "digits"
name = "ranks"
figures = []
seeds = 2
methods = [
    { name = "CCE", weighting = { family = "CCE" } },
    { name = "DM", weighting = { family = "DM", lam = 0.5, beta = 8.0 }, normalization = "batch" },
    { name = "Co-teaching", training = { name = "co-teaching", forget_rate = 0.4 } },
    { name = "D2L", training = { name = "d2l" } },
]
"""


def _curves(folder):
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {(row["method"], row["seed"]): row["curves"] for row in rows}


@pytest.mark.parametrize("torchrun", [False, True])
def test_perceptrons_in_stacks_and_other_methods_train_on_two_devices_as_on_one(tmp_path, torchrun):
    """Two of one machine; or one of each of two machines, both of which are this one."""
    recipe = tmp_path / "ranks.toml"
    recipe.write_text(STACKS_AND_METHODS)
    command = ["run", str(recipe), "--iterations", "60", *OPTIONS[4:], "--set", "evaluation.every=20"]
    assert main([*command, "--out", str(tmp_path / "alone")]) == 0
    program = [sys.executable, "-W", "error", "-m"]
    both = ["emphasis", *command, "--out", str(tmp_path / "both")]
    if torchrun:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            where = ["--master-addr", "127.0.0.1", "--master-port", str(one.getsockname()[1])]
        where += ["--nnodes", "2", "--nproc-per-node", "1", "-m", *both]
        starts = [[*program, "torch.distributed.run", "--node-rank", rank, *where] for rank in "01"]
    else:
        starts = [[*program, *both, "--devices", "2"]]
    processes = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for one in starts]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert not processes[0].returncode, said
    # torchrun on a machine that ends last may find the first one's store gone: its own race, when all is written.
    assert not any(
        process.returncode and "DistNetworkError" not in one for process, one in zip(processes, said, strict=True)
    ), said
    assert sum(one.count("Written to") for one in said) == 1
    expected = _curves(tmp_path / "alone")
    assert len(expected) == 8
    for name, curves in _curves(tmp_path / "both").items():
        for curve, values in curves.items():
            np.testing.assert_allclose(values[:2], expected[name][curve][:2], rtol=0.0, atol=2e-5)
            np.testing.assert_allclose(values, expected[name][curve], rtol=0.0, atol=0.02, err_msg=f"{name} {curve}")


def test_torchrun_and_devices_must_agree(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert number_of_ranks(Execution(devices=4)) == 8
    with pytest.raises(ValueError, match=r"devices=2 is not allowed where torchrun has started 4 processes .* use 4"):
        number_of_ranks(Execution(devices=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "CCE", "--devices", "0"], "use a whole number >= 1"),
        (["--methods", "CCE", "--strategy", "fsdp"], "--strategy 'fsdp' is not allowed; give devices >= 2 with it"),
        (["--methods", "CCE", "--devices", "2", "--workers", "2"], "cannot be combined"),
    ],
)
def test_what_cannot_be_split_is_an_error_with_the_cure(tmp_path, capsys, options, said):
    assert main(["run", "digits", *options, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
