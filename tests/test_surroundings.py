"""The real command where surroundings are odd: terminals, pipes, closed streams, paths, homes and clocks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from emphasis.cli.main import main
from emphasis.errors import EmphasisOSError
from emphasis.files import cache_dir
from emphasis.kernels import library
from finished_runs import rows_of

COMMAND = [sys.executable, "-m", "emphasis"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="of POSIX systems")
RECIPE = """
extends = "digits"
name = "odd"
figures = []
seeds = 1
network = { dropout = 0.1 }
solver = { iterations = 30 }
evaluation = { trace = false }
"""
RUN = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu", "--methods", "CCE", "MAE"]


def table(path):
    churned = ["yes" if row % 60 > 25 else "no" for row in range(120)]
    pd.DataFrame({"age": range(120), "plan": ["basic", "full"] * 60, "churned": churned}).to_csv(path, index=False)


@pytest.mark.parametrize(
    "settings",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}, {"LANG": "C"}],
)
def test_a_terminal_without_the_letters_shows_others_instead(settings):
    done = subprocess.run([*COMMAND, "show", "DM"], env={**os.environ, **settings}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"emphasis mode" in done.stdout
    assert not done.stderr


@POSIX
@pytest.mark.parametrize("arguments", [["show", "DM"], ["recipes"]])  # by print, and by rich
def test_a_reader_that_has_gone_ends_the_command_quietly(arguments):
    """As `head -1` does; here the reader has gone before a line is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
@pytest.mark.parametrize("arguments", [["show", "DM"], ["recipes"]])
def test_an_output_that_takes_nothing_is_one_line(arguments):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "emphasis: cannot write to the standard output: No space left on device\n"


@POSIX
@pytest.mark.parametrize(("closed", "code"), [("<&- >&- 2>&-", 0), (">&-", 0), ("2>&-", 0)])
def test_closed_streams_end_nothing(closed, code, tmp_path):
    """As where a scheduler or a daemon starts the command."""
    script = f'exec "$0" -m emphasis show DM --out "$1" {closed}'
    done = subprocess.run(["sh", "-c", script, sys.executable, str(tmp_path / "edf.svg")], capture_output=True)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "edf.svg").exists()
    assert not done.stderr


@POSIX
def test_a_mistake_is_not_said_on_the_output_where_the_error_stream_is_closed():
    done = subprocess.run(["sh", "-c", 'exec "$0" -m emphasis show DMM 2>&-', sys.executable], stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("columns", ["20", "1"])
def test_a_narrow_terminal_shows_everything(columns, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    Path("recipe.toml").write_text(RECIPE)
    for arguments in (["show", "DM"], ["recipes"], ["run", "recipe.toml", *RUN, "--out", "run"], ["report", "run"]):
        assert main(arguments) == 0
        said = capsys.readouterr()
        assert said.out
        assert not said.err
    with pytest.raises(SystemExit) as exit_:
        main(["run", "--help"])
    assert exit_.value.code == 0


@pytest.mark.parametrize(
    "name",
    [
        "мои данные 漢字 é",
        pytest.param(
            os.fsdecode(b"no letters \xff\xfe"),
            marks=pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's"),
        ),
    ],
)
def test_paths_may_have_spaces_and_any_letters(name, tmp_path, monkeypatch, capsys):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    Path(f"{name}.toml").write_text(RECIPE)
    table(f"{name}.csv")
    label = ["--label", "churned", "--no-progress"]
    commands = [
        ["run", f"{name}.toml", *RUN, "--out", f"run {name}"],
        ["report", f"run {name}"],
        ["report", f"run {name}", "--format", "html", "--out", f"report {name}.html"],
        ["fit", f"{name}.csv", *label, "--folds", "2", "--set", "n_estimators=5", "--out", f"fit {name}"],
        ["predict", f"fit {name}", f"{name}.csv", "--out", f"said {name}.csv"],
        ["audit", f"{name}.csv", *label, "--iterations", "20", "--suspects", f"s {name}.csv", "--out", f"audit {name}"],
        ["show", "DM", "--out", f"{name}.svg"],
    ]
    for command in commands:
        assert main(command) == 0, capsys.readouterr().err
    assert json.loads(Path(f"fit {name}", "fit.json").read_text(encoding="utf-8"))["table"] == f"{name}.csv"
    assert len(pd.read_csv(f"said {name}.csv")) == 120
    assert (Path(f"audit {name}") / "audit.html").exists()


def test_a_relative_home_is_no_folder_of_the_working_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMPHASIS_DATA", raising=False)
    monkeypatch.setenv("HOME", "home")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert main(["run", "table9", "--scaled", "--methods", "CCE", "--no-progress", "--out", "run"]) == 2
    assert str(cache_dir()) in capsys.readouterr().err
    assert cache_dir().is_absolute()
    assert not {"home", "cache"} & {path.name for path in tmp_path.iterdir()}


@POSIX
def test_without_a_home_there_is_no_cache_and_the_loss_is_there_all_the_same(monkeypatch):
    import pwd

    import torch

    from emphasis.torch import emphasis_loss

    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(EmphasisOSError, match="set HOME, or XDG_CACHE_HOME, to an absolute path"):
        cache_dir()
    library.library.cache_clear()
    try:
        assert emphasis_loss(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), "CCE").isfinite()
    finally:
        library.library.cache_clear()


CLOCK = """
import itertools, time
moments = itertools.cycle([0.0, 4e9, 1e9, 86400.0, 2e9])
time.time = lambda: next(moments)
time.time_ns = lambda: int(next(moments)) * 10**9
"""


def test_a_clock_that_jumps_changes_no_result(tmp_path, monkeypatch):
    """The clock is back in 1970, decades ahead and back again each time that Python looks at it."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    command = ["run", "recipe.toml", *RUN, "--checkpoint-seconds", "0.01", "--out"]
    assert main([*command, "steady"]) == 0
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*COMMAND, *command, "jumping"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in Path("jumping", "results.jsonl").read_text().splitlines()]
    assert all(0.0 <= row["seconds"] < 600.0 for row in rows)
    steady = rows_of(Path("steady"))
    assert len(steady) == 2
    assert rows_of(Path("jumping")) == steady
