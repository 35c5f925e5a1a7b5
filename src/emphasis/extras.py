"""Optional dependencies: which extra brings which modules, and the one line that is said where one is missing."""

from __future__ import annotations

from emphasis.errors import EmphasisError

_EXPERIMENTS = ("torch", "sklearn", "scipy", "rich", "jinja2", "lightning_fabric", "filelock", "PIL", "matplotlib",
                "plotext")  # fmt: skip
EXTRAS = {
    "torch": ("torch",),
    "jax": ("jax",),
    "sklearn": ("torch", "sklearn"),
    "xgboost": ("xgboost", "sklearn"),
    "lightgbm": ("lightgbm", "sklearn"),
    "catboost": ("catboost", "sklearn"),
    "transformers": ("torch", "transformers"),
    "lightning": ("torch", "lightning"),
    "plot": ("matplotlib", "plotext"),
    "experiments": _EXPERIMENTS,
    "text": ("gensim",),
    "table": ("pandas", "pyarrow", "narwhals", "charset_normalizer"),
    "search": ("optuna", *_EXPERIMENTS),
    "design": ("bokeh", "tornado"),
    "fit": (
        "pandas",
        "pyarrow",
        "narwhals",
        "charset_normalizer",
        "sklearn",
        "xgboost",
        "matplotlib",
        "rich",
        "jinja2",
    ),
}
"""The modules that each extra brings, by the name to import."""


class MissingExtraError(EmphasisError, ModuleNotFoundError):
    """A package of an extra is not installed; the message is one line that names the extra."""


def missing_extra(user: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return what to raise instead of `error`: a `MissingExtraError`, or `error` itself if it is not of the extra.

    Args:
        user: Who needs it, such as "emphasis.jax".
        extra: A key of `EXTRAS`.
        error: From the import that failed.
    """
    module = (error.name or "").partition(".")[0]
    if isinstance(error, MissingExtraError) or module not in EXTRAS[extra]:
        return error
    text = f"{user} needs the extra '{extra}' ({module} is missing): pip install 'emphasis-learn[{extra}]'"
    return MissingExtraError(text, name=error.name)
