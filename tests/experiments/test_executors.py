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


class _Noted:
    """Writes down in which process it was done, and ends as it is told to."""

    def __init__(self, folder, name, end=None):
        self.file, self.end = folder / f"{name}.done", end

    def __call__(self, send):
        self.file.write_text(str(os.getpid()))
        if self.end is not None:
            self.end(send)
        return self.file.stem


def test_a_job_of_slurm_does_several_pieces_of_work_and_a_loss_counts_for_the_one_that_had_begun(tmp_path):
    pytest.importorskip("submitit")
    executor = make_executor(ExecutorOptions("slurm", jobs=1, per_job=4), tmp_path)
    works = {
        "first": _Noted(tmp_path, "first"),
        "raises": _Noted(tmp_path, "raises", _raise),
        "killed": _Noted(tmp_path, "killed", _kill),
        "waited": _Noted(tmp_path, "waited"),
    }
    assert executor.capacity() == 4
    with executor.batch():
        futures = {name: executor.submit(name, work, print) for name, work in works.items()}
    assert futures["first"].result(120) == "first"
    assert executor.capacity() <= 3  # no room for jobs of a single piece of work
    with pytest.raises(WorkerLostError, match=r"failed .*unforeseen") as raised:
        futures["raises"].result(60)
    with pytest.raises(WorkerLostError, match="ended without a result") as killed:
        futures["killed"].result(60)
    with pytest.raises(WorkerLostError) as waited:
        futures["waited"].result(60)
    assert (raised.value.begun, killed.value.begun, waited.value.begun) == (True, True, False)
    processes = {path.stem: path.read_text() for path in tmp_path.glob("*.done")}
    assert processes.keys() == {"first", "raises", "killed"}
    assert len(set(processes.values())) == 1
    assert executor.capacity() == 4
    with executor.batch():
        again = [executor.submit(name, _Noted(tmp_path, name), print) for name in ("killed", "waited")]
    assert [future.result(120) for future in again] == ["killed", "waited"]
    executor.close()
    assert not (tmp_path / ".slurm").exists()


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
        ({"per_job": 2}, "per_job is an option of the executor slurm, and not of local"),
        ({"name": "slurm", "per_job": 0}, "per_job=0 is not allowed; use a whole number, 1 or more"),
        ({"name": "slurm", "per_job": 1.5}, "per_job=1.5 is not allowed"),
    ],
)
def test_options_of_another_executor_are_refused(options, message):
    with pytest.raises(EmphasisValueError, match=message):
        ExecutorOptions(**options)
