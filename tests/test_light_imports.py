"""What can be read without a framework is imported without one: a name, a recipe, results and their summary."""

import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "lightning_fabric", "matplotlib", "pandas"}
TABLE5 = str(Path(__file__).parents[1] / "results" / "table5")


def _loaded(*programs):
    """The packages that have been imported at the end of each of these programs, which one process runs one by one."""
    lines = [f"{program}\nprint('\\nLOADED', *sys.modules)" for program in programs]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(["import sys", *lines])], capture_output=True, text=True, check=True
    )
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    assert len(found) == len(programs)
    return [{name.partition(".")[0] for name in names} for names in found]


def _command(arguments):
    return f"from emphasis.cli.main import main\nmain({arguments!r})"


MODULES = [
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
]


def test_a_module_that_needs_no_framework_imports_none():
    for module, loaded in zip(MODULES, _loaded(*(f"import {module}" for module in MODULES)), strict=True):
        assert not loaded & HEAVY, module


def test_a_command_draws_with_matplotlib_alone_and_needs_no_framework_for_anything_else():
    light = [
        ["recipes"],
        ["run", "digit"],
        ["run", "digits", "--seed", "3"],
        ["report", "digitz"],
        ["report", TABLE5, "--format", "text"],
        ["report", TABLE5, "--format", "csv"],
    ]
    *ends, with_figures = _loaded(*map(_command, light), _command(["report", TABLE5, "--format", "html"]))
    for arguments, loaded in zip(light, ends, strict=True):
        assert not loaded & HEAVY, arguments
    assert with_figures & HEAVY == {"matplotlib"}


def test_training_imports_lightning_fabric_without_torchmetrics_and_transformers():
    """Fabric would import torchmetrics for its version, and that transformers: three seconds in every process."""
    for loaded in _loaded("import emphasis.training.loop, torch", "import emphasis.experiments.runs.runner"):
        assert "lightning_fabric" in loaded
        assert not loaded & {"torchmetrics", "transformers"}


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
