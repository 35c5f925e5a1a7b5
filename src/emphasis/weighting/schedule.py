"""Schedules: parameters of a weighting that change during training, as functions of its progress.

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
from emphasis.weighting.relative import Relative

STAGES = 100
"""Number of steps of a ramp; the integral and the table of each stage's weighting are computed once."""

Shape = Literal["constant", "linear", "cosine", "step"]


@dataclass(frozen=True, repr=False)
class Ramp:
    """A parameter that changes from `start` to `end` during training, in `STAGES` equal stages.

    With s the progress at the beginning of the stage, the value is start if the shape is "constant",
    start + (end - start) s if it is "linear", start + (end - start) (1 - cos(pi s)) / 2 if it is "cosine", and, if it
    is "step", start for s < until and end for s >= until.

    Args:
        start: Value at the beginning.
        end: Value at the end. Defaults to `start`, which "constant" requires.
        shape: Shape of the change: "constant", "linear", "cosine" or "step".
        until: Progress in (0, 1) at which a "step" changes its value; None for the other shapes.

    Raises:
        ValueError: A number is not finite, or the shape is unknown or does not fit the other arguments.

    Examples:
        >>> from emphasis import Ramp
        >>> [Ramp(0.0, 1.0).at(progress) for progress in (0.0, 0.5, 1.0)]
        [0.0, 0.5, 1.0]
    """

    start: float
    end: float | None = None
    shape: Shape = "linear"
    until: float | None = None

    def __post_init__(self) -> None:
        end = self.start if self.end is None else self.end
        for name, value in (("start", self.start), ("end", end)):
            check(is_finite_number(value), name, value, "use a finite number")
        check_choice("shape", self.shape, get_args(Shape))
        advice = 'a constant ends where it starts: omit it, or use the shape "linear" or "cosine"'
        check(self.shape != "constant" or end == self.start, "end", self.end, advice)
        if self.shape == "step":
            inside = self.until is not None and is_finite_number(self.until) and 0.0 < self.until < 1.0
            check(inside, "until", self.until, "use a number between 0 and 1")
        else:
            check(self.until is None, "until", self.until, 'omit it, or use the shape "step"')
        object.__setattr__(self, "end", end)

    def __repr__(self) -> str:
        until = "" if self.until is None else f", until={self.until!r}"
        return f"Ramp(start={self.start!r}, end={self.end!r}, shape={self.shape!r}{until})"

    def at(self, progress: float) -> float:
        """Return the value at a progress in [0, 1]."""
        s = math.floor(progress * STAGES) / STAGES
        assert self.end is not None
        if self.shape == "constant" or self.end == self.start:
            return self.start
        if self.until is not None:
            return self.start if s < self.until else self.end
        part = s if self.shape == "linear" else (1.0 - math.cos(math.pi * s)) / 2.0
        return self.start + (self.end - self.start) * part


@dataclass(frozen=True)
class Measured:
    """The lam of DM for the noise rate measured during training (`lam_for`); `start` until one has been measured.

    Args:
        start: Value of lam before the first measurement, >= 0.
    """

    start: float = 0.5

    def __post_init__(self) -> None:
        check(is_finite_number(self.start) and self.start >= 0, "start", self.start, "use a finite number >= 0")


Schedule = Mapping[str, Ramp | Measured]
"""Schedules of parameters by name."""

WARM_UP = 0.2
"""Share of the steps that training with `Relative` begins with cross-entropy, where the number of steps is known."""


def default_schedule(weighting: Weighting) -> Schedule:
    """Return the schedule with which estimators train: a warm-up with cross-entropy for `Relative`, else none.

    `Relative` compares labels with the network's own predictions, which are arbitrary at first: an example that has not
    been learned yet looks like one with a wrong label. Its parameter `doubt` reduces this effect if the number of steps
    is unknown; after a warm-up it is not needed, and is 0. Other weightings are not changed, as they depend on p alone.
    docs/defaults.md compares both.

    Args:
        weighting: Weighting of the loss.

    Examples:
        >>> from emphasis import Relative, scheduled
        >>> from emphasis.weighting import default_schedule
        >>> scheduled(Relative(), default_schedule(Relative()), progress=0.1)
        Relative(q=0.0, doubt=0.2)
        >>> scheduled(Relative(), default_schedule(Relative()), progress=0.2)
        Relative(q=1.0, doubt=0.0)
    """
    if not isinstance(weighting, Relative):
        return {}
    return {
        "q": Ramp(0.0, weighting.q, "step", until=WARM_UP),
        "doubt": Ramp(weighting.doubt, 0.0, "step", until=WARM_UP),
    }


def scheduled(weighting: Weighting, schedule: Schedule, progress: float, noise_rate: float | None = None) -> Weighting:
    """Return the weighting at a progress; `weighting` itself if no parameter changes.

    Args:
        weighting: The weighting, whose other parameters are kept.
        schedule: Schedules of parameters by name.
        progress: Share of the steps that have been taken, in [0, 1].
        noise_rate: Latest measured noise rate in [0, 1], rounded to two decimals; None if none has been measured.

    Raises:
        ValueError: `progress` or `noise_rate` is out of range, or the weighting has no such parameter or does not
            allow a value.

    Examples:
        >>> from emphasis import DM, Ramp, scheduled
        >>> scheduled(DM(lam=0.5, beta=8), {"beta": Ramp(0, 8)}, progress=0.25)
        DM(lam=0.5, beta=2.0)
    """
    check_range("progress", progress, 0.0, 1.0)
    current = weighting.parameters()
    unknown = [name for name in schedule if name not in current or isinstance(current[name], bool)]
    if unknown:
        known = ", ".join(name for name, value in current.items() if not isinstance(value, bool))
        raise EmphasisValueError(f"{weighting!r} has no parameter {unknown[0]!r} to schedule; it has {known or 'none'}")
    values: dict[str, Any] = {}
    for name, rule in schedule.items():
        if isinstance(rule, Ramp):
            values[name] = rule.at(progress)
        elif name != "lam":
            raise EmphasisValueError(
                f"{name} cannot follow the measured noise rate, which determines lam only; use a Ramp"
            )
        else:
            values[name] = rule.start if noise_rate is None else round(lam_for(round(noise_rate, 2)), 4)
    changed = {name: value for name, value in values.items() if value != current[name]}
    return dataclasses.replace(weighting, **changed) if changed else weighting  # type: ignore[type-var]


def schedule_from_dict(table: Mapping[str, Any]) -> dict[str, Ramp | Measured]:
    """Return a schedule from tables such as those of a recipe.

    Args:
        table: Settings of the schedules by parameter, such as {"lam": {"start": 0, "end": 1, "shape": "cosine"}} or
            {"lam": {"measured": True, "start": 0.5}}.

    Raises:
        ValueError: A setting is unknown, missing or not allowed.
    """
    schedule: dict[str, Ramp | Measured] = {}
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
        schedule[name] = kind(**values)
    return schedule


def schedule_to_dict(schedule: Schedule) -> dict[str, dict[str, Any]]:
    """Return the dictionary from which `schedule_from_dict` returns the schedule."""
    return {
        name: {key: value for key, value in dataclasses.asdict(rule).items() if value is not None}
        | ({"measured": True} if isinstance(rule, Measured) else {})
        for name, rule in schedule.items()
    }
