"""Train classifiers on labels you cannot trust, by designing how much each example counts.

    from emphasis.torch import EmphasisLoss

    criterion = EmphasisLoss()

Importing `emphasis` imports numpy and nothing heavier; `emphasis.torch` needs the extra `torch`. The functions `audit`,
`fit`, `export`, `tune`, `run`, `search` and `report` import what they need when they are called.
"""

from typing import TYPE_CHECKING, Any

from emphasis.errors import EmphasisError
from emphasis.weighting import (
    AEL,
    AGCE,
    AUL,
    CCE,
    DM,
    GCE,
    IMAE,
    MAE,
    MSE,
    SCE,
    Beta,
    EmphasisWarning,
    Exponential,
    Focal,
    Measured,
    Normal,
    Ramp,
    Relative,
    Spline,
    Taylor,
    Uniform,
    Weighting,
    from_dict,
    from_function,
    from_loss,
    scheduled,
)

if TYPE_CHECKING:
    from emphasis.api import audit, export, fit, report, run, search, tune

    __version__: str

__all__ = [
    "AEL",
    "AGCE",
    "AUL",
    "CCE",
    "DM",
    "GCE",
    "IMAE",
    "MAE",
    "MSE",
    "SCE",
    "Beta",
    "EmphasisError",
    "EmphasisWarning",
    "Exponential",
    "Focal",
    "Measured",
    "Normal",
    "Ramp",
    "Relative",
    "Spline",
    "Taylor",
    "Uniform",
    "Weighting",
    "__version__",
    "audit",
    "export",
    "fit",
    "from_dict",
    "from_function",
    "from_loss",
    "report",
    "run",
    "scheduled",
    "search",
    "tune",
]

_FUNCTIONS = ("audit", "export", "fit", "report", "run", "search", "tune")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _installed_version()
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # the modules that it imports import this one

    return getattr(import_module("emphasis.api"), name)


def _installed_version() -> str:
    from importlib import metadata  # takes longer than the rest of this import

    try:
        return metadata.version("emphasis-learn")
    except metadata.PackageNotFoundError:  # imported from a copy that is not installed
        return "0.0"
