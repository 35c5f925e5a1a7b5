"""`emphasis run --devices 2` on CPUs: one process's numbers, one writer; a killed rank ends it, and it goes on."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from waiting import OWN, wait_for

from emphasis.cli.main import main
from emphasis.training.settings import Execution, number_of_ranks
from finished_runs import rows_of
from forked import end, free_port, start

RECIPE = """
extends = "digits"
name = "devices"
figures = []
seeds = 2
solver = { iterations = 60 }
evaluation = { every = 20 }
methods = [
    { name = "CCE", weighting = { family = "CCE" } },
    { name = "DM", weighting = { family = "DM", lam = 0.5, beta = 8.0 }, normalization = "batch" },
    { name = "single", weighting = { family = "MAE" }, normalization = "integral", network = { dropout = 1e-12 } },
    { name = "Co-teaching", training = { name = "co-teaching", forget_rate = 0.4 } },
    { name = "D2L", training = { name = "d2l" } },
]
"""
OPTIONS = ["--threads", "1", "--workers", "1", "--accelerator", "cpu", "--no-progress"]


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


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The recipe, and the rows of its run on one device."""
    base = tmp_path_factory.mktemp("devices")
    (base / "devices.toml").write_text(RECIPE)
    assert main(["run", str(base / "devices.toml"), *OPTIONS, "--out", str(base / "alone")]) == 0
    return base / "devices.toml", rows_of(base / "alone")


def _on_two_machines(command):
    """Run a command by torchrun on one device of each of two machines, both of which are this one."""
    program = [sys.executable, "-W", "error", "-m", "torch.distributed.run"]
    address = [
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(free_port()),
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
    ]
    processes = [
        subprocess.Popen(
            [*program, "--node-rank", rank, *address, "-m", "emphasis", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert not processes[0].returncode, outputs
    # torchrun on a machine that ends last may find the first one's store gone: its own race, when all is written.
    assert not processes[1].returncode or "DistNetworkError" in outputs[1], outputs
    return "".join(outputs)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize(("strategy", "torchrun"), [("ddp", False), ("fsdp", True)])
def test_two_devices_train_as_one_and_go_on_after_a_rank_is_killed(alone, tmp_path, strategy, torchrun):
    """Stacks of perceptrons, single networks and other methods; the run that is killed is started without torchrun."""
    recipe, expected = alone
    command = ["run", str(recipe), *OPTIONS, "--strategy", strategy]
    whole, log = tmp_path / "whole", tmp_path / "log"
    if torchrun:
        output = _on_two_machines([*command, "--out", str(whole)])
    else:
        assert end(start([*command, "--devices", "2", "--out", str(whole)], log)) == 0, log.read_text()
        output = log.read_text()
    assert output.count("Written to") == 1  # by the first rank alone
    rows = rows_of(whole)
    assert len(rows) == len(expected) == 10
    for row, other in zip(rows, expected, strict=True):
        assert (row["method"], row["seed"]) == (other["method"], other["seed"])
        assert (row["devices"], row["strategy"]) == (2, strategy)
        assert (other["devices"], other["strategy"]) == (1, None)
        for name, values in row["curves"].items():
            np.testing.assert_allclose(values[:2], other["curves"][name][:2], rtol=0.0, atol=2e-5)  # all digits kept
            # Rounding grows with the steps.
            np.testing.assert_allclose(values, other["curves"][name], rtol=0.0, atol=0.02, err_msg=row["method"])

    folder, log = tmp_path / "killed", tmp_path / "log of the killed"
    some = ["CCE", "DM", "single"]  # of the others, what goes on from a checkpoint is that of training/two_ranks.py
    command += ["--devices", "2", "--out", str(folder), "--methods", *some]
    rows = [row for row in rows if row["method"] in some]
    killed = start([*command, "--checkpoint-seconds", "0.05"], log)
    wait_for(lambda: list(folder.glob("cells/[!.]*.pt")), killed, 300)
    rank, second = random.randrange(2), _second_rank(killed.pid)
    os.kill(second if rank else killed.pid, signal.SIGKILL)
    assert end(killed) != 0
    wait_for(lambda: not _is_alive(second))
    finished = rows_of(folder) if (folder / "results.jsonl").exists() else []
    assert len(finished) < len(rows), "killed too late to test anything"
    assert end(start(command, log)) == 0, log.read_text()
    assert "going on from iteration" in log.read_text(), f"rank {rank}"
    assert rows_of(folder) == rows, f"rank {rank}"
    assert not list(folder.glob("cells/*.pt"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize(("strategy", "asked"), [("ddp", "torchrun"), ("fsdp", "second rank")])
def test_ranks_that_are_asked_to_end_write_a_checkpoint_and_end_together(tmp_path, monkeypatch, strategy, asked):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    methods = 'methods = [{ name = "CCE", training = { name = "own.py:Own" } }]\n'
    Path("recipe.toml").write_text(f'extends = "digits"\nname = "asked"\nfigures = []\nseeds = 1\n{methods}')
    command = ["run", "recipe.toml", *OPTIONS, "--iterations", "100000", "--out", "run"]
    command += ["--strategy", strategy, "--checkpoint-seconds", "1000"]
    log = Path("log")
    if asked == "torchrun":
        program = [sys.executable, "-m", "torch.distributed.run", "--master-port", str(free_port())]
        with log.open("w") as file:
            program += ["--nproc-per-node", "2", "-m", "emphasis", *command]
            running = subprocess.Popen(program, stdout=file, stderr=file)
    else:
        running = start([*command, "--devices", "2"], log)
    wait_for(lambda: len(list(Path().glob("begun-*"))) == 2, running)
    second = _second_rank(running.pid)
    os.kill(second if asked == "second rank" else running.pid, signal.SIGTERM)
    Path("go").touch()
    code = running.wait(timeout=60) if asked == "torchrun" else end(running, 60)
    wait_for(lambda: not _is_alive(second))
    output = log.read_text()
    line = "emphasis: stopped by SIGTERM; the same command resumes from the last checkpoint, if there is one\n"
    assert output.count(line) == 1, output
    assert "not foreseen" not in output
    if asked != "torchrun":  # which has a code, and tracebacks, of its own
        assert code == 143
        assert "Traceback" not in output
    (path,) = Path("run").glob("cells/[!.]*.pt")  # no other was due
    assert 1 <= torch.load(path, weights_only=True)["iteration"] < 100000


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
