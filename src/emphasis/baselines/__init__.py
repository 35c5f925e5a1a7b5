"""The methods that derivative manipulation is compared with, one file each, and one protocol.

from emphasis.baselines import Learner, Problem, make

learner = Learner(make("elr", Problem(labels, num_classes=10)), network)
loss = learner.loss(inputs, indices, progress)
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

from emphasis.baselines.registry import check_options, find, make, names, options_of, source_of
from emphasis.deprecation import warn_renamed

if TYPE_CHECKING:
    from emphasis.baselines.derivative_view import view
    from emphasis.baselines.learner import Learner
    from emphasis.baselines.protocol import Baseline, Epoch, Predictions, Problem, Step
    from emphasis.baselines.video import VideoMethod

__all__ = [
    "Baseline",
    "Epoch",
    "Learner",
    "Predictions",
    "Problem",
    "Step",
    "VideoMethod",
    "check_options",
    "find",
    "make",
    "names",
    "options_of",
    "source_of",
    "view",
]

_HOMES = {"Learner": "learner", "VideoMethod": "video", "view": "derivative_view"}  # others: protocol


def __getattr__(name: str) -> Any:
    # Reading the names of methods and their options must not import torch.
    if name == "Survey":
        warn_renamed(f"{__name__}.Survey", f"{__name__}.Predictions")
        name = "Predictions"
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{__name__}.{_HOMES.get(name, 'protocol')}:{name}")
