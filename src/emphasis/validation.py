"""Checks of arguments and settings: one message for each kind of mistake, "NAME=VALUE is not allowed; use ..."."""

from __future__ import annotations

import math
import numbers

from emphasis.errors import EmphasisTypeError, EmphasisValueError


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, of Python or numpy; truth values are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a real number, of Python or numpy; truth values are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check(holds: bool, name: str, value: object, advice: str) -> None:
    """Check a condition on a value.

    Raises:
        ValueError: It does not hold: "NAME=VALUE is not allowed; ADVICE".
    """
    if not holds:
        raise EmphasisValueError(f"{name}={value!r} is not allowed; {advice}")


def check_range(name: str, value: object, low: float, high: float, *, ends: str = "[]") -> None:
    """Check that a value is a number between `low` and `high`, each end allowed or not: "[]", "[)", "(]" or "()".

    Raises:
        ValueError: It is not, or is NaN; the message names it and what is allowed.
    """
    above = is_number(value) and (value >= low if ends[0] == "[" else value > low)  # type: ignore[operator]
    below = is_number(value) and (value <= high if ends[1] == "]" else value < high)  # type: ignore[operator]
    check(above and below, name, value, f"use a number in {ends[0]}{low:g}, {high:g}{ends[1]}")


def check_whole(name: str, value: object, low: int, high: float = math.inf) -> None:
    """Check that a value is a whole number from `low` to `high`.

    Raises:
        ValueError: It is not; the message names it and what is allowed.
    """
    allowed = f"{low} to {high:g}" if high < math.inf else f"{low} or more"
    holds = is_whole(value) and low <= value <= high  # type: ignore[operator]
    check(holds, name, value, f"use a whole number, {allowed}")


def check_flag(name: str, value: object) -> None:
    """Check that a value is True or False.

    Raises:
        ValueError: It is neither; the message names it.
    """
    check(isinstance(value, bool), name, value, "use true or false")


def checked_integer(name: str, value: object, low: int) -> int:
    """Return a whole number of at least `low` as a Python int.

    Raises:
        TypeError: It is not a whole number.
        ValueError: It is smaller.
    """
    message = f"{name}={value!r} is not allowed; {name} must be an integer >= {low}"
    if not is_whole(value):
        raise EmphasisTypeError(message)
    if value < low:  # type: ignore[operator]
        raise EmphasisValueError(message)
    return int(value)  # type: ignore[call-overload,no-any-return]
