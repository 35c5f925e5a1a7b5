"""A run in several processes: killed, resumed and shared, and its page in a browser."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from browser import browser, needs_chromium
from emphasis.cli.main import main
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs import train_job
from emphasis.experiments.runs.context import Reporter, RunContext
from emphasis.experiments.runs.jobs import make_jobs
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import SEARCH
from finished_runs import rows_of

TINY = Path(__file__).parent / "tiny.toml"


RECIPE = str(TINY)


ONE_PROCESS = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu"]


COMMAND = [sys.executable, "-m", "emphasis", "run"]


TWO_CONDITIONS = '[[conditions]]\nname = "r = 0.4"\n[[conditions]]\nname = "r = 0.2"\nnoise = { rate = 0.2 }\n'


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A recipe of two conditions, so of two jobs: its path, and the folder of its run in one process."""
    base = tmp_path_factory.mktemp("two")
    path = base / "two.toml"
    path.write_text(TINY.read_text().replace("[[methods]]", f"{TWO_CONDITIONS}[[methods]]", 1))
    assert main(["run", str(path), *ONE_PROCESS, "--out", str(base / "run")]) == 0
    return str(path), base / "run"


def test_one_failed_job_does_not_keep_the_others_from_being_written_and_shown(two, tmp_path, capsys):
    recipe, _ = two
    broken = tmp_path / "broken.toml"
    text = Path(recipe).read_text().replace("noise = { rate = 0.2 }", 'network = { activation = "cosine" }')
    broken.write_text(text.replace('name = "r = 0.4"\n', 'name = "r = 0.4"\n') + "\n")
    command = ["run", str(broken), *ONE_PROCESS, "--out", str(tmp_path / "run"), "--iterations", "20"]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "r = 0.2: 6 networks: activation='cosine' is unknown" in captured.err
    assert "the same command goes on with the rest" in captured.err
    assert captured.err.count("\n") == 1
    assert "6 of 12 networks are not trained yet" in " ".join(captured.out.split())
    assert len(rows_of(tmp_path / "run")) == 6


# Forks processes that have imported everything, so that each costs what it does and not a second import of torch.
FORKS = """
import json, os, random, signal, sys, time
import sklearn.datasets
import emphasis.cli.progress, emphasis.experiments.reports.report, emphasis.experiments.runs.train_job as train_job
from emphasis.cli.main import main

def start(arguments, log):
    pid = os.fork()
    if pid:
        return pid
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    train = train_job.train_networks
    def counted(job, *rest, **more):
        os.write(out, f"TRAINS {job.name}\\n".encode())
        return train(job, *rest, **more)
    train_job.train_networks = counted
    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)
"""


KILLS = """
arguments, base, seed = json.loads(sys.argv[1])
draw = random.Random(seed)

def written(folder):
    found = set()
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                about = os.stat(os.path.join(place, name))
            except OSError:
                continue
            found.add((name, about.st_ino, about.st_mtime_ns))
    return found

os.waitpid(start([*arguments, "--out", base + "/alone"], base + "/log-alone"), 0)
kills, runs = 0, []
while kills < 10:  # a run may end before the tenth kill; then another one takes the rest
    folder = f"{base}/run-{len(runs)}"
    while kills < 10 and not os.path.exists(folder + "/results.jsonl"):
        before, seen, status, number = written(folder), set(), 0, draw.randrange(1, 15)
        pid = start([*arguments, "--out", folder], base + "/log")
        ended = 0
        while not ended and len(seen) < number:  # files that it writes, whole or half
            time.sleep(0.001)
            seen |= written(folder) - before
            ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
    _, status = os.waitpid(start([*arguments, "--out", folder], base + "/log"), 0)
    runs.append([folder, os.waitstatus_to_exitcode(status)])
print(json.dumps(runs))
"""


BOTH = """
arguments, logs = json.loads(sys.argv[1])
pids = [start(arguments, log) for log in logs]
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]))
"""


