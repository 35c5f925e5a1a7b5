"""A run in several processes: killed, resumed and shared, and its page in a browser."""

import contextlib
import os
import random
import re
import signal
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
from forked import end, print_jobs, start

TINY = Path(__file__).parent / "tiny.toml"


RECIPE = str(TINY)


ONE_PROCESS = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu"]


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


def _written(folder):
    """The files of a run with what tells that they have been written again."""
    found = set()
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it has just been moved
                about = Path(parent, name).stat()
                found.add((name, about.st_ino, about.st_mtime_ns))
    return found


def test_a_run_killed_five_times_after_random_writes_ends_with_the_same_table(two, tmp_path):
    """Many more kills are those of benchmarks/kill_sweep.py."""
    recipe, log = tmp_path / "two.toml", tmp_path / "log"
    recipe.write_text("figures = []\n" + Path(two[0]).read_text())
    command = ["run", str(recipe), *ONE_PROCESS, "--checkpoint-seconds", "0.01", "--iterations", "150"]
    seed = random.randrange(1_000_000)
    draw = random.Random(seed)
    assert main([*command, "--out", str(tmp_path / "alone")]) == 0
    kills, folders = 0, []
    while kills < 5:  # a run may end before the fifth kill; then another one takes the rest
        folder = tmp_path / f"run-{len(folders)}"
        folders.append(folder)
        while kills < 5 and not (folder / "results.jsonl").exists():
            before, seen, number = _written(folder), set(), draw.randrange(1, 15)
            process = start([*command, "--out", str(folder)], log)
            while process.exitcode is None and len(seen) < number:  # files that it writes, whole or half
                time.sleep(0.001)
                seen |= _written(folder) - before
            process.kill()
            kills += end(process) == -signal.SIGKILL
        assert end(start([*command, "--out", str(folder)], log)) == 0, log.read_text()
    for folder in folders:
        assert rows_of(folder) == rows_of(tmp_path / "alone"), f"seed {seed}"
        assert (folder / "table.csv").read_bytes() == (tmp_path / "alone" / "table.csv").read_bytes()
        assert not list(folder.glob("cells/*.pt"))
    assert "going on from iteration" in log.read_text()


def _both(arguments, logs):
    """Run a command in two processes at once, and return the jobs that they have trained."""
    processes = [start(arguments, log, prepare=print_jobs) for log in logs]
    assert [end(process) for process in processes] == [0, 0]
    return re.findall(r"TRAINS (\w+)", "".join(log.read_text() for log in logs))


def test_two_processes_in_one_folder_train_nothing_twice(two, tmp_path):
    recipe, alone = two
    folder, logs = tmp_path / "run", [tmp_path / "a", tmp_path / "b"]
    trained = _both(["run", recipe, *ONE_PROCESS, "--out", str(folder)], logs)
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
    trained = _both([*search, "--out", str(folder)], logs)
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


def test_two_processes_in_one_folder_of_which_one_is_killed_end_with_the_same_lines(two, tmp_path):
    """Many more kills, at random moments, are those of benchmarks/kill_sweep.py."""
    recipe, alone = two
    folder, log = tmp_path / "run", tmp_path / "log"
    command = ["run", recipe, *ONE_PROCESS, "--checkpoint-seconds", "0.01", "--out", str(folder)]
    killed, other = start(command, log), start(command, log)
    _wait_for(lambda: list(folder.glob("cells/[!.]*.pt")))
    killed.kill()
    assert end(killed) == -signal.SIGKILL, "killed too late to test anything"
    again = start(command, log)
    assert [end(other), end(again)] == [0, 0], log.read_text()
    assert rows_of(folder) == rows_of(alone)
    assert (folder / "table.csv").read_bytes() == (alone / "table.csv").read_bytes()
    assert {path.suffix for path in folder.glob("cells/[!.]*")} == {".jsonl", ".npz"}  # no checkpoint, no lock


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
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start(["run", recipe, *IN_TWO, "--out", str(folder)], log)
    _wait_for(lambda: list(folder.glob("cells/[!.]*.pt")))
    os.kill(_workers(process.pid)[0], signal.SIGKILL)
    assert end(process) == 0
    out = " ".join(log.read_text().split())
    assert re.search(r"r = 0\.\d: 6 networks: its process was killed \(SIGKILL\); starting again", out)
    assert rows_of(folder) == rows_of(alone)
    assert (folder / "table.csv").read_bytes() == (alone / "table.csv").read_bytes()


@LINUX
def test_workers_end_with_a_parent_that_is_killed_and_the_run_goes_on(two, tmp_path):
    recipe, alone = two
    folder = tmp_path / "run"
    process = start(["run", recipe, *IN_TWO, "--out", str(folder)], tmp_path / "log")
    _wait_for(lambda: list(folder.glob("cells/[!.]*.pt")))
    workers = _workers(process.pid)
    assert workers
    process.kill()
    end(process)
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
