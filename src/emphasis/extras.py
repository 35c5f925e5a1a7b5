"""Optional dependencies: the modules of each extra, and the error that names the extra to install."""

from __future__ import annotations

from importlib.util import find_spec

from emphasis.errors import EmphasisError

_EXPERIMENTS = (
    "torch",
    "sklearn",
    "scipy",
    "rich",
    "jinja2",
    "lightning_fabric",
    "filelock",
    "PIL",
    "matplotlib",
    "plotext",
)
_TABLE = ("pandas", "pyarrow", "narwhals", "charset_normalizer")
EXTRAS = {
    "torch": ("torch",),
    "jax": ("jax",),
    "sklearn": ("torch", "sklearn"),
    "xgboost": ("xgboost", "sklearn"),
    "lightgbm": ("lightgbm", "sklearn"),
    "catboost": ("catboost", "sklearn"),
    "dask": ("dask", "distributed", "xgboost", "sklearn"),
    "transformers": ("torch", "transformers", "accelerate"),
    "trl": ("torch", "transformers", "accelerate", "trl"),
    "lightning": ("torch", "lightning"),
    "plot": ("matplotlib", "plotext"),
    "experiments": _EXPERIMENTS,
    "images": (*_EXPERIMENTS, *_TABLE, "safetensors"),
    "timm": ("timm", "safetensors"),
    "text": ("gensim",),
    "table": _TABLE,
    "ray": ("ray", *_EXPERIMENTS),
    "slurm": ("submitit", *_EXPERIMENTS),
    "tensorboard": ("tensorboard", *_EXPERIMENTS),
    "mlflow": ("mlflow", *_EXPERIMENTS),
    "trackio": ("trackio", *_EXPERIMENTS),
    "wandb": ("wandb", *_EXPERIMENTS),
    "search": ("optuna", *_EXPERIMENTS),
    "design": ("bokeh", "tornado"),
    "completion": ("shtab",),
    "review": (
        "starlette",
        "uvicorn",
        "filelock",
        "PIL",
        "sklearn",
        *_TABLE,
    ),
    "export": ("onnx", "onnxruntime", "onnxmltools", "onnxscript"),
    "fit": (
        *_TABLE,
        "sklearn",
        "xgboost",
        "matplotlib",
        "rich",
        "jinja2",
        "optuna",
        "safetensors",
    ),
}
"""The modules that each extra installs, by their import names."""


class MissingExtraError(EmphasisError, ModuleNotFoundError):
    """A package of an extra is not installed; the message names the extra to install, in one line."""


def require_modules(*names: str) -> None:
    """Check that modules are installed, before long work that imports them at its end.

    Raises:
        ModuleNotFoundError: A module is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def missing_extra(user: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return a `MissingExtraError` to raise instead of `error`, or `error` itself if the extra lacks the module.

    Args:
        user: The module or command that needs the extra, such as "emphasis.jax".
        extra: A key of `EXTRAS`.
        error: The error of the import that failed.
    """
    module = (error.name or "").partition(".")[0]
    if isinstance(error, MissingExtraError) or module not in EXTRAS[extra]:
        return error
    text = f"{user} needs the extra '{extra}' ({module} is missing): {how_to_install(extra)}"
    return MissingExtraError(text, name=error.name)


def how_to_install(*extras: str) -> str:
    """Return the commands that install extras, for an error message: from a checkout, and from a package index."""
    names = ",".join(extras)
    return f"pip install '.[{names}]' in a checkout, 'emphasis-learn[{names}]' from an index"