def _forks(program, *given):
    done = subprocess.run(
        [sys.executable, "-c", FORKS + program, json.dumps(given)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_a_run_killed_ten_times_after_random_writes_ends_with_the_same_table(two, tmp_path):
    recipe = tmp_path / "two.toml"
    recipe.write_text("figures = []\n" + Path(two[0]).read_text())
    command = ["run", str(recipe), *ONE_PROCESS, "--checkpoint-seconds", "0.01", "--iterations", "150"]
    seed = random.randrange(1_000_000)
    for folder, code in _forks(KILLS, command, str(tmp_path), seed):
        assert code == 0
        assert rows_of(Path(folder)) == rows_of(tmp_path / "alone"), f"seed {seed}"
        assert Path(folder, "table.csv").read_bytes() == (tmp_path / "alone" / "table.csv").read_bytes()
        assert not list(Path(folder).glob("cells/*.pt"))
    assert "going on from iteration" in (tmp_path / "log").read_text()


def test_two_processes_in_one_folder_train_nothing_twice(two, tmp_path):
    recipe, alone = two
    folder, logs = tmp_path / "run", [tmp_path / "a", tmp_path / "b"]
    assert _forks(BOTH, ["run", recipe, *ONE_PROCESS, "--out", str(folder)], list(map(str, logs))) == [0, 0]
    trained = re.findall(r"TRAINS (\w+)", logs[0].read_text() + logs[1].read_text())
    assert len(trained) == len(set(trained)) == 2
    assert rows_of(folder) == rows_of(alone)
    assert (folder / "table.csv").read_bytes() == (alone / "table.csv").read_bytes()


def test_two_searches_in_one_folder_share_their_trials(tmp_path):
    pytest.importorskip("optuna")
    alone, folder, logs = tmp_path / "alone", tmp_path / "both", [tmp_path / "a", tmp_path / "b"]
    search = [
        "search",
        RECIPE,
        "--method",
        "DM",
        "--trials",
        "4",
        "--batch",
        "2",
        "--seeds",
        "2",
        "--iterations",
        "60",
        "--set",
        "network.dropout=0.1",
        *ONE_PROCESS,
    ]
    assert main([*search, "--out", str(alone)]) == 0
    assert _forks(BOTH, [*search, "--out", str(folder)], list(map(str, logs))) == [0, 0]
    trained = re.findall(r"TRAINS (\w+)", logs[0].read_text() + logs[1].read_text())
    assert len(trained) == len(set(trained)) == 2 * (4 + 1)
    assert (folder / SEARCH).read_bytes() == (alone / SEARCH).read_bytes()


class Messages(Reporter):
    """Collects messages."""

    def __init__(self):
        self.texts = []

    def message(self, text, level="info"):
        self.texts.append(text)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_runs_in_another_process_is_skipped_and_tried_again(two, tmp_path, workers):
    recipe, folder = load_recipe(two[0]), tmp_path / "run"
    first, second = make_jobs(list(recipe.cells()))
    (folder / "cells").mkdir(parents=True)
    lock = FileLock(folder / "cells" / f"{first.name}.lock")
    rows, reporter = [], Messages()
    with lock:
        ours = threading.Thread(
            target=lambda: rows.extend(run(recipe, folder, RunContext(workers=workers, threads=1), reporter))
        )
        ours.start()
        _wait_for((folder / "cells" / f"{second.name}.jsonl").exists)
        _wait_for(lambda: reporter.texts)
        time.sleep(1.5 * train_job.RETRY_SECONDS)
        assert not (folder / "cells" / f"{first.name}.jsonl").exists()
        assert ours.is_alive()
    ours.join(60)
    assert reporter.texts == [f"{first.title}: running in another process; skipped for now"]
    assert rows_of(folder) == rows_of(two[1])
    assert len(rows) == 12


def test_a_sweep_whose_processes_are_killed_after_random_writes_ends_with_the_same_lines(tmp_path):
    script, report = Path(__file__).parents[2] / "benchmarks" / "kill_sweep.py", tmp_path / "report.json"
    command = [sys.executable, "-W", "error", str(script), "--only", "sweep", "--kills", "3", "--iterations", "60"]
    done = subprocess.run([*command, "--out", str(report)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())["sweep"]
    assert found["kills"] == 3
    assert found["all_the_same"]


def _workers(parent):
    """The worker processes of a process; the helper of multiprocessing that counts resources is none."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mother = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if mother == parent and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except (OSError, ValueError):
            pass
    return found


def _wait_for(what, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


IN_TWO = ["--no-progress", "--workers", "2", "--threads", "1", "--accelerator", "cpu", "--checkpoint-seconds", "0.01"]


@LINUX
def test_two_workers_of_which_one_is_killed_give_the_rows_of_one_process(two, tmp_path):
    recipe, alone = two
    folder = tmp_path / "run"
    process = subprocess.Popen([*COMMAND, recipe, *IN_TWO, "--out", str(folder)], stdout=subprocess.PIPE, text=True)
    _wait_for(lambda: list(folder.glob("cells/[!.]*.pt")))
    os.kill(_workers(process.pid)[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert re.search(
        r"r = 0\.\d: 6 networks: its process was killed \(SIGKILL\); starting again", " ".join(out.split())
    )
    assert rows_of(folder) == rows_of(alone)
    assert (folder / "table.csv").read_bytes() == (alone / "table.csv").read_bytes()


@LINUX
def test_workers_end_with_a_parent_that_is_killed_and_the_run_goes_on(two, tmp_path):
    recipe, alone = two
    folder = tmp_path / "run"
    process = subprocess.Popen([*COMMAND, recipe, *IN_TWO, "--out", str(folder)], stdout=subprocess.DEVNULL)
    _wait_for(lambda: list(folder.glob("cells/[!.]*.pt")))
    workers = _workers(process.pid)
    assert workers
    process.kill()
    process.wait()
    _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), seconds=10)
    assert not (folder / "results.jsonl").exists(), "killed too late to test anything"
    assert main(["run", recipe, *ONE_PROCESS, "--out", str(folder)]) == 0
    assert rows_of(folder) == rows_of(alone)


def test_a_run_that_goes_on_with_its_last_job_has_as_many_threads_as_before(two, tmp_path, monkeypatch):
    """Another number of threads would end with other bits."""
    path, _ = two
    recipe = load_recipe(path).changed({"solver.iterations": 2})
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    run(recipe.limited(["r = 0.4"]), tmp_path / "run", RunContext(workers=1, threads=1))
    (row, *_) = [r for r in run(recipe, tmp_path / "run", RunContext(workers=2)) if r["condition"] == "r = 0.2"]
    assert row["threads"] == 1


@needs_chromium
@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_shows_its_figures_in_a_browser(two, tmp_path, width):
    with browser(tmp_path, width) as page:
        page.get((two[1] / "report.html").as_uri())
        charts = page.execute_script(
            "return [...document.querySelectorAll('.chart svg')].map(e => e.getBoundingClientRect().width)"
        )
        fetched = page.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
        )
        overflow = page.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    shown = [size for size in charts if size]  # of the layouts for wide and for narrow windows, one is shown
    assert len(shown) == 3  # the curves of both conditions, and each one's emphasis
    assert len(charts) == 6
    assert max(shown) <= width
    assert fetched == []
    assert overflow <= 0
