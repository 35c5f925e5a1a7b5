"""Ray, and Slurm's jobs as submitit runs them without Slurm: whatever dies, the lines are those of one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_for

from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import CELLS, finished_rows, probabilities
from emphasis.training.settings import Execution

WAITS = 20  # steps after which a network waits to be let go on
OWN = f"""
import os
import time
from pathlib import Path

from torch.nn.functional import cross_entropy

from emphasis.baselines import Baseline

class Own(Baseline):
    steps = 0

    def example_losses(self, logits, labels):
        Own.steps += 1
        if Own.steps == {WAITS} and not Path("go").exists():
            Path(f"begun-{{os.getpid()}}").touch()
            while not Path("go").exists():
                time.sleep(0.005)
        return cross_entropy(logits, labels, reduction="none")
"""
RECIPE = """
extends = "digits"
name = "clusters"
figures = []
seeds = 2
network = { hidden = [8], dropout = 0.1 }
solver = { iterations = 60 }
evaluation = { trace = false }
methods = [{ name = "CCE", training = { name = "own.py:Own" } }]
"""
COMMAND = [sys.executable, "-m", "emphasis", "run", "recipe.toml", "--no-progress", "--threads", "1"]
COMMAND += ["--accelerator", "cpu", "--checkpoint-seconds", "0", "--out", "run"]
MODULES = {"ray": "ray", "slurm": "submitit"}


def _lines(folder):
    kept = []
    for row in finished_rows(folder).values():
        p = probabilities(folder, row)["p"]
        kept.append(({k: v for k, v in row.items() if k not in ("seconds", "revision")}, p.tobytes()))
    return sorted(kept, key=lambda line: line[0]["key"])


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN, encoding="utf-8")
    Path("recipe.toml").write_text(RECIPE, encoding="utf-8")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("own.py").write_text(OWN, encoding="utf-8")
        Path("recipe.toml").write_text(RECIPE, encoding="utf-8")
        Path("go").touch()
        run(load_recipe("recipe.toml"), Path("run"), RunContext(execution=Execution("cpu"), threads=1))
        lines = _lines(Path("run"))
    assert len(lines) == 2
    return lines


def _waiting():
    """The processes of which a network waits, and of which the driver has, or can read, a checkpoint."""
    return [
        int(path.name.partition("-")[2]) for path in Path().glob("begun-*") if list(Path().glob(f"run/{CELLS}/*.pt"))
    ]


@pytest.mark.parametrize(
    "options", [["ray"], ["slurm"], ["slurm", "--per-job", "2"]], ids=["ray", "slurm", "slurm, both in a job"]
)
def test_a_run_of_which_processes_are_killed_ends_with_the_lines_of_one_process(options, recipe, alone):
    pytest.importorskip(MODULES[options[0]])
    command = [*COMMAND, "--executor", *options]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(_waiting, driver)
    workers = _waiting()
    driver.kill()
    driver.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))  # nobody waits for its result
    assert not finished_rows(Path("run"))
    for path in Path().glob("begun-*"):
        path.unlink()
    again = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(_waiting, again)
    os.kill(_waiting()[0], signal.SIGKILL)
    Path("go").touch()
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert " ".join(output.split()).count("starting again") == 1
    assert _lines(Path("run")) == alone
    assert {path.suffix for path in Path("run", CELLS).glob("[!.]*")} == {".jsonl", ".npz"}
    assert [path.name for path in Path("run", CELLS).glob(".*")] == [".lock"]
