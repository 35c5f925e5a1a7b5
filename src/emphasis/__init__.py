"""Train classifiers on labels you cannot trust, by designing how much each example counts.

    from emphasis.torch import EmphasisLoss

    criterion = EmphasisLoss()

Importing `emphasis` imports numpy and nothing heavier; `emphasis.torch` needs the extra `torch`.
"""

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

__version__ = "0.1.0"

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
    "from_dict",
    "from_function",
    "from_loss",
    "scheduled",
]
