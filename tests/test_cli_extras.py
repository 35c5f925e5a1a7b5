"""A command whose extra is not installed names it in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from commands import mistake_of

TABLE5 = str(Path(__file__).parents[1] / "results" / "table5")


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("rich", ["run", "digits"], "emphasis run needs the extra 'experiments'"),
        ("torch", ["run", "digits"], "pip install '.[experiments]' in a checkout"),
        (
            "lightning_fabric",
            ["run", "digits"],
            "emphasis run needs the extra 'experiments' (lightning_fabric is missing)",
        ),
        ("jinja2", ["report", TABLE5, "--format", "html"], "emphasis report needs the extra 'experiments'"),
        ("matplotlib", ["report", TABLE5, "--format", "html"], "emphasis report needs the extra 'experiments'"),
        ("jinja2", ["run", "digits"], "emphasis run needs the extra 'experiments' (jinja2 is missing)"),
        ("jinja2", ["fit", "t.csv", "--label", "y"], "emphasis fit needs the extra 'fit' (jinja2 is missing)"),
        ("rich", ["recipes"], "pip install '.[experiments]' in a checkout"),
        ("plotext", ["show", "DM"], "emphasis show needs the extra 'plot'"),
        ("rich", ["fit", "t.csv", "--label", "y"], "emphasis fit needs the extra 'fit' (rich is missing)"),
        ("sklearn", ["fit", "t.csv", "--label", "y"], "emphasis.tabular needs the extra 'fit' (sklearn is missing)"),
        ("pandas", ["predict", "run", "t.csv"], "emphasis predict needs the extra 'fit' (pandas is missing)"),
        ("torch", ["show", "label-smoothing"], "emphasis show needs the extra 'torch' (torch is missing)"),
        ("bokeh", ["design"], "design needs the extra 'design' (bokeh is missing)"),
        ("rich", ["design", "--run", "digits"], "emphasis design needs the extra 'experiments' (rich is missing)"),
        ("rich", ["audit", "digits"], "emphasis audit needs the extra 'experiments' (rich is missing)"),
        ("matplotlib", ["show", "DM", "--out", "a.png"], "pip install '.[plot]' in a checkout"),
        ("rich", ["tune", "digits"], "emphasis tune needs the extra 'search' (rich is missing)"),
        ("torch", ["tune", "digits"], "emphasis tune needs the extra 'search' (torch is missing)"),
        ("optuna", ["tune", "digits"], "emphasis tune needs the extra 'search' (optuna is missing)"),
        ("rich", ["search", "digits", "--method", "CCE"], "emphasis search needs the extra 'search' (rich is missing)"),
        ("pandas", ["tune", __file__, "--label", "y"], "emphasis tune needs the extra 'table' (pandas is missing)"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(missing, arguments, message):
    program = (
        "import sys\n"
        "class Absent:\n"  # sys.modules[...] = None would have others find a module that is None
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"from emphasis.cli.main import main; sys.exit(main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("module", "extra"), [("gensim", "text"), ("pandas", "table"), ("pyarrow", "table")])
def test_data_that_needs_an_extra_of_its_own_names_that_one(module, extra, tmp_path, capsys, monkeypatch):
    from emphasis.experiments.runs import runner

    def load(*_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(runner, "load_split", load)
    message = mistake_of(capsys, "run", "digits", "--out", str(tmp_path / "run"))
    assert f"pip install '.[{extra}]' in a checkout" in message
