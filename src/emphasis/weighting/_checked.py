"""Checks of the parameters of a family."""

from __future__ import annotations

from typing import ClassVar

from emphasis.validation import checked_number


class Checked:
    """Converts the parameters of a frozen dataclass to floats and checks their bounds."""

    _bounds: ClassVar[dict[str, tuple[float, float]]]
    _positive: ClassVar[frozenset[str]] = frozenset()  # the parameters whose lower bound is not allowed itself

    def __post_init__(self) -> None:
        for name, (low, high) in self._bounds.items():
            ends = "(]" if name in self._positive else "[]"
            value = checked_number(type(self).__name__, name, getattr(self, name), low, high, ends=ends)
            object.__setattr__(self, name, value)
