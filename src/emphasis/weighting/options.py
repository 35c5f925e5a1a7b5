"""The options that every front end shares, and their checks."""

from __future__ import annotations

from typing import Literal

from emphasis.errors import EmphasisValueError

Normalization = Literal["integral", "batch"] | None
Reduction = Literal["mean", "sum", "none"]

SATURATION = 2.0
"""An unbounded weight stops at exp(-2) of the dtype's largest number, so that sums stay finite."""


def check_options(normalization: Normalization, reduction: Reduction = "mean") -> None:
    """Raise ValueError that names the option which is not allowed, and what is."""
    if normalization not in (None, "integral", "batch"):
        raise EmphasisValueError(f'normalization={normalization!r} is not allowed; use None, "integral" or "batch"')
    if reduction not in ("mean", "sum", "none"):
        raise EmphasisValueError(f'reduction={reduction!r} is not allowed; use "mean", "sum" or "none"')
