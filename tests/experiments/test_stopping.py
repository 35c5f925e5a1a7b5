"""SIGTERM and SIGHUP act as Ctrl-C: a checkpoint, one line, the signal's exit code, and the same results afterwards."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from emphasis import process
from emphasis.cli import main

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="of POSIX systems")
RECIPE = """
extends = "digits"
name = "stopped"
figures = []
seeds = 1
network = { dropout = 0.1 }
solver = { iterations = 300 }
evaluation = { trace = false }
"""
METHODS = ["--methods", "CCE", "MAE"]
OPTIONS = ["--no-progress", "--threads", "1", "--accelerator", "cpu"]
GOES_ON = "the same command goes on from the last checkpoint, if one was written\n"


def wait_for(what, running=lambda: True, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert running(), "it has ended before"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return found


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "revision")} for row in rows]


def iterations_of(folder):
    return {path.name: torch.load(path, weights_only=True)["iteration"] for path in folder.glob("cells/[!.]*.pt")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The recipe, and the lines of a run that nobody has stopped."""
    base = tmp_path_factory.mktemp("alone")
    recipe = base / "recipe.toml"
    recipe.write_text(RECIPE)
    assert main(["run", str(recipe), *METHODS, *OPTIONS, "--workers", "1", "--out", str(base / "run")]) == 0
    return str(recipe), rows_of(base / "run")


class Running:
    """The command as a group of processes, with what it says."""

    def __init__(self, folder, arguments):
        self.log = folder.with_name("log")
        with self.log.open("w") as out, folder.with_name("errors").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "emphasis", *arguments, "--out", str(folder)],
                stdout=out, stderr=errors, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self.errors = folder.with_name("errors")

    def is_running(self):
        return self.process.poll() is None

    def stopped_by(self, number, group):
        (os.killpg if group else os.kill)(self.process.pid, number)
        code = self.process.wait(timeout=120)
        return code, self.errors.read_text()


@pytest.mark.parametrize(("workers", "signals"), [(1, ("SIGTERM", "SIGHUP")), (2, ("SIGTERM", "SIGINT"))])
def test_a_run_that_is_asked_to_end_writes_a_checkpoint_and_goes_on_the_same(workers, signals, alone, tmp_path, capsys):
    recipe, expected = alone
    folder = tmp_path / "run"
    arguments = ["run", recipe, *METHODS, *OPTIONS, "--workers", str(workers)]
    first, second = (getattr(signal, name) for name in signals)
    group = workers > 1  # a terminal tells all of its processes, a scheduler may

    running = Running(folder, [*arguments, "--checkpoint-seconds", "0"])
    wait_for(lambda: len(list(folder.glob("cells/[!.]*.pt"))) == workers, running.is_running)
    code, said = running.stopped_by(first, group)
    assert (code, said) == (128 + first, f"emphasis: stopped by {signals[0]}; {GOES_ON}")
    before = iterations_of(folder)
    assert len(before) == workers

    # No checkpoint is due in this one, but for the signal's.
    running = Running(folder, [*arguments, "--checkpoint-seconds", "1000"])
    wait_for(lambda: running.log.read_text().count("going on from iteration") == workers, running.is_running)
    code, said = running.stopped_by(second, group)
    by = "" if second == signal.SIGINT else f" by {signals[1]}"
    assert (code, said) == (128 + second, f"emphasis: stopped{by}; {GOES_ON}")
    after = iterations_of(folder)
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before)

    assert main([*arguments[:-1], "1", "--out", str(folder)]) == 0
    assert capsys.readouterr().out.count("going on from iteration") == workers
    assert rows_of(folder) == expected


def ask_once(number, what):
    """Send a signal to this process once something holds."""

    def watch():
        wait_for(what)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["fit", "audit", "tune"])
def test_other_commands_end_by_the_signal_and_go_on(name, tmp_path, monkeypatch, capsys):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread alone")
    if name == "tune":
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,y\n" + "".join(f"{row},{row * row % 17},{row % 2}\n" for row in range(200)))
    label = ["t.csv", "--label", "y", "--no-progress"]
    command, event = {
        "fit": (["fit", *label, "--folds", "5", "--set", "n_estimators=100"], "folds/1.npz"),
        "audit": (["audit", *label, "--iterations", "3000"], "cells/*.lock"),
        "tune": (["tune", *label, "--iterations", "200", "--trials", "8", "--workers", "1"], "search/cells/*.jsonl"),
    }[name]
    thread = ask_once(signal.SIGTERM, lambda: list(Path("run").glob(event)))
    assert main([*command, "--out", "run"]) == 143
    thread.join()
    said = capsys.readouterr().err
    assert said.startswith("emphasis: stopped by SIGTERM; the same command goes on")
    assert said.count("\n") == 1
    kept = {path: path.stat().st_mtime_ns for path in Path("run").glob(event) if path.suffix != ".lock"}
    assert main([*command, "--out", "run"]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_signal_that_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.stopping_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert process.asked() is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_while_a_network_trains_a_signal_waits_and_a_second_ctrl_c_does_not():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with process.stopping_on_signals():
        with pytest.raises(process.Stopped) as caught, process.stopping_later():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may tell a process and its group
            assert process.asked() == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.number == signal.SIGINT
        with pytest.raises(process.Stopped) as caught:
            process.stop_if_asked()
        assert caught.value.number == signal.SIGTERM
    with process.stopping_on_signals():
        assert process.asked() is None
        with pytest.raises(KeyboardInterrupt):  # at once, where nothing trains
            os.kill(os.getpid(), signal.SIGHUP)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_an_error_that_a_signal_has_caused_is_a_stop(monkeypatch, capsys):
    """Libraries make errors of their own of an interruption."""
    from emphasis import cli

    def library(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5.0)
        except KeyboardInterrupt:
            raise RuntimeError("a callback failed") from None

    monkeypatch.setattr(cli, "_recipes", library)
    assert main(["recipes"]) == 143
    assert capsys.readouterr().err == "emphasis: stopped by SIGTERM\n"
