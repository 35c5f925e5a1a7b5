"""The main job end to end, on a tiny recipe: results, resuming, refusals, several processes, the page in a browser."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from browser import browser, needs_chromium
from emphasis.cli.main import main
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs import store, train_job
from emphasis.experiments.runs.context import Reporter, RunContext
from emphasis.experiments.runs.jobs import make_jobs
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import SEARCH, probabilities

TINY = Path(__file__).parent / "tiny.toml"
RECIPE = str(TINY)
ONE_PROCESS = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu"]
COMMAND = [sys.executable, "-m", "emphasis", "run"]
TWO_CONDITIONS = '[[conditions]]\nname = "r = 0.4"\n[[conditions]]\nname = "r = 0.2"\nnoise = { rate = 0.2 }\n'


def _results(folder):
    """The lines of results.jsonl without what may differ between two runs: timings, and the checkout's state."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["revision"]
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", RECIPE, *ONE_PROCESS, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A recipe of two conditions, so of two jobs: its path, and the folder of its run in one process."""
    base = tmp_path_factory.mktemp("two")
    path = base / "two.toml"
    path.write_text(TINY.read_text().replace("[[methods]]", f"{TWO_CONDITIONS}[[methods]]", 1))
    assert main(["run", str(path), *ONE_PROCESS, "--out", str(base / "run")]) == 0
    return str(path), base / "run"


def test_the_folder_holds_results_figures_and_page(finished):
    names = ["cells", "curves.svg", "emphasis.svg", "report.html", "results.jsonl", "run.json", "table.csv"]
    assert sorted(path.name for path in finished.iterdir()) == names
    rows = _results(finished)
    assert [(row["method"], row["seed"]) for row in rows] == [
        (method, seed) for method in ("CCE", "DM", "Vanishing DM") for seed in (0, 1)
    ]
    for row in rows:
        curve = row["curves"]["test_accuracy"]
        assert row["curves"]["iteration"] == list(range(0, 401, 50))
        assert row["best_test_accuracy"] == pytest.approx(max(curve))
        assert row["final_test_accuracy"] == pytest.approx(curve[-1])
        assert row["realised_noise_rate"] == pytest.approx(0.4, abs=0.01)
        assert row["outcome"] in ("learned", "collapsed", "never learned")
    assert rows[0]["weighting"] == {"family": "CCE"}
    assert rows[2]["max_margin"] is None
    assert {rows[number]["outcome"] for number in (0, 1, 4, 5)} == {"learned"}


def test_probabilities_agree_with_curves_and_histograms(finished):
    for row in _results(finished):
        found = probabilities(finished, row)
        p, noisy = found["p"], found["noisy"]
        assert p.shape == (1297,)
        assert p[noisy].mean() == pytest.approx(row["final_p_noisy"], abs=1e-5)
        assert p[~noisy].mean() == pytest.approx(row["final_p_clean"], abs=1e-5)
        assert row["p_histogram"]["clean"] == np.histogram(p[~noisy], 20, (0, 1))[0].tolist()
        assert row["p_histogram"]["noisy"] == np.histogram(p[noisy], 20, (0, 1))[0].tolist()


