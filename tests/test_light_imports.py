"""What can be read without a framework is imported without one: a name, a recipe, results and their summary."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "lightning_fabric", "matplotlib", "pandas"}
TABLE5 = str(Path(__file__).parents[1] / "results" / "table5")


def _loaded(program):
    """The packages that a program has imported at its end."""
    program = f"import sys\n{program}\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "module",
    [
        "emphasis.baselines",
        "emphasis.datasets",
        "emphasis.experiments.recipes.load",
        "emphasis.experiments.reports.ranking",
        "emphasis.experiments.reports.report",
        "emphasis.experiments.reports.summary",
        "emphasis.experiments.reports.table",
        "emphasis.experiments.runs.store",
        "emphasis.metrics",
        "emphasis.models",
        "emphasis.retrieval",
    ],
)
def test_a_module_that_needs_no_framework_imports_none(module):
    assert not _loaded(f"import {module}") & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ["recipes"],
        ["run", "digit"],
        ["run", "digits", "--seed", "3"],
        ["report", "digitz"],
        ["report", TABLE5, "--format", "text"],
        ["report", TABLE5, "--format", "csv"],
    ],
)
def test_a_command_that_trains_and_draws_nothing_imports_no_framework(arguments):
    assert not _loaded(f"from emphasis.cli.main import main\nmain({arguments!r})") & HEAVY


def test_training_imports_lightning_fabric_without_torchmetrics():
    loaded = _loaded("import emphasis.experiments.runs.runner")
    assert "lightning_fabric" in loaded
    assert not loaded & {"torchmetrics", "transformers"}  # three seconds in every process that trains


def test_a_report_with_figures_needs_matplotlib_and_no_framework():
    loaded = _loaded(f"from emphasis.cli.main import main\nmain({['report', TABLE5, '--format', 'html']!r})")
    assert loaded & HEAVY == {"matplotlib"}


def test_training_imports_no_transformers_and_torchmetrics_stays_whole():
    """Lightning Fabric would import torchmetrics for its version, and that transformers."""
    program = "import emphasis.training.loop, torch; assert 'transformers' not in sys.modules"
    assert "lightning_fabric" in _loaded(f"{program}\nassert 'torchmetrics' not in sys.modules")


def test_a_table_is_fitted_and_predicted_without_torch_and_a_net_names_its_extra(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("x,class\n" + "\n".join(f"{k % 7},{'ab'[k % 2]}" for k in range(40)))
    fit = ["fit", str(table), "--label", "class", "--no-progress", "--folds", "2"]
    out = str(tmp_path / "fit")
    program = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError('No module named torch', name='torch')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from emphasis.cli.main import main\n"
        f"codes = [main({[*fit, '--out', out, '--set', 'n_estimators=3']!r}), main({['predict', out, str(table)]!r})]\n"
        f"codes.append(main({[*fit, '--out', out + '-net', '--model', 'net']!r}))\n"
        "print(codes)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 2]", done.stderr
    assert "emphasis-learn[sklearn]" in done.stderr
