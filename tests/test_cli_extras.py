"""A command whose extra is not installed names it in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import mistake_of

TABLE5 = str(Path(__file__).parents[1] / "results" / "table5")


PROGRAM = """
import contextlib, io, json, sys

missing, commands = sys.argv[1], json.loads(sys.argv[2])

class Absent:  # sys.modules[...] = None would have others find a module that is None
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from emphasis.cli.main import main
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as error:
        code = main(command)
    print(json.dumps([code, error.getvalue()]))
"""


@pytest.mark.parametrize(
    ("missing", "commands"),
    [
        (
            "rich",
            [
                (["run", "digits"], "emphasis run needs the extra 'experiments'"),
                (["recipes"], "pip install '.[experiments]' in a checkout"),
                (["fit", "t.csv", "--label", "y"], "emphasis fit needs the extra 'fit' (rich is missing)"),
                (["design", "--run", "digits"], "emphasis design needs the extra 'experiments' (rich is missing)"),
                (["audit", "digits"], "emphasis audit needs the extra 'experiments' (rich is missing)"),
                (["tune", "digits"], "emphasis tune needs the extra 'search' (rich is missing)"),
                (
                    ["search", "digits", "--method", "CCE"],
                    "emphasis search needs the extra 'search' (rich is missing)",
                ),
            ],
        ),
        (
            "torch",
            [
                (["run", "digits"], "pip install '.[experiments]' in a checkout"),
                (["show", "label-smoothing"], "emphasis show needs the extra 'torch' (torch is missing)"),
                (["tune", "digits"], "emphasis tune needs the extra 'search' (torch is missing)"),
            ],
        ),
        (
            "lightning_fabric",
            [(["run", "digits"], "emphasis run needs the extra 'experiments' (lightning_fabric is missing)")],
        ),
        (
            "jinja2",
            [
                (["report", TABLE5, "--format", "html"], "emphasis report needs the extra 'experiments'"),
                (["run", "digits"], "emphasis run needs the extra 'experiments' (jinja2 is missing)"),
                (["fit", "t.csv", "--label", "y"], "emphasis fit needs the extra 'fit' (jinja2 is missing)"),
            ],
        ),
        (
            "matplotlib",
            [
                (["report", TABLE5, "--format", "html"], "emphasis report needs the extra 'experiments'"),
                (["show", "DM", "--out", "a.png"], "pip install '.[plot]' in a checkout"),
            ],
        ),
        ("plotext", [(["show", "DM"], "emphasis show needs the extra 'plot'")]),
        (
            "sklearn",
            [(["fit", "t.csv", "--label", "y"], "emphasis.tabular needs the extra 'fit' (sklearn is missing)")],
        ),
        (
            "pandas",
            [
                (["predict", "run", "t.csv"], "emphasis predict needs the extra 'fit' (pandas is missing)"),
                (
                    ["tune", __file__, "--label", "y"],
                    "emphasis tune needs the extra 'table' (pandas is missing)",
                ),
            ],
        ),
        ("bokeh", [(["design"], "design needs the extra 'design' (bokeh is missing)")]),
        ("optuna", [(["tune", "digits"], "emphasis tune needs the extra 'search' (optuna is missing)")]),
    ],
)
def test_a_missing_extra_is_named_in_one_line(missing, commands):
    """One process for each package: a command imports what others have not, and fails at the same one."""
    arguments = [sys.executable, "-c", PROGRAM, missing, json.dumps([command for command, _ in commands])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    for (command, message), (code, error) in zip(commands, ended, strict=True):
        assert code == 2, (command, error)
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(("module", "extra"), [("gensim", "text"), ("pandas", "table"), ("pyarrow", "table")])
def test_data_that_needs_an_extra_of_its_own_names_that_one(module, extra, tmp_path, capsys, monkeypatch):
    from emphasis.experiments.runs import runner

    def load(*_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(runner, "load_split", load)
    message = mistake_of(capsys, "run", "digits", "--out", str(tmp_path / "run"))
    assert f"pip install '.[{extra}]' in a checkout" in message
