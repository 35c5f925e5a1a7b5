"""Leases, the locks of folders on disks without locks of their own."""

import subprocess
import sys

from waiting import wait_for

from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs import store
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.jobs import make_jobs
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import CELLS, acquire
from emphasis.experiments.runs.train_job import JobLock
from emphasis.training.settings import Execution

SECONDS = 1.0
HOLD = f"""
import socket, sys, time
from pathlib import Path
socket.gethostname = lambda: "another-machine"  # its processes cannot be looked up here
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs import store
from emphasis.experiments.runs.jobs import make_jobs
from emphasis.experiments.runs.train_job import JobLock
store.LEASE_SECONDS = {SECONDS}
lock = JobLock(make_jobs(list(load_recipe(sys.argv[1]).cells()))[0], Path(sys.argv[2]))
assert lock.acquire() == (True, False)
print("held", flush=True)
time.sleep(600)
"""
RECIPE = """
extends = "digits"
name = "leases"
figures = []
seeds = 1
network = { hidden = [8] }
solver = { iterations = 10 }
evaluation = { trace = false }
methods = [{ name = "CCE", weighting = { family = "CCE" } }]
"""


def test_a_lease_is_kept_while_its_owner_lives_and_taken_up_when_its_machine_has_died(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LEASE_SECONDS", SECONDS)
    file, folder = tmp_path / "recipe.toml", tmp_path / "run"
    file.write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(str(file))
    acquire(folder, recipe, locks="lease")
    (job,) = make_jobs(list(recipe.cells()))
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(file), str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    assert JobLock(job, folder).acquire() == (False, False)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert JobLock(job, folder).acquire() == (False, False), "it has not expired yet"
    wait_for(lambda: JobLock(job, folder).acquire()[0], seconds=30)  # a new object each time, as each attempt makes
    JobLock(job, folder).release()
    rows = run(recipe, folder, RunContext(execution=Execution("cpu"), threads=1))  # the folder says that it has leases
    assert len(rows) == 1
    assert sorted(path.name for path in (folder / CELLS).glob("*.l*")) == [".leases"]
