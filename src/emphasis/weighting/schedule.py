"""Mode and spread that change while a network learns: parameters of a weighting as functions of progress.

"How to set the emphasis mode and variance adaptively on different datasets and progressively along with training time"
is what "Derivative Manipulation for General Example Weighting" leaves to future work. A schedule names parameters of a
weighting (lam and beta of DM, psi and beta of Normal) and says what each is at a progress t in [0, 1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from emphasis.errors import EmphasisValueError
from emphasis.validation import check, check_choice, check_range, is_finite_number
from emphasis.weighting.base import Weighting
from emphasis.weighting.mode_by_noise import lam_for

STAGES = 100
"""Steps that a ramp has: the integral and table of each stage's weighting are computed once."""

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Ramp:
    """A parameter that goes from `start` to `end` while progress goes from 0 to 1, in `STAGES` equal stages.

    With s the progress at the stage's beginning: constant: start. linear: start + (end - start) s. cosine:
    start + (end - start) (1 - cos(pi s)) / 2, slow at both ends.

    Args:
        start: At the beginning.
        end: What it comes to; None: `start`, which "constant" needs.
        shape: "constant", "linear" or "cosine".

    Raises:
        ValueError: A number is not finite, or the shape is unknown or does not fit the ends.
    """

    start: float
    end: float | None = None
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        end = self.start if self.end is None else self.end
        for name, value in (("start", self.start), ("end", end)):
            check(is_finite_number(value), name, value, "use a finite number")
        check_choice("shape", self.shape, get_args(Shape))
        advice = 'a constant ends where it starts: omit it, or use the shape "linear" or "cosine"'
        check(self.shape != "constant" or end == self.start, "end", self.end, advice)
        object.__setattr__(self, "end", end)

    def at(self, progress: float) -> float:
        """Return the value at a progress in [0, 1]."""
        s = math.floor(progress * STAGES) / STAGES
        assert self.end is not None
        if self.shape == "constant" or self.end == self.start:
            return self.start
        part = s if self.shape == "linear" else (1.0 - math.cos(math.pi * s)) / 2.0
        return self.start + (self.end - self.start) * part


@dataclass(frozen=True)
class Measured:
    """DM's lam by the noise rate as it is measured in training (`lam_for`), and `start` until it has been.

    Args:
        start: lam until then, >= 0.
    """

    start: float = 0.5

    def __post_init__(self) -> None:
        check(is_finite_number(self.start) and self.start >= 0, "start", self.start, "use a finite number >= 0")


Schedule = Mapping[str, Ramp | Measured]
"""For each scheduled parameter, what it does."""


def scheduled(weighting: Weighting, schedule: Schedule, progress: float, noise_rate: float | None = None) -> Weighting:
    """Return the weighting at a progress; `weighting` itself where no parameter differs from its own.

    Args:
        weighting: Whose parameters those are that are not scheduled.
        schedule: What the others do.
        progress: Share of all steps that have been taken, in [0, 1].
        noise_rate: As measured so far, in [0, 1], taken to two decimals; None: not yet.

    Raises:
        ValueError: `progress` or `noise_rate` is out of range, the weighting has no such parameter, or does not allow
            a value.
    """
    check_range("progress", progress, 0.0, 1.0)
    own = weighting.parameters()
    unknown = [name for name in schedule if name not in own or isinstance(own[name], bool)]
    if unknown:
        known = ", ".join(name for name, value in own.items() if not isinstance(value, bool))
        raise EmphasisValueError(f"{weighting!r} has no parameter {unknown[0]!r} to schedule; it has {known or 'none'}")
    values: dict[str, Any] = {}
    for name, what in schedule.items():
        if isinstance(what, Ramp):
            values[name] = what.at(progress)
        elif name != "lam":
            raise EmphasisValueError(
                f"{name} cannot follow the measured noise rate, which says what lam is to be; use a Ramp"
            )
        else:
            values[name] = what.start if noise_rate is None else round(lam_for(round(noise_rate, 2)), 4)
    changed = {name: value for name, value in values.items() if value != own[name]}
    return dataclasses.replace(weighting, **changed) if changed else weighting  # type: ignore[type-var]


def schedule_from_dict(table: Mapping[str, Any]) -> dict[str, Ramp | Measured]:
    """Return a schedule from tables, as a recipe has them.

    Such as {"lam": {"start": 0, "end": 1, "shape": "cosine"}} or {"lam": {"measured": True, "start": 0.5}}.

    Raises:
        ValueError: A table has other keys, or a value is not allowed.
    """
    found: dict[str, Ramp | Measured] = {}
    for name, given in table.items():
        if not isinstance(given, Mapping):
            raise EmphasisValueError(
                f"the schedule of {name} must be a table such as {{ start = 0, end = 1 }}, got {given!r}"
            )
        values = dict(given)
        kind = Measured if values.pop("measured", False) else Ramp
        allowed = [field.name for field in dataclasses.fields(kind)]
        unknown = [key for key in values if key not in allowed]
        if unknown or (kind is Ramp and "start" not in values):
            wrong = f"has no setting {unknown[0]!r}; it takes" if unknown else "needs a start; it takes"
            raise EmphasisValueError(f"the schedule of {name} {wrong} {', '.join(allowed)}")
        found[name] = kind(**values)
    return found


def schedule_to_dict(schedule: Schedule) -> dict[str, dict[str, Any]]:
    """Return plain data that `schedule_from_dict` reads."""
    return {
        name: dataclasses.asdict(what) | ({"measured": True} if isinstance(what, Measured) else {})
        for name, what in schedule.items()
    }
