import subprocess
import sys

import pytest

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


def test_every_extra_is_in_pyproject():
    import tomllib
    from pathlib import Path

    content = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert set(EXTRAS) < set(content["project"]["optional-dependencies"])


def test_importing_emphasis_boosting_needs_numpy_alone():
    program = (
        "import sys, emphasis.boosting; emphasis.boosting.Objective()\n"
        "print(sorted(name for name in ('torch', 'sklearn', 'scipy', 'xgboost', 'lightgbm') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
