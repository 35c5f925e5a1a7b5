"""SIGTERM and SIGHUP act as Ctrl-C: a checkpoint, one line, the signal's exit code, and the same results afterwards."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from waiting import OWN, wait_for

from emphasis import process
from emphasis.cli.main import main
from finished_runs import rows_of
from forked import end, start

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="of POSIX systems")
RECIPE = """
extends = "digits"
name = "stopped"
figures = []
seeds = 2
solver = { iterations = 30 }
evaluation = { trace = false }
methods = [{ name = "CCE", training = { name = "own.py:Own" } }]
"""
OPTIONS = ["--no-progress", "--threads", "1", "--accelerator", "cpu", "--checkpoint-seconds", "1000"]
RESUME_HINT = "the same command resumes from the last checkpoint, if there is one\n"


def iterations_of(folder):
    return [torch.load(path, weights_only=True)["iteration"] for path in folder.glob("cells/[!.]*.pt")]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    Path("recipe.toml").write_text(RECIPE)
    return ["run", "recipe.toml", *OPTIONS]


def goes_on_the_same(recipe, capsys, resumed):
    capsys.readouterr()
    assert main([*recipe, "--workers", "1", "--out", "run"]) == 0
    assert capsys.readouterr().out.count("going on from iteration 1 of 30") == resumed
    assert not list(Path("run").glob("cells/*.pt"))
    assert main([*recipe, "--workers", "1", "--out", "alone"]) == 0
    assert rows_of(Path("run")) == rows_of(Path("alone"))


def ask_once(number, what):
    """Send a signal to this process once something holds, and let its methods go on."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread alone")

    def watch():
        wait_for(what)
        os.kill(os.getpid(), number)
        Path("go").touch()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_run_that_is_asked_to_end_writes_a_checkpoint_and_goes_on_the_same(name, recipe, capsys):
    number = getattr(signal, name)
    thread = ask_once(number, lambda: list(Path().glob("begun-*")))
    assert main([*recipe, "--workers", "1", "--out", "run"]) == 128 + number
    thread.join()
    by = "" if name == "SIGINT" else f" by {name}"
    assert capsys.readouterr().err == f"emphasis: stopped{by}; {RESUME_HINT}"
    assert iterations_of(Path("run")) == [1]  # no other was due
    goes_on_the_same(recipe, capsys, 1)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])  # a scheduler may tell all its processes, a terminal does
def test_workers_that_are_asked_to_end_write_their_checkpoints(name, recipe, capsys):
    number = getattr(signal, name)
    log = Path("log")
    running = start([*recipe, "--workers", "2", "--out", "run"], log, own_session=True)
    wait_for(lambda: len(list(Path().glob("begun-*"))) == 2, running)
    os.killpg(running.pid, number)
    Path("go").touch()
    assert end(running, 60) == 128 + number
    by = "" if name == "SIGINT" else f" by {name}"
    assert log.read_text().splitlines(keepends=True)[-1] == f"emphasis: stopped{by}; {RESUME_HINT}"
    assert "Traceback" not in log.read_text()
    assert iterations_of(Path("run")) == [1, 1]
    goes_on_the_same(recipe, capsys, 2)


@pytest.mark.parametrize("name", ["fit", "audit", "tune"])
def test_other_commands_end_by_the_signal_and_go_on(name, tmp_path, monkeypatch, capsys):
    if name == "tune":
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,y\n" + "".join(f"{row},{row * row % 17},{row % 2}\n" for row in range(200)))
    label = ["t.csv", "--label", "y", "--no-progress"]
    command, event = {
        "fit": (["fit", *label, "--folds", "5", "--set", "n_estimators=100"], "folds/1.npz"),
        "audit": (["audit", *label, "--iterations", "600"], "cells/*.lock"),
        "tune": (["tune", *label, "--iterations", "200", "--trials", "4", "--workers", "1"], "search/cells/*.jsonl"),
    }[name]
    thread = ask_once(signal.SIGTERM, lambda: list(Path("run").glob(event)))
    assert main([*command, "--out", "run"]) == 143
    thread.join()
    said = capsys.readouterr().err
    assert said.startswith("emphasis: stopped by SIGTERM; the same command resumes")
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


def test_what_runs_after_a_command_that_was_stopped_has_not_been_asked_to_stop():
    with pytest.raises(process.Stopped), process.stopping_on_signals():
        signal.raise_signal(signal.SIGINT)
    assert process.asked() is None
    process.stop_if_asked()


def test_an_error_that_a_signal_has_caused_is_a_stop(monkeypatch, capsys):
    """Libraries make errors of their own of an interruption."""
    from emphasis.experiments.recipes import load

    def library():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5.0)
        except KeyboardInterrupt:
            raise RuntimeError("a callback failed") from None

    monkeypatch.setattr(load, "recipe_names", library)
    assert main(["recipes"]) == 143
    assert capsys.readouterr().err == "emphasis: stopped by SIGTERM\n"
