"""Checks of arguments and settings: one message for each kind of mistake, "NAME=VALUE is not allowed; use ..."."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable

from emphasis.errors import EmphasisTypeError, EmphasisValueError


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, of Python or numpy; truth values are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a real number, of Python or numpy; truth values are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite_number(value: object) -> bool:
    """Return whether a value is a real number that float64 holds, of Python or numpy; truth values are not."""
    try:
        return is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number of hundreds of digits
        return False


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


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Check that a value is one of a few texts.

    Raises:
        ValueError: It is not; the message lists those that are allowed.
    """
    known = tuple(allowed)
    check(isinstance(value, str) and value in known, name, value, f"use one of {', '.join(known)}")


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


def checked_number(
    owner: str, name: str, value: object, low: float = -math.inf, high: float = math.inf, *, ends: str = "[]"
) -> float:
    """Return a finite number between `low` and `high` as a float.

    Args:
        owner: The class or function whose argument it is; the message begins with it.
        name: Name of the argument.
        value: A number, or a text-free object that `float` converts, such as a tensor of one element.
        low: Smallest value.
        high: Largest value.
        ends: Whether `low` and `high` themselves are allowed: "[]", "[)", "(]" or "()".

    Raises:
        TypeError: It is not a number; truth values and texts are not.
        ValueError: It is NaN, infinite or out of range; the message names the value and the range.
    """
    if isinstance(value, (bool, str)):
        raise EmphasisTypeError(f"{owner}: {name} must be a number, got {value!r}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise EmphasisTypeError(f"{owner}: {name} must be a number, got {value!r}") from None
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    above = number >= low if ends[0] == "[" else number > low
    below = number <= high if ends[1] == "]" else number < high
    if not (math.isfinite(number) and above and below):
        allowed = "a finite number"
        if low > -math.inf and high < math.inf:
            allowed = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
        elif low > -math.inf:
            allowed = f"a finite number {'>=' if ends[0] == '[' else '>'} {low:g}"
        elif high < math.inf:
            allowed = f"a finite number {'<=' if ends[1] == ']' else '<'} {high:g}"
        raise EmphasisValueError(f"{owner}: {name}={value!r} is not allowed; {name} must be {allowed}")
    return number
