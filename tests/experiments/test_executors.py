"""Executors: the contract that all of them keep, and what the driver does with what they return."""

import os
import signal
import sys
import time

import pytest

from emphasis.errors import EmphasisValueError
from emphasis.executors import ExecutorOptions, WorkerLostError, make_executor
from emphasis.extras import MissingExtraError


def _double(send):
    send("started")
    return 42


def _raise(send):
    raise KeyError("unforeseen")


def _kill(send):
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(send):
    send("waiting")
    time.sleep(600)


def test_the_local_executor_keeps_the_contract(tmp_path):
    executor = make_executor(ExecutorOptions(), tmp_path, workers=2)
    received = []
    with executor.batch():
        done, raised, lost = (
            executor.submit(work.__name__, work, received.append) for work in (_double, _raise, _kill)
        )
    assert done.result(60) == 42
    assert received == ["started"]
    with pytest.raises(KeyError, match="unforeseen"):
        raised.result(60)
    with pytest.raises(WorkerLostError, match=r"its process was killed \(SIGKILL\)"):
        lost.result(60)
    assert executor.submit("again", _double, received.append).result(60) == 42  # the lost process is replaced
    waiting = executor.submit("waiting", _wait, received.append)
    while "waiting" not in received:
        time.sleep(0.01)
    executor.close()
    with pytest.raises(WorkerLostError):
        waiting.result(0)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_an_executor_whose_extra_is_missing_is_named_in_one_line(name, tmp_path, monkeypatch):
    package = {"ray": "ray", "slurm": "submitit"}[name]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"emphasis.executors.on_{name}", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        make_executor(ExecutorOptions(name), tmp_path)
    assert str(caught.value).startswith(
        f"--executor {name} needs the extra '{name}' ({package} is missing): pip install '.[{name}]' in a checkout"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cloud"}, "executor='cloud' is not allowed; use one of local, ray, slurm"),
        ({"address": "auto"}, "address is an option of the executor ray, and not of local"),
        ({"name": "ray", "partition": "gpu"}, "partition is an option of the executor slurm, and not of ray"),
        ({"name": "slurm", "minutes": 0}, "minutes=0 is not allowed"),
    ],
)
def test_options_of_another_executor_are_refused(options, message):
    with pytest.raises(EmphasisValueError, match=message):
        ExecutorOptions(**options)
