"""The mathematics of derivative manipulation: weighting functions w(p), their densities, derivatives and losses.

numpy only; no framework is imported here. See `Weighting` for what every family can do.
"""

from emphasis.weighting._numerics import EmphasisWarning
from emphasis.weighting.base import AUTO_MAX_MARGIN, MaxMargin, Scaled, Sum, Weighting, WeightingLike
from emphasis.weighting.bounded import AEL, AGCE, AUL, Taylor
from emphasis.weighting.derivative import derivative, margin_and_direction
from emphasis.weighting.families import DM, IMAE, Beta, Exponential, Normal, Uniform
from emphasis.weighting.function import FunctionWeighting, LossWeighting, from_function, from_loss
from emphasis.weighting.losses import CCE, GCE, MAE, MSE, SCE, Focal
from emphasis.weighting.mode_by_noise import lam_for, mode_for
from emphasis.weighting.relative import Relative
from emphasis.weighting.schedule import Measured, Ramp, default_schedule, scheduled
from emphasis.weighting.serialise import DEFAULT_WEIGHTING, FAMILIES, as_weighting, from_dict
from emphasis.weighting.spline import Spline

__all__ = [
    "AEL",
    "AGCE",
    "AUL",
    "AUTO_MAX_MARGIN",
    "CCE",
    "DEFAULT_WEIGHTING",
    "DM",
    "FAMILIES",
    "GCE",
    "IMAE",
    "MAE",
    "MSE",
    "SCE",
    "Beta",
    "EmphasisWarning",
    "Exponential",
    "Focal",
    "FunctionWeighting",
    "LossWeighting",
    "MaxMargin",
    "Measured",
    "Normal",
    "Ramp",
    "Relative",
    "Scaled",
    "Spline",
    "Sum",
    "Taylor",
    "Uniform",
    "Weighting",
    "WeightingLike",
    "as_weighting",
    "default_schedule",
    "derivative",
    "from_dict",
    "from_function",
    "from_loss",
    "lam_for",
    "margin_and_direction",
    "mode_for",
    "scheduled",
]