def test_a_finished_run_is_shown_again_and_another_is_refused(finished, tmp_path, capsys):
    before = (finished / "results.jsonl").read_bytes()
    (finished / "curves.svg").unlink()
    assert main(["run", RECIPE, "--out", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "already holds all" in " ".join(out.split())
    assert "Vanishing DM" in out
    assert (finished / "results.jsonl").read_bytes() == before
    assert (finished / "curves.svg").exists()
    other = tmp_path / "other.toml"
    other.write_text(TINY.read_text().replace('name = "tiny"', 'name = "other"'))
    assert main(["run", str(other), "--out", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "holds runs of 'tiny'" in error
    assert "--force" in error
    assert error.count("\n") == 1


def test_more_seeds_train_the_new_seed_alone(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    trained = []
    train = train_job._train_job
    monkeypatch.setattr(train_job, "_train_job", lambda job, *rest: (trained.append(job), train(job, *rest)))
    assert main(["run", RECIPE, *ONE_PROCESS, "--out", str(folder), "--seeds", "3"]) == 0
    assert [job.seeds for job in trained] == [(2,)]
    assert [row for row in _results(folder) if row["seed"] < 2] == _results(finished)
    assert len(_results(folder)) == 9
    assert main(["run", RECIPE, *ONE_PROCESS, "--out", str(folder), "--only", "", "--methods", "DM"]) == 0
    assert len(trained) == 1
    assert _results(folder) == [row for row in _results(finished) if row["method"] == "DM"]


def test_a_checkpoint_cut_short_is_reported_and_the_run_starts_over(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "cells").mkdir(parents=True)
    shutil.copy(finished / "run.json", folder)
    (folder / "cells" / f"{_results(finished)[0]['job']}.pt").write_bytes(b"PK\x03\x04 cut short")
    assert main(["run", RECIPE, *ONE_PROCESS, "--out", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "damaged or cut short" in out
    assert "starting from the beginning" in out
    assert _results(folder) == _results(finished)


def test_a_run_killed_after_its_last_step_ends_alike(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = ["run", RECIPE, *ONE_PROCESS, "--out", str(folder), "--checkpoint-seconds", "0"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_job, "write_job", killed)
        assert main(command) == 130
    assert list(folder.glob("cells/*.pt"))
    assert main(command) == 0
    assert _results(folder) == _results(finished)


def test_failures_stand_in_table_and_page(finished, tmp_path, capsys, monkeypatch):
    """A collapsed and a diverged network are said to be so, in the terminal and on the page."""
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (lines,) = (folder / "cells").glob("*.jsonl")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    rows[2].update(outcome="collapsed", final_test_accuracy=0.1)
    for number, at in ((4, 123), (5, 124)):
        rows[number].update(outcome="diverged", final_test_accuracy=None, diverged_at=at, diverged_batch=[7, 8])
        for curve in rows[number]["curves"].values():
            del curve[-3:]
    lines.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    assert main(["run", RECIPE, "--out", str(folder)]) == 0
    out, page = capsys.readouterr().out, (folder / "report.html").read_text()
    for text in (out, page):
        assert "collapsed (1 of 2 seeds)" in text
        assert "diverged (2 of 2 seeds)" in text
    assert "NaN or infinite logits from iteration 123 on" in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page))


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
    assert len(_results(tmp_path / "run")) == 6


def test_a_job_reads_its_own_results_alone(tmp_path, monkeypatch):
    """Reading those of all jobs before it, a sweep would cost time by the square of its jobs."""
    read = []
    read_rows = store.read_rows
    monkeypatch.setattr(store, "read_rows", lambda path: (read.append(path.name), read_rows(path))[1])
    settings = {"network.dropout": 0.1, "solver.iterations": 1, "seeds": 6}
    recipe = load_recipe(RECIPE).limited([], ["CCE"]).changed(settings)
    assert len(run(recipe, tmp_path / "run", RunContext(threads=1))) == 6
    assert len(read) == len(set(read)) == 6  # once each, in the end
    read.clear()
    assert len(run(recipe, tmp_path / "run", RunContext(threads=1))) == 6
    assert len(read) == 2 * 6


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
    train = train_job._train_job
    def counted(job, *rest):
        os.write(out, f"TRAINS {job.name}\\n".encode())
        return train(job, *rest)
    train_job._train_job = counted
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
        assert _results(Path(folder)) == _results(tmp_path / "alone"), f"seed {seed}"
        assert Path(folder, "table.csv").read_bytes() == (tmp_path / "alone" / "table.csv").read_bytes()
        assert not list(Path(folder).glob("cells/*.pt"))
    assert "going on from iteration" in (tmp_path / "log").read_text()


def test_two_processes_in_one_folder_train_nothing_twice(two, tmp_path):
    recipe, alone = two
    folder, logs = tmp_path / "run", [tmp_path / "a", tmp_path / "b"]
    assert _forks(BOTH, ["run", recipe, *ONE_PROCESS, "--out", str(folder)], list(map(str, logs))) == [0, 0]
    trained = re.findall(r"TRAINS (\w+)", logs[0].read_text() + logs[1].read_text())
    assert len(trained) == len(set(trained)) == 2
    assert _results(folder) == _results(alone)
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
    assert _results(folder) == _results(two[1])
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


def _wait_for(what, seconds=60):
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
    assert _results(folder) == _results(alone)
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
    assert _results(folder) == _results(alone)


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
