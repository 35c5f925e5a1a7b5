import ast
import contextlib
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from emphasis.extras import EXTRAS, MissingExtraError, missing_extra

FRONT_ENDS = [
    ("emphasis.torch", "torch", "torch"),
    ("emphasis.jax", "jax", "jax"),
    ("emphasis.sklearn", "sklearn", "sklearn"),
    ("emphasis.sklearn", "torch", "sklearn"),
    ("emphasis.boosting.xgboost", "xgboost", "xgboost"),
    ("emphasis.boosting.xgboost", "sklearn", "xgboost"),
    ("emphasis.boosting.lightgbm", "lightgbm", "lightgbm"),
    ("emphasis.boosting.catboost", "catboost", "catboost"),
    ("emphasis.boosting.dask", "dask", "dask"),
    ("emphasis.huggingface", "transformers", "transformers"),
    ("emphasis.trl", "trl", "trl"),
    ("emphasis.lightning", "lightning", "lightning"),
    ("emphasis.tabular", "sklearn", "fit"),
    ("emphasis.tabular.onnx_export", "onnx", "export"),
]


@pytest.mark.parametrize(("module", "missing", "extra"), FRONT_ENDS)
def test_a_front_end_names_its_extra_in_one_line(module, missing, extra):
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"try:\n    import {module}\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"{module} needs the extra '{extra}' ({missing} is missing): "
        f"pip install '.[{extra}]' in a checkout, 'emphasis-learn[{extra}]' from an index\n"
    )


def test_another_missing_module_is_not_taken_for_an_extras():
    error = ModuleNotFoundError("No module named 'mine'", name="mine")
    assert missing_extra("emphasis.jax", "jax", error) is error
    first = missing_extra("emphasis.jax", "jax", ModuleNotFoundError(name="jax.numpy"))
    assert isinstance(first, MissingExtraError)
    assert missing_extra("emphasis fit", "fit", first) is first  # named already


ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_extra_is_in_pyproject():
    assert set(EXTRAS) < set(PYPROJECT["project"]["optional-dependencies"])


def _imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def _normalized(name):
    return name.lower().replace("-", "_")


def _installed_with(requirements, seen):
    """Add to `seen` the distributions that are installed with these requirements, and with theirs."""
    for requirement in map(Requirement, requirements):
        name = _normalized(requirement.name)
        if name == "emphasis_learn":
            for extra in requirement.extras:
                _installed_with(PYPROJECT["project"]["optional-dependencies"][extra], seen)
        elif name not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            seen.add(name)
            with contextlib.suppress(PackageNotFoundError):
                _installed_with(requires(requirement.name) or [], seen)
    return seen


def test_types_are_checked_alike_wherever_an_optional_package_is_absent():
    """What `make lint` does not install is among mypy's overrides, so its verdict is the same on every machine."""
    imported = {name for file in (ROOT / "src").rglob("*.py") for name in _imported(file)}
    overridden = {
        module.removesuffix(".*")
        for override in PYPROJECT["tool"]["mypy"]["overrides"]
        for module in override["module"]
        if override.get("ignore_missing_imports")
    }
    installed = _installed_with(["emphasis-learn[lint]"], set())
    distributions = packages_distributions()
    missing = {
        name
        for name in imported - sys.stdlib_module_names - overridden - {"emphasis"}
        if not set(map(_normalized, distributions.get(name, []))) & installed
    }
    assert not missing


def test_importing_emphasis_boosting_needs_numpy_alone():
    program = (
        "import sys, emphasis.boosting; emphasis.boosting.Objective()\n"
        "print(sorted(name for name in ('torch', 'sklearn', 'scipy', 'xgboost', 'lightgbm') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
